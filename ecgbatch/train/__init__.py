"""Models from labelled ECGs; never imported by the scoring path."""
