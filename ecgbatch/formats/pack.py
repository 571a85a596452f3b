"""Packs: decoded records as Parquet, which `ecgbatch pack` writes in the layout of `pack_layout`."""

import json
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock, local
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ecgbatch import gate
from ecgbatch.errors import ArchiveError, FeedError, RecordError
from ecgbatch.files import require_handles
from ecgbatch.formats.pack_layout import FACTS, QUALITY, SCHEMA, VERSION
from ecgbatch.record import LEADS, RATES_HZ, Judged, Quality, Reason, Record

__all__ = ["PLAN", "RECORDS", "Part", "is_pack", "opened", "parts_of"]

PLAN, RECORDS = "plan.parquet", "records"
"""Names in the folder of a pack."""

_DECODED = [name for name in FACTS if name not in ("record_id", "source_path", *QUALITY)]
_HASH = re.compile("[0-9a-f]{32}")
_ASKED = re.compile(r"of size (\d+)")
"""What Arrow says of memory that it does not get."""
_OPENING = Lock()
_GROUP_BYTES = 2**30
"""Of samples in a row group: more than any that is written, and less than would do harm."""
_HELD = local()
"""`group`: the row group that a thread read last; consecutive entries lie in it."""


def is_pack(folder: Path | str) -> bool:
    """Whether a folder is one that `ecgbatch pack` writes, finished or not."""
    return _planned(os.path.join(folder, PLAN)) is not None


def parts_of(folder: str) -> list[str] | None:
    """Names of the parts of the pack in a folder, relative to it; None where it is no pack.

    Raises:
        ArchiveError: it is not finished, or parts of it are gone.
    """
    planned = _planned(os.path.join(folder, PLAN))
    if planned is None:
        return None
    names = [f"{RECORDS}/part-{shard:06}.parquet" for shard in range(planned)]
    there = [name for name in names if os.path.exists(os.path.join(folder, name))]
    if len(there) != len(names):
        raise ArchiveError(
            f"{folder}: a pack with {len(there)} of {len(names)} parts; finish it with the command that began it"
        )
    return names


class Part:
    """An open part of a pack: each row is a record, told apart by the `record_id` it was packed with."""

    has_checksums = True

    def __init__(self, path: str, stamp: tuple[int, int], *, is_judged: bool) -> None:
        """Read everything but the samples, checksums compared; and quality, unless another gate has judged it.

        Raises:
            RecordError: it is damaged, or of another version.
        """
        self.stamp = stamp
        self.path = path
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                self.metadata = file.metadata
                if not SCHEMA.equals(file.schema_arrow):
                    raise RecordError(Reason.UNKNOWN_FORMAT, "a pack with other columns; pack it again")
                names = ["record_id", *_DECODED, *(QUALITY if is_judged else ())]
                facts = file.read(columns=names, use_threads=False)
            self._row_of = {name: at for at, name in enumerate(facts["record_id"].to_pylist())}
            self.facts = facts.drop_columns(["record_id"])
        except (OSError, ValueError, pa.ArrowException) as err:
            _require_room(err)
            raise RecordError(Reason.MALFORMED, "a part of a pack that cannot be read") from err
        if len(self._row_of) != len(self.facts):
            raise RecordError(Reason.MALFORMED, "a part of a pack with two records of one record_id")
        n_rows = [self.metadata.row_group(at).num_rows for at in range(self.metadata.num_row_groups)]
        self.starts = [0, *accumulate(n_rows)]
        self._groups: WeakValueDictionary[int, _Group] = WeakValueDictionary()
        self._lock = Lock()

    def members(self) -> list[str]:
        """The `record_id` of each row."""
        return list(self._row_of)

    def record(self, member: str) -> Record:
        """The record of that `record_id`.

        Raises:
            RecordError: there is none, or it is damaged.
        """
        at = self._row_of.get(member)
        if at is None:
            raise RecordError(Reason.UNREADABLE, "no record of this record_id in the part")
        group = self._group(bisect_right(self.starts, at) - 1)
        return group.record(at - group.start)

    def _group(self, index: int) -> "_Group":
        """The row group: threads share it for as long as one of them holds it."""
        held = getattr(_HELD, "group", None)
        if held is not None and held.part is self and held.index == index:
            return held
        with self._lock:
            group = self._groups.get(index)
            if group is None:
                group = self._groups[index] = _Group(self, index)
        group.load()
        _HELD.group = group
        return group


