"""A linear probe: logistic regression with a quadratic penalty on embeddings.

The penalty acts on the weights of standardised features and is chosen by a cross-validation by patient of its own.
"""

from dataclasses import dataclass

import numpy as np

from ecgbatch.train.folds import folds

__all__ = ["PENALTIES", "Probe", "chosen", "fit", "out_of_fold"]

PENALTIES = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
"""To choose from; half of it weighs each squared weight of a standardised feature."""
N_FOLDS = 5
N_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """logit = features @ weights + intercept."""

    weights: np.ndarray
    """float64 (feature,), for features as they are."""
    intercept: float
    penalty: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float64 (record,) of features (record, feature)."""
        z: np.ndarray = features.astype(np.float64) @ self.weights + self.intercept
        return z


def chosen(features: np.ndarray, is_positive: np.ndarray, patients: np.ndarray, *, seed: int) -> Probe:
    """The probe under the penalty that makes held-out patients likeliest; the largest one where there are too few."""
    n_folds = min(N_FOLDS, *(len(set(patients[is_positive == side])) for side in (False, True)))
    penalty = PENALTIES[0]
    if n_folds > 1:
        fold = folds(is_positive, patients, n_folds=n_folds, seed=seed)
        penalty = PENALTIES[int(np.argmin(_surprise(features, is_positive, fold, n_folds)))]
    return fit(features, is_positive, penalty)


def out_of_fold(
    features: np.ndarray, is_positive: np.ndarray, patients: np.ndarray, *, penalty: float, seed: int
) -> np.ndarray:
    """float64 (record,): what probes under this penalty say of patients that they have not seen.

    Of all patients there must be `N_FOLDS` in either class, or as many folds are made as there are.
    """
    n_folds = min(N_FOLDS, *(len(set(patients[is_positive == side])) for side in (False, True)))
    if n_folds < 2:
        return fit(features, is_positive, penalty).logits(features)
    fold = folds(is_positive, patients, n_folds=n_folds, seed=seed)
    logits = np.empty(len(is_positive))
    for at in range(n_folds):
        seen = fold != at
        logits[~seen] = fit(features[seen], is_positive[seen], penalty).logits(features[~seen])
    return logits


def fit(features: np.ndarray, is_positive: np.ndarray, penalty: float) -> Probe:
    """The probe that makes (record, feature) and (record,) likeliest under one penalty; by Newton's method."""
    return _path(features, is_positive, (penalty,))[0]


def _surprise(features: np.ndarray, is_positive: np.ndarray, fold: np.ndarray, n_folds: int) -> np.ndarray:
    """(penalty,): negative log-likelihood of each record under probes that have not seen its patient."""
    total = np.zeros(len(PENALTIES))
    for at in range(n_folds):
        seen = fold != at
        for k, probe in enumerate(_path(features[seen], is_positive[seen], PENALTIES)):
            z = probe.logits(features[~seen])
            total[k] += np.logaddexp(0, np.where(is_positive[~seen], -z, z)).sum()
    return total


def _path(features: np.ndarray, is_positive: np.ndarray, penalties: tuple[float, ...]) -> list[Probe]:
    """A probe for each penalty, each begun where the one before ended."""
    features = features.astype(np.float64)
    mean, sd = features.mean(0), features.std(0)
    sd = np.where(sd > 1e-9 * np.maximum(1, np.abs(mean)), sd, np.inf)  # what never changes weighs nothing
    x = np.column_stack([(features - mean) / sd, np.ones(len(features))])
    share = (is_positive.sum() + 0.5) / (len(is_positive) + 1)
    weights = np.zeros(x.shape[1])
    weights[-1] = np.log(share / (1 - share))
    probes = []
    for penalty in penalties:
        weights = _newton(x, is_positive.astype(np.float64), weights, penalty)
        own = weights[:-1] / sd
        probes.append(Probe(weights=own, intercept=float(weights[-1] - own @ mean), penalty=penalty))
    return probes


def _newton(x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float) -> np.ndarray:
    """The minimum of the penalised cross-entropy; the last column of x is the intercept's, which is not penalised."""
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 1e-9
    cost = _cost(x, y, weights, ridge)
    for _ in range(N_STEPS):
        p = 0.5 * (1 + np.tanh(x @ weights / 2))
        gradient = x.T @ (p - y) + ridge * weights
        hessian = (x.T * (p * (1 - p))) @ x
        hessian[np.diag_indices_from(hessian)] += ridge
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (new := _cost(x, y, weights - size * step, ridge)) > cost and size > 1e-6:
            size /= 2  # a full step may overshoot where classes are separable
        weights, gained, cost = weights - size * step, cost - new, new
        if np.abs(step).max() < 1e-8 or gained < 1e-12 * (1 + abs(cost)):
            break
    return weights


def _cost(x: np.ndarray, y: np.ndarray, weights: np.ndarray, ridge: np.ndarray) -> float:
    z = x @ weights
    return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * (ridge * weights**2).sum())
