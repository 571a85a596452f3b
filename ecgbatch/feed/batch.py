"""Batches: entries read, decoded and normalised ahead, in the order of the plan."""

import ctypes
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby
from operator import attrgetter
from struct import Struct
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from jaxtyping import Int32
from numpy import ndarray

from ecgbatch import archive, container, formats, gate, remote
from ecgbatch.archive import Entry
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.feed import host
from ecgbatch.feed.ahead import ahead
from ecgbatch.plan import Piece, Shard, pieces
from ecgbatch.record import INDEPENDENT_LEADS, Judged, Reason, Record, Reject, Row

__all__ = [
    "TOGETHER",
    "Batch",
    "Inputs",
    "batches",
    "is_far",
    "judge",
    "keep_freed_memory",
    "read",
    "read_all",
    "stream_of",
    "waveform_hash",
]

TOGETHER = 64
"""Entries that a process reads at once, at least: those of a pack's row group."""

_FLOAT64 = Struct("=d")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # malloc.h


@dataclass(slots=True, kw_only=True)
class Batch:
    """Model input of some entries of one shard: row i of every array in `x` belongs to `rows[i]`."""

    shard: int
    is_last: bool
    """Whether it ends its shard."""
    rows: list[Row]
    x: dict[InputSpec, Any]
    """float32 (record, lead, time) for every input spec: NumPy's, or of a GPU one that speaks DLPack."""
    rejects: list[Reject]
    decode_s: float = 0.0
    """Time of reading and decoding, summed over the feed's workers."""
    prepare_s: float = 0.0
    """Time of hashing, measuring and normalising, likewise."""


class Inputs(Protocol):
    """What becomes of a record that is to be scored: `host`, or `payload` for what is computed elsewhere.

    Both are functions of a module, so that another process can be told which.
    """

    def room(self, n_records: int, spec: InputSpec, /) -> np.ndarray:
        """Place for so many records."""
        ...

    def put(
        self,
        record: Record,
        spec: InputSpec,
        out: np.ndarray,
        /,
        *,
        flat: tuple[str, ...],
        independent_nv: np.ndarray,
        has_gaps: bool,
    ) -> None:
        """Fill a row of `room`.

        Raises:
            RecordError: it is not to be scored after all.
        """
        ...


def batches(
    shards: Iterable[Shard],
    specs: Sequence[InputSpec],
    *,
    size: int,
    workers: int,
    least_quality: float | None = None,
    inputs: Inputs = host,
) -> Generator[Batch, None, None]:
    """Every entry of every shard, in order, in batches of at most `size` records; full ones but at a shard's end.

    A record of less quality than `least_quality` is a reject, where that is given.
    """
    keep_freed_memory()
    load = partial(_load, specs=specs, least_quality=least_quality, room=inputs.room, put=inputs.put)
    together = size if workers == 1 else max(size, TOGETHER)
    with closing(ahead(load, pieces(shards, together), workers, kin=stream_of, waits=is_far)) as made:
        yield from _filled(made, size)


def is_far(piece: Piece) -> bool:
    """Whether a piece lies in a store, whose answers take longer than decoding."""
    return remote.is_url(piece.entries[0].path)


def stream_of(piece: Piece) -> str | None:
    """The archive that holds a piece and that can only be read from its beginning: twice for two processes."""
    entry = piece.entries[0]
    return entry.path if entry.member is not None and container.kind_of(entry.path) == "tar" else None


