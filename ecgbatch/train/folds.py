"""Folds by patient: nobody is on two sides of a split, and positives are spread evenly."""

import numpy as np

from ecgbatch.errors import UsageError

__all__ = ["folds", "held_out", "thinned"]


def folds(is_positive: np.ndarray, patients: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """The fold of each record, int (record,) from 0; positive patients are spread evenly.

    Raises:
        UsageError: there are fewer positive or negative patients than folds.
    """
    unique, patient = np.unique(patients, return_inverse=True)
    has_positive = np.bincount(patient, weights=is_positive) > 0
    if (n_least := int(min(has_positive.sum(), (~has_positive).sum()))) < n_folds:
        raise UsageError(f"{n_least} patients of one class, expected at least as many as the {n_folds} folds")
    rng = np.random.default_rng(seed)
    of_patient = np.empty(len(unique), np.int64)
    for side in (has_positive, ~has_positive):
        of_patient[rng.permutation(np.flatnonzero(side))] = np.arange(side.sum()) % n_folds
    return np.asarray(of_patient[patient])


def held_out(is_positive: np.ndarray, patients: np.ndarray, *, parts: int, seed: int) -> np.ndarray:
    """Whether each record is of the patients set aside, bool (record,): one in `parts`, but a positive one at least."""
    unique, patient = np.unique(patients, return_inverse=True)
    has_positive = np.bincount(patient, weights=is_positive) > 0
    rng = np.random.default_rng(seed)
    is_out = np.zeros(len(unique), bool)
    for side in (has_positive, ~has_positive):
        n_out = max(1, round(side.sum() / parts)) if side.sum() > 1 else 0
        is_out[rng.permutation(np.flatnonzero(side))[:n_out]] = True
    return np.asarray(is_out[patient])


def thinned(is_positive: np.ndarray, patients: np.ndarray, *, n_positive: int, seed: int) -> np.ndarray:
    """Whether each record is kept, bool (record,): all of the negative patients, and of so many positive ones.

    A smaller number keeps a part of what a larger one keeps, with the same seed.
    """
    _, patient = np.unique(patients, return_inverse=True)
    has_positive = np.bincount(patient, weights=is_positive) > 0
    is_kept = ~has_positive
    is_kept[np.random.default_rng(seed).permutation(np.flatnonzero(has_positive))[:n_positive]] = True
    return np.asarray(is_kept[patient])
