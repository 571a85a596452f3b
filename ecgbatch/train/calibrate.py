"""Probabilities from logits: probability = sigmoid(slope * logit + intercept), one pair a label.

A label's slope is drawn towards the one slope that suits all labels best, the more so the fewer positives it has: with
very few it has that slope alone. It is positive by construction, so the order of scores and every AUC is kept. There is
no isotonic regression: its steps make ties of scores that were in order, and a bundle's labels.csv could not hold it.
"""

import math
from dataclasses import dataclass

import numpy as np

from ecgbatch.errors import UsageError
from ecgbatch.train import metrics

__all__ = ["YOUDEN", "Rule", "platt", "sigmoid", "thresholds"]

SPREAD = 0.25
"""Standard deviation of the logarithms of the labels' slopes about the common one, assumed before looking."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a label's threshold is chosen: `youden`, or the best with at least that sensitivity or specificity."""

    name: str
    share: float = 0.0

    @classmethod
    def parsed(cls, text: str) -> "Rule":
        """The rule of `youden`, `sensitivity:0.9` or `specificity:0.95`.

        Raises:
            UsageError: it is none of these.
        """
        name, colon, share = text.partition(":")
        try:
            rule = cls(name, float(share) if colon else 0.0)
        except ValueError:
            rule = cls("")
        if (rule.name in ("sensitivity", "specificity") and 0 < rule.share < 1) or rule == cls("youden"):
            return rule
        raise UsageError(f"threshold {text!r}, expected 'youden', 'sensitivity:SHARE' or 'specificity:SHARE'")

    def __str__(self) -> str:
        return f"{self.name}:{self.share:g}" if self.share else self.name

    def threshold(self, is_positive: np.ndarray, probability: np.ndarray) -> float:
        """The probability at and above which (record,) are called."""
        if self.name == "youden":
            return metrics.youden(is_positive, probability)
        return metrics.threshold_at(is_positive, probability, **{self.name: self.share})


YOUDEN = Rule("youden")


def platt(
    is_positive: np.ndarray, logits: np.ndarray, *, has_own_slope: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept (label,) that make (record, label) logits most likely, given the spread of slopes.

    Where `is_positive` is NaN, it is not known and says nothing. A label that has no own slope has the common one.
    """
    is_known = ~np.isnan(is_positive)
    target = _smoothed(is_positive, is_known)
    logits = logits.astype(np.float64)
    common = _common(target, is_known, logits)
    log_slope, intercept = np.full(logits.shape[1], common), _intercepts(target, is_known, logits, common)
    spread = np.full(logits.shape[1], SPREAD) if has_own_slope is None else np.where(has_own_slope, SPREAD, 1e-6)
    for _ in range(100):
        log_slope, intercept, step = _newton(
            target, is_known, logits, log_slope, intercept, common=common, spread=spread
        )
        if step < 1e-9:
            break
    return np.exp(log_slope), intercept


def thresholds(is_positive: np.ndarray, probability: np.ndarray, rule: Rule = YOUDEN) -> np.ndarray:
    """(label,): the threshold of each label of (record, label), of the records where it is known."""
    is_known = ~np.isnan(is_positive)
    each = enumerate(is_known.T)
    return np.array([rule.threshold(is_positive[known, at], probability[known, at]) for at, known in each])


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Without overflow, whatever z."""
    return 0.5 * (1 + np.tanh(z / 2))


def _smoothed(is_positive: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Targets a little short of 0 and 1, as if one more record of each kind were undecided (Platt 1999)."""
    n_positive = (is_positive > 0).sum(0)
    n_negative = is_known.sum(0) - n_positive
    target: np.ndarray = np.where(is_positive > 0, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    return target


def _common(target: np.ndarray, is_known: np.ndarray, logits: np.ndarray) -> float:
    """The logarithm of the slope that suits all labels, by golden section; each has its own intercept."""
    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _cost(target, is_known, logits, left) < _cost(target, is_known, logits, right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _cost(target: np.ndarray, is_known: np.ndarray, logits: np.ndarray, log_slope: float) -> float:
    z = np.exp(log_slope) * logits + _intercepts(target, is_known, logits, log_slope)
    return float(((np.logaddexp(0, z) - target * z) * is_known).sum())


def _intercepts(target: np.ndarray, is_known: np.ndarray, logits: np.ndarray, log_slope: float) -> np.ndarray:
    """The intercept of each label that makes its mean probability its mean target; by bisection, which cannot fail."""
    z = np.exp(log_slope) * logits
    low: np.ndarray = -50 - z.max(0)
    high: np.ndarray = 50 - z.min(0)
    wanted = (target * is_known).sum(0)
    for _ in range(60):
        middle: np.ndarray = (low + high) / 2
        is_low = (sigmoid(z + middle) * is_known).sum(0) < wanted
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return middle


def _newton(
    target: np.ndarray,
    is_known: np.ndarray,
    logits: np.ndarray,
    log_slope: np.ndarray,
    intercept: np.ndarray,
    *,
    common: float,
    spread: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """One damped Gauss-Newton step of every label's two numbers, and the largest change."""
    scaled = np.exp(log_slope) * logits  # the derivative of z to log_slope
    p = sigmoid(scaled + intercept)
    error, weight = (p - target) * is_known, p * (1 - p) * is_known
    gradient_slope = (error * scaled).sum(0) + (log_slope - common) / spread**2
    gradient_intercept = error.sum(0)
    a = (weight * scaled**2).sum(0) + 1 / spread**2
    b = (weight * scaled).sum(0)
    c = weight.sum(0) + 1e-9
    determinant = a * c - b**2
    step_slope = np.clip((c * gradient_slope - b * gradient_intercept) / determinant, -0.5, 0.5)
    step_intercept = np.clip((a * gradient_intercept - b * gradient_slope) / determinant, -2, 2)
    step = max(float(np.abs(step_slope).max()), float(np.abs(step_intercept).max()))
    return log_slope - step_slope, intercept - step_intercept, step
