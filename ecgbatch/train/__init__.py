"""Models from labelled ECGs; never imported by the scoring path."""

import os

# Usage statistics have no place beside health data: ONNX Runtime writes some into the home folder when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
