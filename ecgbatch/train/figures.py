"""Figures of scores with 95 % intervals: each one a row of draws, the first of which is the cohort as it is.

The others are cohorts of as many patients, drawn with replacement. Draws of two arms are of the same patients, so that
their difference is a figure too.
"""

from dataclasses import dataclass

import numpy as np

from ecgbatch.train import metrics
from ecgbatch.train.cells import Cells

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
    return Figure(float(draws[0]), *metrics.interval(draws[1:]))


def resamples(patients: np.ndarray, *, n_draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each record stands in each draw, (1 + draw, record); once in the first."""
    drawn = metrics.resamples(patients, n_draws=n_draws, seed=seed)
    return np.concatenate([np.ones_like(drawn[:1]), drawn])


def auc(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): `Cells.auc`; NaN where a draw holds no positive or no negative."""
    return Cells.drawn(is_positive, score, weight, is_exact=True).auc()


def average_precision(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): `Cells.average_precision`; NaN where a draw holds no positive."""
    return Cells.drawn(is_positive, score, weight, is_exact=True).average_precision()


def share(is_hit: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): the share of records that are hits; NaN of none."""
    n = weight.sum(1, dtype=np.float64)
    return (weight @ is_hit.astype(np.float64)) / np.where(n > 0, n, np.nan)


def mean(draws: list[np.ndarray]) -> np.ndarray:
    """(draw,): mean of the figures that a draw has; NaN where it has none."""
    return metrics.mean_figure(np.stack(draws, axis=1))
