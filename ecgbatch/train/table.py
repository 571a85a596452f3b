"""A table of ECGs: one Parquet file with samples and labels.

Its columns are `patient_id` (empty where it is not known), `fs_hz`, `uv_per_count`, `leads`, `samples` (int16, lead
after lead), optionally `record_id` (or `ecg_id`) and `fold`, and labels as `labels.py` reads them. Its metadata may say
under `provenance` where the ECGs come from.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.record import Reason, Record, Reject
from ecgbatch.train import labels, statements
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.columns import told

__all__ = ["Table", "is_table", "patients_of", "read"]

_SIGNAL = ("fs_hz", "uv_per_count", "leads", "samples")
_NAMES = ("record_id", "ecg_id")
_BLOCK = 256
"""ECGs of a block at most; a row group is at least one."""
_ROWS = 64
"""Rows of samples in memory at a time."""


class Table:
    """The samples of a table, read a row group at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            sizes = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
        self._facts = pl.read_parquet(path, columns=["fs_hz", "uv_per_count", "leads"], glob=False)
        named = next((name for name in _NAMES if name in names), None)
        self.record_ids: list[str] = (
            list(labels.record_ids_of(path, pl.read_parquet(path, columns=[named], glob=False)[named]))
            if named
            else [str(row) for row in range(len(self._facts))]
        )
        """What the file calls its records, or their rows."""
        self.source_paths = [f"{path}#{name}" for name in self.record_ids]
        self._starts = np.cumsum([0, *sizes])
        self._group = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(len(self._group)) - self._starts[self._group]
        starts_block = within % _BLOCK == 0
        self.block = np.cumsum(starts_block) - 1

    @property
    def sha256(self) -> str:
        """Of the file."""
        return files.sha256(self.path)

    def read(self, at: np.ndarray) -> Iterator[Record | Reject]:
        """The ECGs of these rows, which ascend."""
        groups = self._group[at]
        with pq.ParquetFile(self.path) as file:
            for group in np.unique(groups):
                yield from self._of_group(file, int(group), at[groups == group])

    def _of_group(self, file: Any, group: int, at: np.ndarray) -> Iterator[Record | Reject]:
        start = int(self._starts[group])
        for batch in file.iter_batches(_ROWS, row_groups=[group], columns=["samples"], use_threads=False):
            for row in at[(start <= at) & (at < start + len(batch))].tolist():
                yield self._record(row, batch.column(0)[row - start])
            start += len(batch)
            if start > at[-1]:
                return

    def _record(self, row: int, samples: Any) -> Record | Reject:
        fs_hz, uv_per_count, leads = self._facts.row(row)
        n_samples = len(samples.values) if samples.is_valid else 0
        if not leads or not n_samples or n_samples % len(leads) or not fs_hz or not uv_per_count:
            return Reject(
                record_id=self.record_ids[row],
                source_path=str(self.path),
                stage="decode",
                reason=Reason.MALFORMED,
                detail=f"{n_samples} samples of {len(leads or ())} leads at {fs_hz} Hz, {uv_per_count} µV a count",
            )
        return Record(
            format="table",
            fs_hz=float(fs_hz),
            leads=tuple(leads),
            counts=samples.values.to_numpy(zero_copy_only=False).reshape(len(leads), -1),
            uv_per_count=(float(uv_per_count),) * len(leads),
            zero_counts=(0.0,) * len(leads),
        )


def is_table(path: Path) -> bool:
    """Whether a file is Parquet with samples in it."""
    try:
        return path.suffix.lower() == ".parquet" and set(_SIGNAL) <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False


def read(path: Path, *, columns: Sequence[str] = ()) -> Cohort:
    """The cohort of a table; `columns` are the label columns, all of 0 and 1 or the one of codes by default.

    Raises:
        UsageError: no patients, or no labels.
    """
    schema = pq.read_schema(path)
    if missing := [name for name in ("patient_id", *columns) if name not in schema.names]:
        raise UsageError(f"{path.name}: no column {', '.join(missing)} among its {told(schema.names)}")
    facts = pl.read_parquet(path, columns=[name for name in schema.names if name != "samples"], glob=False)
    ecgs = Table(path)
    codes, targets = _labelled(path, facts.drop("patient_id", *_SIGNAL, *_NAMES, strict=False), columns)
    return Cohort(
        ecgs=ecgs,
        rows=np.arange(len(facts)),
        record_ids=np.array(ecgs.record_ids),
        patients=patients_of(facts["patient_id"], ecgs.record_ids),
        codes=codes,
        targets=targets,
        folds=_folds(path, facts["fold"]) if "fold" in facts.columns else None,
        columns=facts.select(name for name, kind in facts.schema.items() if not kind.is_nested()).drop("patient_id"),
        provenance=(schema.metadata or {}).get(b"provenance", b"not stated").decode(),
        sha256=ecgs.sha256,
    )


def patients_of(column: pl.Series, record_ids: Sequence[str]) -> np.ndarray:
    """Whose each ECG of a table is, str (record,); one of no known patient is of a patient of its own.

    Where all are known, they are called as the table calls them: the hash of a split is of these names.
    """
    patients, n_without = labels.patients_of(column, record_ids)
    return patients if n_without else column.cast(pl.String).str.strip_chars().to_numpy().astype(str)


def _folds(path: Path, column: pl.Series) -> np.ndarray:
    folds = column.cast(pl.Int64, strict=False)
    if folds.null_count():
        raise UsageError(f"{path.name}: column fold holds other values than whole numbers, or is empty in some rows")
    return folds.to_numpy()


def _labelled(path: Path, facts: pl.DataFrame, columns: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The codes and float32 (record, label), superclasses of SCP statements included."""
    chosen = list(dict.fromkeys(columns)) or labels.columns_of(facts, statements.NAMES)
    if not chosen:
        raise UsageError(f"{path.name}: no label, expected columns of 0 and 1 or one of codes")
    return statements.with_superclasses(*labels.labelled(path, facts.select(chosen), statements.NAMES))
