"""How well scores tell positives from negatives, with 95 % intervals from a bootstrap over patients."""

import numpy as np

from ecgbatch.train.cells import Cells

__all__ = [
    "FEW",
    "JUDGED",
    "auc",
    "average_precision",
    "bootstrap_auc",
    "interval",
    "macro_auc",
    "mean_figure",
    "resamples",
    "share_interval",
    "threshold_at",
    "wilson",
    "youden",
]


JUDGED = 3
"""Positives that a label needs on a side of the split for its AUC there to be stated."""

FEW = 20
"""Positives or negatives under which draws of patients are too much alike for an interval of an AUC to be as wide as it
should be: of an AUC of 0.95 it then holds the truth in 6 of 10 cohorts with 3 positives, in 8 of 10 with 10."""

_MARGIN = 1e-4
"""Of a score: beyond what a probability that a bundle computes in float32 differs by from one in float64."""


def auc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counting half; NaN where either is absent."""
    return float(Cells.of(is_positive, score).auc()[0])


def macro_auc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Mean AUC over the labels of (record, label) with at least `JUDGED` positives; NaN where there is none.

    Where `is_positive` is NaN, it is unknown, and the record does not count for the label.
    """
    known = ~np.isnan(is_positive)
    judged = np.flatnonzero(np.nansum(is_positive, axis=0) >= JUDGED)
    each = [auc(is_positive[known[:, at], at], score[known[:, at], at]) for at in judged]
    each = [one for one in each if not np.isnan(one)]  # a label without negatives
    return float(np.mean(each)) if each else float("nan")


def resamples(patients: np.ndarray, *, n_draws: int, seed: int) -> np.ndarray:
    """How often each record stands in cohorts of as many patients, drawn with replacement: uint8 (draw, record)."""
    _, patient = np.unique(patients, return_inverse=True)
    n_patients = patient.max() + 1
    share, rng = np.full(n_patients, 1 / n_patients), np.random.default_rng(seed)
    weight = np.empty((n_draws, len(patient)), np.uint8)
    for row in weight:
        row[:] = rng.multinomial(n_patients, share)[patient]
    return weight


def bootstrap_auc(
    is_positive: np.ndarray, score: np.ndarray, *, patients: np.ndarray, n_draws: int, seed: int
) -> np.ndarray:
    """(draw, label): AUC of each label of (record, label) in `resamples` of the patients.

    NaN where a draw holds no positive or no negative; where `is_positive` is NaN, the record does not count.
    """
    weight = resamples(patients, n_draws=n_draws, seed=seed)
    each = enumerate((~np.isnan(is_positive)).T)
    draws = [Cells.drawn(is_positive[known, at], score[known, at], weight[:, known]).auc() for at, known in each]
    return np.stack(draws, axis=1)


def mean_figure(draws: np.ndarray) -> np.ndarray:
    """(draw,): mean of the figures that a draw of (draw, figure) has; NaN where it has none."""
    n_judged = (~np.isnan(draws)).sum(1)
    return np.where(n_judged > 0, np.nansum(draws, axis=1) / np.maximum(1, n_judged), np.nan)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the draws; NaN of draws that are all NaN."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def share_interval(draws: np.ndarray, share: float, n_patients: int) -> tuple[float, float]:
    """The central 95 % of the draws of a share, and no less than Wilson's interval of so many patients.

    For draws of few patients are too much alike: where all of three are called, they are in every draw.
    """
    (low, high), (least, most) = interval(draws), wilson(np.array(n_patients), np.array(share))
    return min(low, float(least)), max(high, float(most))


def wilson(n: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share of n (Wilson 1927)."""
    z = 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return middle - half, middle + half


def average_precision(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Precision averaged over the positives, equal scores being called together; NaN without positives."""
    return float(Cells.of(is_positive, score).average_precision()[0])


def youden(is_positive: np.ndarray, score: np.ndarray) -> float:
    """The threshold, between two scores, with the largest sum of sensitivity and specificity.

    0.5 where either class is absent, for then no threshold is better than another.
    """
    cells = Cells.of(is_positive, score)
    if not (cells.positive.any() and cells.negative.any()):
        return 0.5
    sensitivity, false_alarms = cells.shares_called()
    return _between(cells.score, int((sensitivity - false_alarms)[0].argmax()))


def threshold_at(
    is_positive: np.ndarray, score: np.ndarray, *, sensitivity: float = 0.0, specificity: float = 0.0
) -> float:
    """The threshold, between two scores, that gives at least this: the highest for a sensitivity, the lowest else.

    0.5 where either class is absent.
    """
    cells = Cells.of(is_positive, score)
    if not (cells.positive.any() and cells.negative.any()):
        return 0.5
    if sensitivity:
        called = cells.shares_called()[0][0]
        return _between(cells.score, int(np.flatnonzero(called >= sensitivity)[-1]))
    kept = np.flatnonzero(np.cumsum(np.append(0, cells.negative[0]))[:-1] / cells.negative.sum() >= specificity)
    # Nothing is called above the highest score, and then nothing is a false alarm.
    return _between(cells.score, int(kept[0]) if kept.size else len(cells.score))


def _between(score: np.ndarray, at: int) -> float:
    """The threshold that calls from cell `at` on: halfway to the cell below, or a margin beyond the outermost cells."""
    if at == 0:
        return float(score[0] - _MARGIN * abs(score[0]))
    if at == len(score):
        return float(np.nextafter(score[-1] + _MARGIN * abs(score[-1]), np.inf))
    return float((score[at] + score[at - 1]) / 2)
