"""The scores of one label gathered into cells of like scores: what every figure of it is computed from.

A cell holds one score, so the figures are exact; in resamples of many records it holds neighbouring scores, and their
mean stands for them. The draws of a bootstrap differ in the weights of the cells alone.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["BINS", "Cells", "logits"]

MOST = 512
"""Cells of resamples: half of them hold equal numbers of positives, half equal numbers of records."""
BINS = 10
"""Of the calibration error, of equal numbers of records."""
_STEEPEST = 20.0
"""A calibration slope or intercept beyond ± this is not followed further."""
_STEPS, _HALVINGS, _CLOSE = 50, 30, 1e-5
"""Of Newton's method: the most, the most of one of them, and the largest after which a draw needs no other."""
_COARSE = 128
"""Cells of equal width that logits of many draws are gathered into for a regression."""


@dataclass(frozen=True)
class Cells:
    """Weights of one label's records by score."""

    score: np.ndarray
    """float64 (cell,), growing."""
    positive: np.ndarray
    """float64 (draw, cell)"""
    negative: np.ndarray
    """float64 (draw, cell)"""
    bin: np.ndarray
    """int (cell,): which of `BINS` bins of equal numbers of records, in the order of scores."""

    @classmethod
    def of(cls, is_positive: np.ndarray, score: np.ndarray) -> "Cells":
        """The records themselves, as one draw."""
        values, at = np.unique(score, return_inverse=True)
        return cls._gathered(values.astype(np.float64), at, is_positive, np.ones((1, len(score)), np.uint8))

    @classmethod
    def drawn(
        cls,
        is_positive: np.ndarray,
        score: np.ndarray,
        weight: np.ndarray,
        *,
        edge: float = np.inf,
        is_exact: bool = False,
    ) -> "Cells":
        """Resamples that hold each record as often as (draw, record) says; no cell lies on both sides of `edge`."""
        values, at = np.unique(score, return_inverse=True)
        if len(values) > MOST and not is_exact:
            edges = _edges(is_positive, score, edge)
            at = np.searchsorted(edges, score, side="right")
            _, at = np.unique(at, return_inverse=True)
            values = np.bincount(at, weights=score) / np.bincount(at)
        return cls._gathered(values.astype(np.float64), at, is_positive, weight)

    @classmethod
    def _gathered(cls, score: np.ndarray, at: np.ndarray, is_positive: np.ndarray, weight: np.ndarray) -> "Cells":
        n_cells = len(score)
        side = at + n_cells * (is_positive > 0)
        counts = np.stack([np.bincount(side, weights=row, minlength=2 * n_cells) for row in weight])
        rank = np.bincount(at, minlength=n_cells).cumsum() - 1
        positive, negative = (np.ascontiguousarray(half) for half in (counts[:, n_cells:], counts[:, :n_cells]))
        return cls(score, positive, negative, rank * BINS // len(at))

    @cached_property
    def _n(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight of all positives and of all negatives, (draw,); NaN for none."""
        sums = self.positive.sum(1), self.negative.sum(1)
        return np.where(sums[0] > 0, sums[0], np.nan), np.where(sums[1] > 0, sums[1], np.nan)

    def auc(self) -> np.ndarray:
        """(draw,): the chance that a positive scores above a negative, ties counting half."""
        n_positive, n_negative = self._n
        below = np.cumsum(self.negative, axis=1) - self.negative / 2
        return np.einsum("ij,ij->i", self.positive, below) / (n_positive * n_negative)

    def average_precision(self) -> np.ndarray:
        """(draw,): precision averaged over the positives, equal scores being called together."""
        hits = np.cumsum(self.positive[:, ::-1], axis=1)
        called = hits + np.cumsum(self.negative[:, ::-1], axis=1)
        gained = self.positive[:, ::-1]
        return (gained * hits / np.maximum(called, 1)).sum(1) / self._n[0]

    def shares_called(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the positives and of the negatives, the share that a threshold at each cell calls: (draw, cell)."""
        positive = np.cumsum(self.positive[:, ::-1], axis=1)[:, ::-1] / self._n[0][:, None]
        negative = np.cumsum(self.negative[:, ::-1], axis=1)[:, ::-1] / self._n[1][:, None]
        return positive, negative

    def sensitivity(self, threshold: float) -> np.ndarray:
        """(draw,): share of the positives at and above a threshold."""
        return self.positive[:, self.score >= threshold].sum(1) / self._n[0]

    def specificity(self, threshold: float) -> np.ndarray:
        """(draw,): share of the negatives below a threshold."""
        return self.negative[:, self.score < threshold].sum(1) / self._n[1]

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """(draw,): the largest sensitivity of a threshold with at least this specificity."""
        called, false_alarms = self.shares_called()
        return np.where(1 - false_alarms >= specificity, called, 0).max(1) + 0 * self._n[0]

    def brier(self) -> np.ndarray:
        """(draw,): mean squared difference of score and truth."""
        total = self.positive @ (1 - self.score) ** 2 + self.negative @ self.score**2
        return total / (self.positive.sum(1) + self.negative.sum(1))

    def brier_skill(self) -> np.ndarray:
        """(draw,): 1 - Brier score / that of always saying the frequency."""
        n_positive, n_negative = self._n
        frequency = n_positive / (n_positive + n_negative)
        return 1 - self.brier() / (frequency * (1 - frequency))

    def calibration_error(self) -> np.ndarray:
        """(draw,): mean difference, without its sign, of the mean score and the frequency in bins of records."""
        excess = self._by_bin(self.positive - (self.positive + self.negative) * self.score)
        return np.abs(excess).sum(1) / (self.positive.sum(1) + self.negative.sum(1))

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, mean score and frequency of the first draw in each bin that holds any: (bin,)."""
        weight = (self.positive + self.negative)[:1]
        n, total, positive = (self._by_bin(part)[0] for part in (weight, weight * self.score, self.positive[:1]))
        return n[n > 0], total[n > 0] / n[n > 0], positive[n > 0] / n[n > 0]

    def _by_bin(self, value: np.ndarray) -> np.ndarray:
        first = np.flatnonzero(np.diff(self.bin, prepend=-1))
        return np.add.reduceat(value, first, axis=1)

    def calibration_slope(self) -> np.ndarray:
        """(draw,): slope of the logistic regression of truth on the score's logit; less than 1 is too bold.

        ± `_STEEPEST` where a score parts positives from negatives, for then no slope is too steep; NaN of one score.
        """
        rises, falls = self._is_parted()
        slope = np.where(rises, _STEEPEST, np.where(falls, -_STEEPEST, self._regression(~(rises | falls))[0]))
        return np.where(rises & falls, np.nan, slope) + self._nothing

    def calibration_intercept(self) -> np.ndarray:
        """(draw,): calibration in the large, the logit that scores lack or, where negative, have too much of."""
        return self._regression(np.ones(len(self.positive), bool), has_slope=False)[1] + self._nothing

    @property
    def _nothing(self) -> np.ndarray:
        """(draw,): 0, or NaN where either class is absent."""
        return 0 * self._n[0] * self._n[1]

    def _is_parted(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether no positive scores below a negative, and whether none scores above one: (draw,) each."""
        (first_positive, last_positive), (first_negative, last_negative) = map(_ends, (self.positive, self.negative))
        return first_positive >= last_negative, last_positive <= first_negative

    def _regression(self, is_asked: np.ndarray, *, has_slope: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Slope and intercept (draw,) of the draws asked for, by Newton's method; the slope is 1 unless it `has` one.

        A step that makes the data less likely is halved: a full one goes astray where scores nearly part the classes.
        """
        x, positive, weight = self._by_logit()
        centre = float(np.median(x))  # nearly independent parameters converge in a few steps
        x = x - centre
        slope, level = np.ones(len(weight)), np.full(len(weight), centre)
        going = np.flatnonzero(is_asked & self.positive.any(1) & self.negative.any(1))
        for _ in range(_STEPS):
            z = slope[going, None] * x + level[going, None]
            step, step_level = _newton(x, z, positive[going], weight[going], has_slope=has_slope)
            direction = step[:, None] * x + step_level[:, None]
            size = _lengths(z, direction, positive[going], weight[going])
            slope[going] = np.clip(slope[going] - size * step, -_STEEPEST, _STEEPEST)
            level[going] -= size * step_level
            going = going[np.maximum(np.abs(step), np.abs(step_level)) > _CLOSE]
            if not going.size:
                break
        return slope, np.clip(level - slope * centre, -_STEEPEST, _STEEPEST)

    def _by_logit(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits, and weights of positives and of all; of many draws in few cells, as narrow as not to matter."""
        x, weight = logits(self.score), self.positive + self.negative
        if len(weight) == 1 or len(x) <= _COARSE:
            return x, self.positive, weight
        part = np.floor((x - x[0]) / (x[-1] - x[0]) * _COARSE)
        first = np.flatnonzero(np.diff(part, prepend=-1))
        mean = np.add.reduceat(x, first) / np.diff(first, append=len(x))
        return mean, np.add.reduceat(self.positive, first, axis=1), np.add.reduceat(weight, first, axis=1)


def logits(probability: np.ndarray) -> np.ndarray:
    """float64 logits of float32 probabilities; of 0 and 1, those of the nearest numbers that are neither."""
    p = probability.astype(np.float64)
    least, most = 2.0**-150, 1 - 2.0**-25
    p = np.clip(p, least, most)
    return np.log(p) - np.log1p(-p)


def _newton(
    x: np.ndarray, z: np.ndarray, positive: np.ndarray, weight: np.ndarray, *, has_slope: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Damped steps (draw,) of the slope on x (cell,) and of the level, where the logits are z (draw, cell)."""
    p = 0.5 * (1 + np.tanh(z / 2))
    error, curve = weight * p - positive, weight * p * (1 - p)
    g_level, c_level = error.sum(1), curve.sum(1) + 1e-9
    if not has_slope:
        return np.zeros(len(z)), np.clip(g_level / c_level, -3, 3)
    g_slope, c_both, c_slope = error @ x, curve @ x, curve @ x**2 + 1e-9
    determinant = np.maximum(c_slope * c_level - c_both**2, 1e-12)
    step = (c_level * g_slope - c_both * g_level) / determinant
    step_level = (c_slope * g_level - c_both * g_slope) / determinant
    damped = np.maximum(1, np.maximum(np.abs(step), np.abs(step_level) / 3))  # both alike: it still leads downhill
    return step / damped, step_level / damped


def _lengths(z: np.ndarray, direction: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): what share of each step leaves the data no less likely; at last none."""
    size = np.ones(len(z))
    cost = _cost(z, positive, weight)
    for _ in range(_HALVINGS):
        is_worse = _cost(z - size[:, None] * direction, positive, weight) > cost * (1 + 1e-12)
        if not is_worse.any():
            break
        size[is_worse] /= 2
    return size


def _cost(z: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(draw,): negative log-likelihood of logits."""
    total: np.ndarray = (weight * np.logaddexp(0, z) - positive * z).sum(1)
    return total


def _ends(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last cell of each draw that holds any: (draw,) each."""
    is_any = weight > 0
    return is_any.argmax(1), weight.shape[1] - 1 - is_any[:, ::-1].argmax(1)


def _edges(is_positive: np.ndarray, score: np.ndarray, edge: float) -> np.ndarray:
    """Where cells begin, (edge,)."""
    share = np.linspace(0, 1, MOST // 2)
    positives = score[is_positive > 0]
    each = [np.quantile(part, share) for part in (score, positives) if len(part)]
    return np.unique(np.concatenate([*each, [edge]]))
