"""Which records train a model, which choose, and which report: by patient, with rare labels on every side."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.train.cohort import Cohort

__all__ = ["SHARES", "SIDES", "Split", "by_folds", "folds", "once", "stratified"]

SIDES = ("train", "choose", "report")
SHARES = (0.7, 0.15, 0.15)
"""Of the records, for each side, where the cohort has no folds."""
_FOLDS = re.compile(r"\d+(-\d+)?")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The side of each record of a cohort; no patient is on two."""

    cohort: Cohort
    side: np.ndarray
    """str (record,): one of `SIDES`, or empty for a record that is not used."""

    def __post_init__(self) -> None:
        for side in SIDES:
            if not (self.side == side).any():
                raise UsageError(f"cohort: no record is left to {side}, expected some for each side of the split")
        _, patient = np.unique(self.cohort.patients, return_inverse=True)
        sides = [np.unique(patient[self.side == side]) for side in SIDES]
        _, n_sides = np.unique(np.concatenate(sides), return_counts=True)
        if n_leaks := int((n_sides > 1).sum()):
            raise UsageError(f"cohort: {n_leaks} patients lie on two sides of the split, expected none")

    def of(self, side: str) -> Cohort:
        """The records of one side."""
        return self.cohort.only(np.flatnonzero(self.side == side))

    @property
    def sha256(self) -> str:
        """Of what `write` writes."""
        digest = hashlib.sha256()
        for row in self._table().iter_rows():
            digest.update("\0".join(row).encode(errors="surrogateescape") + b"\n")
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write record_id, patient and side of each record; a kill leaves the whole file or none.

        Raises:
            OutputError: the disk is full or not writable.
        """
        with files.writing(path), files.replaced(path) as partial:
            self._table().write_parquet(partial)

    def _table(self) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "record_id": self.cohort.record_ids.astype(str),
                "patient": _hashed(self.cohort.patients),
                "side": self.side.astype(str),
            }
        )


def stratified(cohort: Cohort, *, seed: int) -> np.ndarray:
    """The side of each record: whole patients go, rarest label first, where most positives of it are wanting.

    Sechidis et al., On the stratification of multi-label data (2011), with patients for examples.
    """
    _, patient = np.unique(cohort.patients, return_inverse=True)
    n_patients = int(patient.max()) + 1
    weight = np.zeros((n_patients, len(cohort.codes) + 1))  # positives of each label, then records
    np.add.at(weight[:, :-1], patient, np.nan_to_num(cohort.targets))
    weight[:, -1] = np.bincount(patient)
    order = np.random.default_rng(seed).permutation(n_patients)
    side = np.full(n_patients, -1)
    wanting = np.outer(SHARES, weight.sum(axis=0))
    left = weight.sum(axis=0)
    while (side < 0).any():
        rarest = int(np.where(left[:-1] > 0, left[:-1], np.inf).argmin()) if (left[:-1] > 0).any() else -1
        for one in order[(side[order] < 0) & (weight[order, rarest] > 0)]:
            side[one] = np.lexsort((wanting[:, -1], wanting[:, rarest]))[-1]
            wanting[side[one]] -= weight[one]
            left -= weight[one]
    return np.array(SIDES)[side[patient]]


def by_folds(cohort: Cohort, given: str | None = None) -> np.ndarray:
    """The side of each record by the cohort's folds: the last one reports, the last but one chooses.

    `given` says it otherwise: `1-7/8/9` are the folds that train, choose and report. A fold of no side is not used.

    Raises:
        UsageError: the cohort has no folds, or `given` makes no sense.
    """
    if cohort.folds is None:
        raise UsageError("cohort: has no folds, expected some; leave --folds off for a split by patient")
    present = sorted(set(cohort.folds.tolist()))
    sides = folds(given) if given else {"train": present[:-2], "choose": present[-2:-1], "report": present[-1:]}
    side = np.full(len(cohort), "", "U6")
    for name, numbers in sides.items():
        side[np.isin(cohort.folds, list(numbers))] = name
    return side


def once(side: np.ndarray, waveforms: np.ndarray) -> np.ndarray:
    """The side of each record, of none where its waveform (record,) stands on a later side too."""
    _, waveform = np.unique(waveforms, return_inverse=True)
    rank = np.array([SIDES.index(one) if one else -1 for one in side.tolist()])
    last = np.full(waveform.max(initial=0) + 1, -1)
    np.maximum.at(last, waveform, rank)
    return np.where(rank < last[waveform], "", side)


def folds(given: str) -> Mapping[str, list[int]]:
    """The folds of each side as `1-7/8/9` or `1,2,3/4/5` says.

    Raises:
        UsageError: it is not of this form, or names a fold twice.
    """
    sides = [part.split(",") for part in given.split("/")]
    if len(sides) != len(SIDES) or not all(_FOLDS.fullmatch(one) for side in sides for one in side):
        raise UsageError(f"folds {given!r}, expected those that train, choose and report, such as '1-7/8/9'")
    numbers = [[fold for one in side for fold in _range(one)] for side in sides]
    if len(flat := [fold for side in numbers for fold in side]) != len(set(flat)):
        raise UsageError(f"folds {given!r}, expected every fold on one side only")
    return dict(zip(SIDES, numbers, strict=True))


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _hashed(patients: np.ndarray) -> list[str]:
    """64 bits for each patient, from which only who has the whole list of them could tell the number."""
    names, patient = np.unique(patients.astype(str), return_inverse=True)
    key = hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).digest()
    hashes = [hmac.digest(key, name.encode(errors="surrogateescape"), "sha256")[:8].hex() for name in names]
    return [hashes[at] for at in patient]
