"""Figures of scores with 95 % intervals: each one a row of draws, the first of which is the cohort as it is.

The others are cohorts of as many patients, drawn with replacement. Draws of two arms are of the same patients, so that
their difference is a figure too.
"""

from dataclasses import dataclass

import numpy as np

from ecgbatch.train.metrics import interval

__all__ = ["Figure", "auc", "average_precision", "figure", "mean", "resamples", "share"]

DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "–" if np.isnan(self.value) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def figure(draws: np.ndarray) -> Figure:
    """The figure of a row of draws."""
    return Figure(float(draws[0]), *interval(draws[1:]))


def resamples(patients: np.ndarray, *, n_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each record stands in each draw, (1 + draw, record); once in the first."""
    _, patient = np.unique(patients, return_inverse=True)
    n = int(patient.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return np.concatenate([np.ones((1, len(patient))), drawn[:, patient]])


def auc(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): the chance that a positive scores above a negative, ties counting half; NaN where either is absent."""
    positive, negative = _by_score(is_positive, score, weight)
    above = negative.sum(1, keepdims=True) - np.cumsum(negative, axis=1)
    return _ratio((positive * (above + negative / 2)).sum(1), positive.sum(1) * negative.sum(1))


def average_precision(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): precision averaged over the positives, equal scores being called together; NaN without positives."""
    positive, negative = _by_score(is_positive, score, weight)
    hits, called = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    return _ratio((positive * hits / np.maximum(called, 1e-12)).sum(1), positive.sum(1))


def share(is_hit: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): the share of records that are hits; NaN of none."""
    return _ratio(weight @ is_hit.astype(np.float64), weight.sum(1))


def mean(draws: list[np.ndarray]) -> np.ndarray:
    """(draw,): mean of the figures that a draw has; NaN where it has none."""
    each = np.stack(draws)
    n = (~np.isnan(each)).sum(0)
    return np.where(n > 0, np.nansum(each, axis=0) / np.maximum(1, n), np.nan)


def _by_score(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives, and of the negatives, at each score, highest first: (draw, value)."""
    order = np.argsort(-score, kind="stable")
    first = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    positive = np.add.reduceat((weight * is_positive)[:, order], first, axis=1)
    negative = np.add.reduceat((weight * ~is_positive)[:, order], first, axis=1)
    return positive, negative


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
