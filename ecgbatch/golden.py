"""A bundle's reference scores: synthetic ECGs, and what its network in PyTorch said of them.

An engine is admitted only after it says the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecgbatch.bundle import Bundle
from ecgbatch.errors import BundleError
from ecgbatch.record import Record

__all__ = ["load", "save"]


def save(path: Path, records: Sequence[Record], logits: np.ndarray, probabilities: np.ndarray) -> None:
    """Write records and their expected scores (record, label); the records' zero is at count 0."""
    pl.DataFrame(
        {
            "record_id": [f"golden-{at}" for at in range(len(records))],
            "fs_hz": [record.fs_hz for record in records],
            "uv_per_count": [list(record.uv_per_count) for record in records],
            "leads": [list(record.leads) for record in records],
            "counts": [record.counts.astype(np.int16).ravel() for record in records],
            "logits": list(logits.astype(np.float32)),
            "probabilities": list(probabilities.astype(np.float32)),
        },
        schema={
            "record_id": pl.String,
            "fs_hz": pl.Float64,
            "uv_per_count": pl.List(pl.Float64),
            "leads": pl.List(pl.String),
            "counts": pl.List(pl.Int16),  # lead after lead
            "logits": pl.List(pl.Float32),
            "probabilities": pl.List(pl.Float32),
        },
    ).write_parquet(path, compression_level=19)


def load(bundle: Bundle) -> tuple[list[Record], np.ndarray]:
    """The records and their expected float32 probabilities (record, label).

    Raises:
        BundleError: the file is not a golden one, or its scores are not one a label.
    """
    try:
        rows = pl.read_parquet(bundle.folder / "golden.parquet", glob=False)
        records = [_record(row) for row in rows.iter_rows(named=True)]
        probabilities = np.array(rows["probabilities"].to_list(), np.float32)
    except (OSError, KeyError, ValueError, pl.exceptions.PolarsError) as err:
        raise BundleError(f"bundle {bundle.name!r}: golden.parquet cannot be read: {err}") from err
    if probabilities.shape != (len(records), len(bundle.labels)) or not records:
        raise BundleError(
            f"bundle {bundle.name!r}: golden.parquet has no score for each of {len(bundle.labels)} labels"
        )
    return records, probabilities


def _record(row: dict[str, Any]) -> Record:
    leads = tuple(row["leads"])
    return Record(
        format="golden",
        fs_hz=float(row["fs_hz"]),
        leads=leads,
        counts=np.array(row["counts"], np.int16).reshape(len(leads), -1),
        uv_per_count=tuple(row["uv_per_count"]),
        zero_counts=(0.0,) * len(leads),
    )
