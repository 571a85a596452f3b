"""The layout of a pack: a row for each record, as Parquet, which anything that opens Parquet reads.

Beside a record stand its hash and quality, which are not found out again while the gate is the same. Its samples are
little-endian int16 or int32, lead after lead, in a binary column: a list of integers, which Parquet could encode as
differences, takes longer to unfold than all that is done with a record then.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from ecgbatch import gate
from ecgbatch.record import Judged, Quality, Record

__all__ = ["COMPARED", "COMPRESSIONS", "FACTS", "QUALITY", "SCHEMA", "VERSION", "compression", "mark", "row", "table"]

VERSION = 2
COMPRESSIONS = ("none", "lz4", "zstd")
"""Of the samples, from the fastest to the smallest; whoever reads a part need not know."""
_NAMES = pa.list_(pa.field("element", pa.string(), nullable=False))
_QUALITY_TYPES: dict[Any, pa.DataType] = {
    float: pa.float64(),
    float | None: pa.float64(),
    bool: pa.bool_(),
    tuple[str, ...]: _NAMES,
}
SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.string(), nullable=False),  # in the source that was packed
        pa.field("source_path", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # the container it was decoded from
        pa.field("waveform_hash", pa.string()),  # null where an independent lead cannot be had
        pa.field("acquired_at", pa.timestamp("us")),
        pa.field("device_model", pa.string()),
        pa.field("fs_hz", pa.float64(), nullable=False),
        pa.field("n_samples", pa.int32(), nullable=False),
        pa.field("leads", _NAMES, nullable=False),
        pa.field("uv_per_count", pa.list_(pa.field("element", pa.float64(), nullable=False)), nullable=False),
        pa.field("zero_counts", pa.list_(pa.field("element", pa.float64(), nullable=False)), nullable=False),
        pa.field("invalid_count", pa.int32()),  # the count that means "no sample"
        pa.field("count_bits", pa.int8(), nullable=False),  # 16 or 32
        pa.field("counts_xxh3", pa.uint64(), nullable=False),  # XXH3-64 of counts
        *(pa.field(field.name, _QUALITY_TYPES[field.type]) for field in fields(Quality)),  # null as the hash is
        pa.field("counts", pa.binary(), nullable=False),  # (lead, time)
    ]
)
COMPARED = ["record_id", "format", "acquired_at", "device_model", "fs_hz", "n_samples"]
"""Columns of which each row group states the least and the most, so that a query may pass it over."""
QUALITY = [field.name for field in fields(Quality)]
"""Names of the columns of the signal's quality."""
FACTS = [name for name in SCHEMA.names if name != "counts"]
"""Names of all columns but the samples."""
_MARK_16 = -(2**15)
"""Stands for a missing sample where int32 counts are kept as int16."""


def compression(samples: str) -> dict[str, str]:
    """That of every column: the samples' as asked, of the rest what takes no time (zstd: three times as long)."""
    lists = [f"{field.name}.list.element" for field in SCHEMA if pa.types.is_list(field.type)]
    return {**dict.fromkeys([*lists, *FACTS], "lz4"), "counts": samples}


def mark(fingerprint: str) -> dict[str, str]:
    """What the footer of a part says of it: its version, that of the gate, and the fingerprint of its pack."""
    return {"ecgbatch": json.dumps({"pack": VERSION, "gate": gate.judgement(), "run": fingerprint})}


def row(record_id: str, source_path: str, record: Record, judged: Judged | None) -> dict[str, Any]:
    """A record as a row of a pack, its counts as bytes; int32 counts become int16 where that loses nothing."""
    counts, invalid_count = _narrowed(record.counts, record.invalid_count)
    raw = counts.astype(f"<i{counts.itemsize}", order="C", copy=False).reshape(-1).view(np.uint8)
    return {
        "record_id": record_id,
        "source_path": source_path,
        "format": record.format,
        "waveform_hash": judged.waveform_hash if judged else None,
        "acquired_at": record.acquired_at,
        "device_model": record.device_model,
        "fs_hz": record.fs_hz,
        "n_samples": record.n_samples,
        "leads": record.leads,
        "uv_per_count": record.uv_per_count,
        "zero_counts": record.zero_counts,
        "invalid_count": invalid_count,
        "count_bits": counts.itemsize * 8,
        "counts_xxh3": xxhash.xxh3_64_intdigest(raw.data),
        **(asdict(judged.quality) if judged else dict.fromkeys(QUALITY)),
        "counts": raw,
    }


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of `row`, in Arrow."""
    columns = {name: [values[name] for values in rows] for name in FACTS}
    return pa.table({**columns, "counts": [memoryview(values["counts"]) for values in rows]}, schema=SCHEMA)


def _narrowed(counts: np.ndarray, invalid_count: int | None) -> tuple[np.ndarray, int | None]:
    """The counts as int16 where they fit, the mark of a missing sample with them."""
    if counts.dtype.itemsize == 2:
        return counts, invalid_count
    is_there = None if invalid_count is None else counts != invalid_count
    least, most = _extremes(counts, is_there)
    if least <= _MARK_16 or most > -_MARK_16 - 1:
        return counts, invalid_count
    if is_there is None:
        return counts.astype(np.int16), None
    return np.where(is_there, counts, _MARK_16).astype(np.int16), _MARK_16


def _extremes(counts: np.ndarray, is_there: np.ndarray | None) -> tuple[int, int]:
    if is_there is None or is_there.all():
        return int(counts.min()), int(counts.max())
    return int(counts.min(initial=0, where=is_there)), int(counts.max(initial=0, where=is_there))
