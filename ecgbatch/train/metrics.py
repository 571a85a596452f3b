"""How well scores tell positives from negatives, with 95 % intervals from a bootstrap over patients."""

import numpy as np

__all__ = ["JUDGED", "auc", "average_precision", "bootstrap_auc", "interval", "macro_auc", "youden"]


JUDGED = 3
"""Positives that a label needs on a side of the split for its AUC there to be stated."""


def auc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counting half; NaN where either is absent."""
    return float(_weighted_auc(is_positive, score, np.ones((1, len(score))))[0])


def macro_auc(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Mean AUC over the labels of (record, label) with at least `JUDGED` positives; NaN where there is none.

    Where `is_positive` is NaN, it is unknown, and the record does not count for the label.
    """
    known = ~np.isnan(is_positive)
    judged = np.flatnonzero(np.nansum(is_positive, axis=0) >= JUDGED)
    each = [auc(is_positive[known[:, at], at], score[known[:, at], at]) for at in judged]
    each = [one for one in each if not np.isnan(one)]  # a label without negatives
    return float(np.mean(each)) if each else float("nan")


def bootstrap_auc(
    is_positive: np.ndarray, score: np.ndarray, *, patients: np.ndarray, n_draws: int, seed: int
) -> np.ndarray:
    """(draw, label): AUC of each label of (record, label) in cohorts of as many patients, drawn with replacement.

    NaN where a draw holds no positive or no negative; where `is_positive` is NaN, the record does not count.
    """
    _, patient = np.unique(patients, return_inverse=True)
    n_patients = patient.max() + 1
    drawn = np.random.default_rng(seed).multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_draws)
    weight = drawn[:, patient].astype(np.float64)  # (draw, record)
    known = ~np.isnan(is_positive)
    labels = [(known[:, at], at) for at in range(is_positive.shape[1])]
    draws = [_weighted_auc(is_positive[at], score[at], weight[:, at[0]]) for at in labels]
    return np.stack(draws, axis=1)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the draws; NaN of draws that are all NaN."""
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def average_precision(is_positive: np.ndarray, score: np.ndarray) -> float:
    """Precision averaged over the positives, equal scores being called together; NaN without positives."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(is_positive[order].astype(bool))
    last = np.append(np.diff(score[order]) != 0, True)  # the last of each run of equal scores
    precision = hits[last] / (np.flatnonzero(last) + 1)
    gained = np.diff(hits[last], prepend=0)
    return float((precision * gained).sum() / hits[-1]) if hits[-1] else float("nan")


def youden(is_positive: np.ndarray, score: np.ndarray) -> float:
    """The threshold, between two scores, with the largest sum of sensitivity and specificity.

    0.5 where either class is absent, for then no threshold is better than another.
    """
    is_positive = is_positive.astype(bool)
    if is_positive.all() or not is_positive.any():
        return 0.5
    values, at = np.unique(score, return_inverse=True)
    positives = np.bincount(at[is_positive], minlength=len(values))
    negatives = np.bincount(at[~is_positive], minlength=len(values))
    called = positives[::-1].cumsum()[::-1] / positives.sum() - negatives[::-1].cumsum()[::-1] / negatives.sum()
    best = int(called.argmax())
    return float((values[best] + values[max(best - 1, 0)]) / 2)


def _weighted_auc(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): AUC with each record counted as often as (draw, record) says."""
    values, at = np.unique(score, return_inverse=True)
    order = np.argsort(at, kind="stable")
    first = np.searchsorted(at[order], np.arange(len(values)))
    positive = np.add.reduceat((weight * is_positive)[:, order], first, axis=1)  # (draw, value)
    negative = np.add.reduceat((weight * (1 - is_positive))[:, order], first, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (positive * (below + negative / 2)).sum(1) / np.where(pairs > 0, pairs, 1), np.nan)