@cache
def keep_freed_memory() -> None:
    """Have malloc keep what is freed, and Arrow use malloc: a batch's buffers are as large as the last one's.

    Else each of them is given back to the kernel and faulted in anew, 20 pages a record, which takes half as long as
    decoding it. C libraries without glibc's `mallopt` go their own way.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)
        pa.set_memory_pool(pa.system_memory_pool())


def read(entry: Entry) -> Record | Reject:
    """Decode one entry; a defect in the file becomes a Reject, anything else is our bug and propagates."""
    if remote.is_url(entry.path):
        return _read(entry, remote.RemoteFiles(entry.path))
    (outcome,) = _of_one_path(entry.path, [entry])
    return outcome


def read_all(entries: Sequence[Entry]) -> Iterator[Record | Reject]:
    """`read` of each; those of a store many at a time, for it answers slowly.

    A part of a pack is opened and compared with the plan once for its neighbours: its records have checksums.
    """
    if any(remote.is_url(entry.path) for entry in entries):
        return remote.POOL.map(read, entries)
    return chain.from_iterable(_of_one_path(path, each) for path, each in groupby(entries, attrgetter("path")))


def _of_one_path(path: str, entries: Iterable[Entry]) -> Iterator[Record | Reject]:
    many: formats.Records | None = None
    outcome: Record | Reject
    for entry in entries:
        try:
            if many is None or not many.has_checksums:
                many = formats.records(path)
            outcome = _read_local(entry, many)
        except RecordError as defect:
            found = archive.stamp(path, ())
            is_another = found not in ((entry.n_bytes, entry.modified_ns), (None, None))
            outcome = _changed(entry) if is_another else _reject(entry, "read", defect)
        yield outcome


def _read_local(entry: Entry, many: formats.Records | None) -> Record | Reject:
    if many is None:
        member = entry.member
        return _read(entry, archive.Files(entry.path) if member is None else container.Members(entry.path, member))
    if many.stamp != (entry.n_bytes, entry.modified_ns):
        return _changed(entry)
    if entry.member is None:
        raise RecordError(Reason.EMPTY, "a container of records that holds none")
    return many.record(entry.member)


def _read(entry: Entry, files: archive.Files | container.Members | remote.RemoteFiles) -> Record | Reject:
    belongings: Sequence[str] = ()
    outcome: Record | Reject
    try:
        raw = files.read(files.name)
        belongings = formats.companions(raw, files.name)
        outcome = formats.decode(raw, files.name, lambda other: files.read(other, Reason.MISSING_SIGNAL))
    except RecordError as defect:
        stage = "read" if defect.reason in (Reason.UNREADABLE, Reason.TOO_LARGE, Reason.MISSING_SIGNAL) else "decode"
        outcome = _reject(entry, stage, defect)
    try:
        is_as_planned = files.stamp(belongings) == (entry.n_bytes, entry.modified_ns)
    except RecordError as defect:
        return _reject(entry, "read", defect)
    return outcome if is_as_planned else _changed(entry)


def _changed(entry: Entry) -> Reject:
    changed = RecordError(Reason.SOURCE_CHANGED, "size or modification time differ from the plan's")
    return _reject(entry, "read", changed)


def waveform_hash(nv: np.ndarray, fs_hz: float) -> str:
    """128 bits of the eight independent leads as int32 nV (lead, time) and the rate; equal for equal signals."""
    digest = xxhash.xxh3_128(nv.data)
    digest.update(_FLOAT64.pack(fs_hz))
    return digest.hexdigest()


def _load(
    piece: Piece,
    *,
    specs: Sequence[InputSpec],
    least_quality: float | None,
    room: Callable[[int, InputSpec], np.ndarray],
    put: Callable[..., None],
) -> Batch:
    keep_freed_memory()  # for this may be another process
    x = {spec: room(len(piece.entries), spec) for spec in specs}
    rows: list[Row] = []
    rejects: list[Reject] = []
    decode_s = prepare_s = 0.0
    started = perf_counter()
    for entry, record in zip(piece.entries, read_all(piece.entries), strict=True):
        decoded = perf_counter()
        if isinstance(record, Record):
            try:
                row = _prepare(entry, record, {spec: array[len(rows)] for spec, array in x.items()}, put)
                _refuse_poor(row, least_quality)
                rows.append(row)
            except RecordError as defect:
                rejects.append(_reject(entry, "prepare", defect))
        else:
            rejects.append(record)
        decode_s += decoded - started
        started = perf_counter()
        prepare_s += started - decoded
    return Batch(
        shard=piece.shard,
        is_last=piece.is_last,
        rows=rows,
        x={spec: array[: len(rows)] for spec, array in x.items()},
        rejects=rejects,
        decode_s=decode_s,
        prepare_s=prepare_s,
    )


def judge(record: Record, flat: tuple[str, ...], compared: tuple[str, ...], nv: Int32[ndarray, "lead time"]) -> Judged:
    """Hash and quality of nV (lead, time): the independent leads, then those `compared` with I and II."""
    return Judged(
        waveform_hash=waveform_hash(nv[: len(INDEPENDENT_LEADS)], record.fs_hz),
        quality=gate.measure(nv, record.fs_hz, flat, compared),
    )


def _prepare(entry: Entry, record: Record, out: Mapping[InputSpec, np.ndarray], put: Callable[..., None]) -> Row:
    """Write the record's input for every spec, and say what is known of it."""
    known = record.judged
    flat = host.flat_leads(record) if known is None else known.quality.flat_leads
    compared = gate.comparable(record.leads, flat) if known is None else ()
    all_nv, n_missing = host.measured(record, INDEPENDENT_LEADS + compared, flat)
    nv = all_nv[: len(INDEPENDENT_LEADS)]
    if len(flat) == len(record.leads):
        raise RecordError(Reason.NO_SIGNAL, f"all {len(flat)} leads are flat")
    for spec, row in out.items():
        put(record, spec, row, flat=flat, independent_nv=nv, has_gaps=n_missing > 0)
    known = known or judge(record, flat, compared, all_nv)
    return Row(
        record_id=entry.record_id,
        source_path=entry.source_path,
        format=record.format,
        waveform_hash=known.waveform_hash,
        acquired_at=record.acquired_at,
        device_model=record.device_model,
        fs_hz=record.fs_hz,
        seconds=record.seconds,
        leads_derived=host.leads_derived(record, flat),
        quality=known.quality,
    )


