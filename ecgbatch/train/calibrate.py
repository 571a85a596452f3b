"""Probabilities from logits: probability = sigmoid(slope * logit + intercept), one pair a label.

A label's slope is drawn towards the one slope that suits all labels best, the more so the fewer positives it has;
it is positive by construction, so the order of scores is kept.
"""

import numpy as np

from ecgbatch.train import metrics

__all__ = ["platt", "thresholds"]

SPREAD = 0.25
"""Standard deviation of the logarithms of the labels' slopes about the common one, assumed before looking."""


def platt(is_positive: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept (label,) that make (record, label) logits most likely, given the spread of slopes.

    Where `is_positive` is NaN, it is unknown, and the record does not count for the label.
    """
    target = _smoothed(is_positive)
    logits = logits.astype(np.float64)
    common = _common(target, logits)
    log_slope, intercept = np.full(logits.shape[1], common), _intercepts(target, logits, common)
    for _ in range(100):
        log_slope, intercept, step = _newton(target, logits, log_slope, intercept, common)
        if step < 1e-9:
            break
    return np.exp(log_slope), intercept


def thresholds(is_positive: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(label,): the probability with the largest sum of sensitivity and specificity over the known records."""
    known = [(~np.isnan(is_positive[:, at]), at) for at in range(probability.shape[1])]
    return np.array([metrics.youden(is_positive[at], probability[at]) for at in known])


def _smoothed(is_positive: np.ndarray) -> np.ndarray:
    """Targets a little short of 0 and 1, as if one more record of each kind were undecided (Platt 1999); or NaN."""
    n_positive, n_negative = (is_positive == 1).sum(0), (is_positive == 0).sum(0)
    target = np.where(is_positive > 0, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    return np.where(np.isnan(is_positive), np.nan, target)


def _common(target: np.ndarray, logits: np.ndarray) -> float:
    """The logarithm of the slope that suits all labels, by golden section; each has its own intercept."""
    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _cost(target, logits, left) < _cost(target, logits, right):
            high = right
        else:
            low = left
    return float((low + high) / 2)


def _cost(target: np.ndarray, logits: np.ndarray, log_slope: float) -> float:
    z = np.exp(log_slope) * logits + _intercepts(target, logits, log_slope)
    return float(np.nansum(np.logaddexp(0, z) - target * z))


def _intercepts(target: np.ndarray, logits: np.ndarray, log_slope: float) -> np.ndarray:
    """The intercept of each label that makes its mean probability its mean target; by bisection, which cannot fail."""
    z = np.exp(log_slope) * logits
    known = ~np.isnan(target)
    low: np.ndarray = -50 - z.max(0)
    high: np.ndarray = 50 - z.min(0)
    for _ in range(60):
        middle: np.ndarray = (low + high) / 2
        is_low = (known * _sigmoid(z + middle)).sum(0) < np.nansum(target, axis=0)
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return middle


def _newton(
    target: np.ndarray, logits: np.ndarray, log_slope: np.ndarray, intercept: np.ndarray, common: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """One damped Gauss-Newton step of every label's two numbers, and the largest change."""
    scaled = np.exp(log_slope) * logits  # the derivative of z to log_slope
    p = _sigmoid(scaled + intercept)
    is_known = ~np.isnan(target)
    error, weight = np.nan_to_num(p - target), is_known * p * (1 - p)
    gradient_slope = (error * scaled).sum(0) + (log_slope - common) / SPREAD**2
    gradient_intercept = error.sum(0)
    a = (weight * scaled**2).sum(0) + 1 / SPREAD**2
    b = (weight * scaled).sum(0)
    c = weight.sum(0) + 1e-9
    determinant = a * c - b**2
    step_slope = np.clip((c * gradient_slope - b * gradient_intercept) / determinant, -0.5, 0.5)
    step_intercept = np.clip((a * gradient_intercept - b * gradient_slope) / determinant, -2, 2)
    step = max(float(np.abs(step_slope).max()), float(np.abs(step_intercept).max()))
    return log_slope - step_slope, intercept - step_intercept, step


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))
