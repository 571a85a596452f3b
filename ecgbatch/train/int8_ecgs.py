"""ECGs that an int8 graph is calibrated on, and others that it is verified on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgbatch import remote
from ecgbatch.bundle import Bundle, InputSpec
from ecgbatch.errors import RecordError, UsageError
from ecgbatch.feed import host
from ecgbatch.record import Reject
from ecgbatch.train import labels, ptbxl, sources, split, table
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.entries import Entries
from ecgbatch.train.table import Table

__all__ = ["LEAST", "Calibration", "read"]

LEAST = 32
"""ECGs to calibrate on; with fewer a range is a matter of luck."""
_MOST = 384
"""ECGs to calibrate on; the network sees them some sixty times while layers are chosen."""
_MOST_VERIFIED = 2048
_VERIFIED_SHARE = 0.4
"""Of the ECGs of a source without folds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Model input float32 (record, lead, time), drawn from a source; no record is in both parts."""

    x: np.ndarray
    verified: np.ndarray
    targets: np.ndarray | None
    """float32 (record, label) of the verified ones, NaN where it is not known; None where nothing is."""


def read(given: Sequence[str], bundle: Bundle, *, labels_path: Path | None = None) -> Calibration:
    """Draw ECGs from what `score` reads, or from a table of ECGs or PTB-XL, whose labels are known.

    Where a source has folds, the last but one is left out and the last verifies, as in training; else a share of the
    ECGs does. ECGs that the model rejects are passed over.

    Raises:
        UsageError: too few ECGs are left.
        ArchiveError: the source cannot be listed.
    """
    cohort = _cohort(given, labels_path)
    ecgs = sources.ecgs_of(given) if cohort is None else cohort
    n_ecgs = len(ecgs.record_ids)
    rng = np.random.default_rng(1)
    if cohort is not None and cohort.folds is not None:
        side = split.by_folds(cohort)
        first, second = (rng.permutation(np.flatnonzero(side == name)) for name in ("train", "report"))
    else:
        order = rng.permutation(n_ecgs)
        n_first = round(n_ecgs * (1 - _VERIFIED_SHARE))
        first, second = order[:n_first], order[n_first:]
    x, _ = _inputs(ecgs, np.sort(first[:_MOST]), bundle.input)
    verified, at = _inputs(ecgs, np.sort(second[:_MOST_VERIFIED]), bundle.input)
    if len(x) < LEAST or not len(verified):
        kept = f"{len(x)} ECGs to calibrate on and {len(verified)} to verify"
        raise UsageError(f"{', '.join(given)}: {kept}, expected at least {LEAST} and 1 that the model takes")
    return Calibration(x=x, verified=verified, targets=None if cohort is None else _targets(cohort, bundle.codes)[at])


def _cohort(given: Sequence[str], labels_path: Path | None) -> Cohort | None:
    if labels_path is not None:
        return sources.read(given, labels=labels.read(labels_path))
    brings_labels = (
        not remote.is_url(one) and (ptbxl.is_ptbxl(Path(one)) or table.is_table(Path(one))) for one in given
    )
    return sources.read(given) if all(brings_labels) else None


def _inputs(ecgs: Cohort | Entries | Table, at: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    """The input of the ECGs of these numbers that can be scored, and the numbers of those."""
    x = np.empty((len(at), len(spec.leads), spec.samples), np.float32)
    kept: list[int] = []
    for number, record in zip(at.tolist(), ecgs.read(at), strict=True):
        if isinstance(record, Reject):
            continue
        try:
            host.normalise(record, spec, x[len(kept)])
        except RecordError:
            continue
        kept.append(number)
    return x[: len(kept)], np.array(kept, np.int64)


def _targets(cohort: Cohort, codes: Sequence[str]) -> np.ndarray:
    """float32 (record, label) of a model's labels; NaN for those that the cohort does not have."""
    targets = np.full((len(cohort), len(codes)), np.nan, np.float32)
    for at, code in enumerate(codes):
        if code in cohort.codes:
            targets[:, at] = cohort.targets[:, cohort.codes.index(code)]
    return targets