def _refuse_poor(row: Row, least_quality: float | None) -> None:
    """Nothing, for a record that is good enough.

    Raises:
        RecordError: it is not.
    """
    if least_quality is not None and row.quality.quality < least_quality:
        leads = f", poor leads {', '.join(row.quality.poor_leads)}" if row.quality.poor_leads else ""
        detail = f"quality {row.quality.quality:.3f}{leads}, expected at least {least_quality:g}"
        raise RecordError(Reason.POOR_QUALITY, detail)


def _reject(entry: Entry, stage: str, defect: RecordError) -> Reject:
    return Reject(
        record_id=entry.record_id,
        source_path=entry.source_path,
        stage=stage,
        reason=Reason(defect.reason),
        detail=defect.detail,
    )


def _filled(short: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in full batches, so that rejects do not thin out the engine's work; a shard still ends alone."""
    held: Batch | None = None
    for batch in short:
        joined = batch if held is None else _joined(held, batch)
        held = None
        while len(joined.rows) > size:
            head, joined = _split(joined, size)
            yield head
        if joined.is_last or len(joined.rows) == size:
            yield joined
        else:
            held = joined


def _joined(first: Batch, second: Batch) -> Batch:
    return Batch(
        shard=second.shard,
        is_last=second.is_last,
        rows=first.rows + second.rows,
        x={spec: np.concatenate([first.x[spec], x]) for spec, x in second.x.items()},
        rejects=first.rejects + second.rejects,
        decode_s=first.decode_s + second.decode_s,
        prepare_s=first.prepare_s + second.prepare_s,
    )


def _split(batch: Batch, size: int) -> tuple[Batch, Batch]:
    """The first `size` rows, and the rest with everything that belongs to the batch as a whole."""
    head = Batch(
        shard=batch.shard,
        is_last=False,
        rows=batch.rows[:size],
        x={spec: x[:size] for spec, x in batch.x.items()},
        rejects=[],
    )
    batch.rows = batch.rows[size:]
    batch.x = {spec: x[size:] for spec, x in batch.x.items()}
    return head, batch
