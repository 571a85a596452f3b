"""What is shown of a run on the way."""

from time import monotonic

import pytest

from ecgbatch import progress
from ecgbatch.tally import Tally


def test_the_rate_and_the_time_left_do_not_count_the_time_of_planning(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    with progress.shown("scoring") as observe:  # which begins before the plan is made
        tally = Tally("cpu openvino fp32")
        tally.begin(1_000_000, {"scored": 2_000, "rejected": 0, "duplicate": 0})
        tally.begun_at_s = monotonic() - 10
        tally.n_scored += 50_000
        observe(tally)

    done, _, rate, left = capsys.readouterr().err.strip().split(" · ")
    assert done == "52 000 of 1 000 000"
    assert int(rate.removesuffix(" ECG/s").replace(" ", "")) == pytest.approx(5000, rel=0.1)
    assert int(left.removesuffix(" s left")) == pytest.approx(190, rel=0.1)