class _Group:
    """A row group in memory."""

    def __init__(self, part: Part, index: int) -> None:
        self.part = part
        self.index = index
        self.start = part.starts[index]
        self._lock = Lock()
        self._rows: list[tuple[Any, ...]] = []
        self._ends: list[int] = []
        self._samples = np.empty(0, np.uint8)

    def load(self) -> None:
        """Read it, unless another thread has or is about to.

        Raises:
            RecordError: it cannot be read.
        """
        with self._lock:
            if not self._rows:
                self._samples, self._ends = self._read()
                n = self.part.starts[self.index + 1] - self.start
                try:
                    self._rows = list(zip(*map(_values, self.part.facts.slice(self.start, n).columns), strict=True))
                except (ValueError, pa.ArrowException) as err:
                    _require_room(err)
                    raise RecordError(Reason.MALFORMED, "facts of records that cannot be read") from err

    def record(self, at: int) -> Record:
        """One of its rows.

        Raises:
            RecordError: it is damaged.
        """
        container, digest, acquired_at, device, fs_hz, n_samples, leads, uv, zero, invalid, bits, xxh3, *measures = (
            self._rows[at]
        )
        raw = self._samples[self._ends[at] : self._ends[at + 1]]
        if xxhash.xxh3_64_intdigest(raw.data) != xxh3:
            raise RecordError(Reason.CHECKSUM, "samples that do not have the checksum beside them")
        _check(fs_hz, leads, uv, zero)
        if bits not in (16, 32) or n_samples < 1 or len(raw) != len(leads) * n_samples * bits // 8:
            raise RecordError(Reason.MALFORMED, f"{len(raw)} bytes of {len(leads)} leads × {n_samples} × {bits} bits")
        return Record(
            format=container,
            fs_hz=fs_hz,
            leads=leads,
            counts=raw.view("<i2" if bits == 16 else "<i4").reshape(len(leads), n_samples),
            uv_per_count=uv,
            zero_counts=zero,
            invalid_count=invalid,
            acquired_at=acquired_at,
            device_model=device,
            judged=_judged(digest, measures),
        )

    def _read(self) -> tuple[np.ndarray, list[int]]:
        """The bytes of all samples in it, and where each row's begin and the last one's end."""
        metadata = self.part.metadata
        n_bytes = metadata.row_group(self.index).column(metadata.num_columns - 1).total_uncompressed_size
        if n_bytes > _GROUP_BYTES:
            raise RecordError(Reason.TOO_LARGE, f"a row group of {n_bytes} bytes, expected at most {_GROUP_BYTES}")
        try:
            # not by one of Arrow's own threads, for this one would only wait
            with pq.ParquetFile(self.part.path, metadata=metadata, pre_buffer=False) as file:
                column = file.read_row_group(self.index, columns=["counts"], use_threads=False).column(0)
                counts = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        except (OSError, ValueError, pa.ArrowException) as err:
            _require_room(err)
            raise RecordError(Reason.CORRUPT_PAYLOAD, "a row group that cannot be read") from err
        _, ends, samples = counts.buffers()
        return np.frombuffer(samples, np.uint8), np.frombuffer(
            ends, np.int32, len(counts) + 1, 4 * counts.offset
        ).tolist()


