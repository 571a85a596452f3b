"""Decoded entries: read and decoded ahead, in the order of the plan, as rows of a pack."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ecgbatch import gate
from ecgbatch.errors import RecordError
from ecgbatch.feed import host
from ecgbatch.feed.ahead import ahead
from ecgbatch.feed.batch import TOGETHER, is_far, judge, keep_freed_memory, read_all, stream_of
from ecgbatch.formats import pack_layout
from ecgbatch.plan import Piece, Shard, pieces
from ecgbatch.record import INDEPENDENT_LEADS, Judged, Record, Reject

__all__ = ["Chunk", "chunks"]


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Some consecutive entries of one shard."""

    shard: int
    is_last: bool
    """Whether it ends its shard."""
    rows: list[dict[str, Any]]
    """As `pack_layout.row` makes them."""
    rejects: list[Reject]
    decode_s: float
    """Time of reading and decoding."""
    prepare_s: float
    """Time of hashing, measuring and copying."""


def chunks(shards: Iterable[Shard], *, workers: int) -> Generator[Chunk, None, None]:
    """Every entry of every shard, in order, in chunks of at most `TOGETHER`."""
    keep_freed_memory()
    return ahead(_load, pieces(shards, TOGETHER), workers, kin=stream_of, waits=is_far)


def _load(piece: Piece) -> Chunk:
    keep_freed_memory()  # for this may be another process
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    decode_s = prepare_s = 0.0
    started = perf_counter()
    for entry, record in zip(piece.entries, read_all(piece.entries), strict=True):
        decoded = perf_counter()
        if isinstance(record, Record):
            rows.append(pack_layout.row(entry.record_id, entry.source_path, record, _judged(record)))
        else:
            rejects.append(record)
        decode_s += decoded - started
        started = perf_counter()
        prepare_s += started - decoded
    return Chunk(
        shard=piece.shard,
        is_last=piece.is_last,
        rows=rows,
        rejects=rejects,
        decode_s=decode_s,
        prepare_s=prepare_s,
    )


def _judged(record: Record) -> Judged | None:
    """What `scores` says of it; None where it has not the eight leads, and will not be scored."""
    if record.judged is not None:
        return record.judged
    flat = host.flat_leads(record)
    compared = gate.comparable(record.leads, flat)
    try:
        nv = host.nanovolts(record, INDEPENDENT_LEADS + compared, flat)
    except RecordError:
        return None
    return judge(record, flat, compared, nv)
