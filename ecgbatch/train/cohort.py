"""Labelled ECGs: records, the patients they come from, their folds and their SCP statements.

A Parquet file of a cohort has the columns `patient_id`, `fold`, `scp_codes` (list of code and likelihood), `fs_hz`,
`uv_per_count`, `leads` and `samples` (int16, lead after lead); its metadata may say under `provenance` where the
ECGs come from.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ecgbatch import waveform
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import UsageError
from ecgbatch.feed import host
from ecgbatch.record import Record

__all__ = ["CHOOSE_FOLDS", "REPORT_FOLDS", "TRAIN_FOLDS", "Cohort", "codes", "inputs", "read", "scale_mv", "targets"]

TRAIN_FOLDS = range(1, 8)
CHOOSE_FOLDS = range(8, 9)
REPORT_FOLDS = range(9, 10)
_COLUMNS = ["patient_id", "fold", "scp_codes", "fs_hz", "uv_per_count", "leads", "samples"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """ECGs in the order of their file."""

    records: tuple[Record, ...]
    patients: np.ndarray
    """str (record,)"""
    folds: np.ndarray
    """int (record,)"""
    statements: tuple[frozenset[str], ...]
    """The codes listed for each record, whatever their likelihood."""
    provenance: str
    sha256: str
    """Of the file."""

    def __post_init__(self) -> None:
        sides = {}
        for name, folds in (("train", TRAIN_FOLDS), ("choose", CHOOSE_FOLDS), ("report", REPORT_FOLDS)):
            if not (at := self.side(folds)).any():
                raise UsageError(
                    f"cohort: no record in folds {folds.start} to {folds.stop - 1}, which {name} the model"
                )
            sides[name] = set(self.patients[at])
        on_two = Counter(patient for side in sides.values() for patient in side)
        if (n_leaks := sum(n > 1 for n in on_two.values())) > 0:
            raise UsageError(f"cohort: {n_leaks} patients lie on two sides of the split, expected none")

    def side(self, folds: range) -> np.ndarray:
        """Whether each record lies in one of the folds: bool (record,)."""
        return np.isin(self.folds, folds)


def read(path: Path) -> Cohort:
    """The cohort of a Parquet file.

    Raises:
        UsageError: a column is missing, a side of the split is empty, or a patient is on two sides.
    """
    if missing := set(_COLUMNS) - set(pl.read_parquet_schema(path)):
        raise UsageError(f"{path.name}: no column {', '.join(sorted(missing))}")
    rows = pl.read_parquet(path, columns=_COLUMNS)
    metadata = pq.read_schema(path).metadata or {}
    return Cohort(
        records=tuple(map(_record, rows.drop("samples").iter_rows(named=True), rows["samples"])),
        patients=rows["patient_id"].cast(pl.String).to_numpy(),
        folds=rows["fold"].cast(pl.Int64).to_numpy(),
        statements=tuple(
            frozenset(statement["code"] for statement in listed) for listed in rows["scp_codes"].to_list()
        ),
        provenance=metadata.get(b"provenance", b"not stated").decode(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _record(row: dict[str, Any], samples: pl.Series) -> Record:
    leads = tuple(row["leads"])
    return Record(
        format="cohort",
        fs_hz=float(row["fs_hz"]),
        leads=leads,
        counts=samples.to_numpy().reshape(len(leads), -1),
        uv_per_count=(float(row["uv_per_count"]),) * len(leads),
        zero_counts=(0.0,) * len(leads),
    )


def codes(cohort: Cohort, *, n_positives: int) -> list[str]:
    """The statements listed for at least so many training records, the commonest first."""
    counts = Counter(code for at in np.flatnonzero(cohort.side(TRAIN_FOLDS)) for code in cohort.statements[at])
    return sorted((code for code, n in counts.items() if n >= n_positives), key=lambda code: (-counts[code], code))


def targets(cohort: Cohort, labels: Iterable[str]) -> np.ndarray:
    """float32 (record, label): 1 where the statement is listed.

    A statement of any likelihood counts: form and rhythm statements carry 0 by convention, and what was written with
    15 % is nearer to the reader's view of the ECG than its absence. PTB-XL's benchmarks do the same.
    """
    return np.array([[code in listed for code in labels] for listed in cohort.statements], np.float32)


def scale_mv(cohort: Cohort, leads: tuple[str, ...]) -> tuple[float, ...]:
    """Each lead's standard deviation in mV about the record's own mean, over the training records."""
    training = [cohort.records[at] for at in np.flatnonzero(cohort.side(TRAIN_FOLDS))]
    variance = np.mean([np.var(waveform.nanovolts(record, leads) * 1e-6, axis=1) for record in training], axis=0)
    return tuple(float(round(value, 3)) for value in np.sqrt(variance))


def inputs(cohort: Cohort, spec: InputSpec) -> np.ndarray:
    """float32 (record, lead, time): what the model is fed, made by the kernels that scoring uses."""
    x = np.empty((len(cohort.records), len(spec.leads), spec.samples), np.float32)
    for record, out in zip(cohort.records, x, strict=True):
        host.normalise(record, spec, out)
    return x