def opened(path: str) -> Part | None:
    """The part of a pack at `path` as it is now, kept open for the entries to come; None for any other Parquet.

    Raises:
        RecordError: it cannot be opened, or is damaged.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as err:
        raise RecordError(Reason.UNREADABLE, getattr(err, "strerror", None) or "cannot be opened") from err
    if not stat.S_ISREG(status.st_mode):
        raise RecordError(Reason.UNREADABLE, "not a regular file")
    if status.st_size == 0:
        raise RecordError(Reason.EMPTY, "0 bytes")
    with _OPENING:  # two threads that ask at once get the same one
        return _opened(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _opened(path: str, n_bytes: int, modified_ns: int) -> Part | None:
    try:
        metadata = pq.read_metadata(path).metadata or {}
        said = json.loads(metadata.get(b"ecgbatch", b"{}"))
    except (OSError, ValueError, RecursionError, pa.ArrowException) as err:
        _require_room(err)
        raise RecordError(Reason.MALFORMED, "a Parquet file that cannot be read") from err
    if not isinstance(said, dict) or "pack" not in said:
        return None
    if said["pack"] != VERSION:
        raise RecordError(Reason.UNKNOWN_FORMAT, f"a pack of another version, expected {VERSION}; pack it again")
    return Part(path, (n_bytes, modified_ns), is_judged=said.get("gate") == gate.judgement())


def _require_room(err: Exception) -> None:
    """Nothing, for what goes wrong with one file, and not with all that would be read now.

    Raises:
        FeedError: the system has no more files, or no memory for what a whole part may ask for; this one may be good.
    """
    require_handles(err)
    asked = _ASKED.search(str(err)) if isinstance(err, pa.ArrowMemoryError) else None
    if asked and int(asked[1]) <= _GROUP_BYTES:
        raise FeedError(f"no memory for {asked[1]} bytes of a pack; take fewer --workers") from err


def _planned(path: str) -> int | None:
    """How many parts the pack of this plan has; None where it is no plan of a pack."""
    try:
        metadata = pq.read_metadata(path)
        settings = json.loads((metadata.metadata or {})[b"ecgbatch"])
        return -(-metadata.num_rows // int(settings["shard_size"])) if "pack" in settings else None
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError, pa.ArrowException):
        return None


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column of facts in Python, a tuple for each list."""
    if pa.types.is_timestamp(column.type) or (pa.types.is_floating(column.type) and not column.null_count):
        return column.to_numpy().tolist()  # ten times as fast as Arrow's own way
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    values: list[Any] = []
    for chunk in column.chunks:
        flat = chunk.flatten().to_pylist()
        ends = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()
        values += [tuple(flat[start:end]) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return values


def _judged(waveform_hash: str | None, measures: Sequence[Any]) -> Judged | None:
    """Hash and quality, where both are there.

    Raises:
        RecordError: they are not what a gate says.
    """
    if waveform_hash is None or not measures:
        return None
    quality = Quality(**dict(zip(QUALITY, measures, strict=True)))
    if measures.count(None) > (quality.limb_residual_uv is None) or not _HASH.fullmatch(waveform_hash):
        raise RecordError(Reason.MALFORMED, "quality or hash that no gate gives")
    _check_names(quality.flat_leads)
    _check_names(quality.poor_leads)
    return Judged(waveform_hash=waveform_hash, quality=quality)


@lru_cache(maxsize=1024)
def _check_names(leads: tuple[str, ...]) -> None:
    if not set(leads) <= set(LEADS):
        raise RecordError(Reason.MALFORMED, "quality of leads that are none")


@lru_cache(maxsize=1024)
def _check(fs_hz: float, leads: tuple[str, ...], uv: tuple[float, ...], zero: tuple[float, ...]) -> None:
    """Nothing, for what a decoder could have said of a record."""
    if not leads or not set(leads) <= set(LEADS) or not len(leads) == len(uv) == len(zero):
        raise RecordError(Reason.MALFORMED, f"{len(leads)} leads, {len(uv)} gains, {len(zero)} zeros")
    if len(set(leads)) != len(leads):
        raise RecordError(Reason.DUPLICATE_LEAD, "a lead is stored twice")
    if not RATES_HZ[0] <= fs_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, f"{fs_hz:g} Hz, expected {RATES_HZ[0]:g} to {RATES_HZ[1]:g}")
    if not (np.isfinite(uv).all() and np.isfinite(zero).all()) or 0.0 in uv:
        raise RecordError(Reason.UNKNOWN_GAIN, "a gain or zero that is no number, or a gain of 0")
