"""The plan of a run: every entry and its shard, written once, before the first score."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import files
from ecgbatch.archive import Entry
from ecgbatch.errors import OutputError

__all__ = ["Piece", "Plan", "Shard", "pieces"]

_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # ns since 1970
        ("shard", pa.int32()),
        ("member", pa.string()),  # of the archive at path; null for a loose file
    ]
)
_ROWS = 16_384
"""Entries in memory at a time while the plan is written or read."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of entries whose scores are committed together."""

    index: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive entries of a shard, read together."""

    shard: int
    entries: list[Entry]
    is_last: bool
    """Whether they end it."""


def pieces(shards: Iterable[Shard], size: int) -> Iterator[Piece]:
    """Every shard, in order, in pieces of at most `size` entries."""
    for shard in shards:
        for start in range(0, len(shard.entries), size):
            end = start + size
            yield Piece(shard.index, shard.entries[start:end], is_last=end >= len(shard.entries))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will score. The settings it was made for lie in its footer, so file and settings are born together."""

    path: Path
    n_entries: int
    n_shards: int
    settings: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of everything that the scores are the result of."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def n_entries_of(self, shard: int) -> int:
        shard_size = int(self.settings["shard_size"])
        return min(shard_size, self.n_entries - shard * shard_size)

    @classmethod
    def write(cls, path: Path, entries: Iterable[Entry], *, shard_size: int, settings: Mapping[str, Any]) -> "Plan":
        """Write all entries, in order; the file appears whole or not at all."""
        metadata = {"ecgbatch": json.dumps(settings)}
        source = iter(entries)
        n_entries = 0
        with (
            files.writing(path),
            files.replaced(path) as partial,
            pq.ParquetWriter(partial, _SCHEMA.with_metadata(metadata), compression="zstd") as writer,
        ):
            while rows := list(islice(source, _ROWS)):
                writer.write_table(_table(rows, n_entries, shard_size))
                n_entries += len(rows)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Plan":
        """The plan in that file.

        Raises:
            OutputError: it is not one.
        """
        try:
            with pq.ParquetFile(path) as file:
                settings = json.loads((file.schema_arrow.metadata or {})[b"ecgbatch"])
                n_entries = file.metadata.num_rows
        except (OSError, pa.ArrowException, KeyError, ValueError) as err:
            raise OutputError(f"{path}: not a plan of ecgbatch") from err
        shard_size = settings["shard_size"]
        return cls(path, n_entries, -(-n_entries // shard_size), settings)

    def shards(self, *, done: Collection[int]) -> Iterator[Shard]:
        """The shards that are not done, in order."""
        waiting: list[Entry] = []
        index = 0
        with pq.ParquetFile(self.path) as file:
            for table in file.iter_batches(batch_size=_ROWS):
                for record_id, path, size, mtime, shard, member in zip(*table.to_pydict().values(), strict=True):
                    if shard != index:
                        if index not in done:
                            yield Shard(index, waiting)
                        waiting, index = [], shard
                    if shard not in done:
                        waiting.append(Entry(record_id, path, size, mtime, member))
        if self.n_entries and index not in done:
            yield Shard(index, waiting)


def _table(entries: list[Entry], n_before: int, shard_size: int) -> pa.Table:
    return pa.table(
        {
            "record_id": [_text(entry.record_id) for entry in entries],
            "path": [_text(entry.path) for entry in entries],
            "size": [entry.n_bytes if _is_text(entry.path) else None for entry in entries],
            "mtime": [entry.modified_ns if _is_text(entry.path) else None for entry in entries],
            "shard": [(n_before + i) // shard_size for i in range(len(entries))],
            "member": [entry.member if entry.member is None else _text(entry.member) for entry in entries],
        },
        schema=_SCHEMA,
    )


def _text(name: str) -> str:
    """A file name as valid Unicode; bytes that are not UTF-8 are spelt out, and the file cannot be opened."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_text(name: str) -> bool:
    return name.isascii() or _text(name) == name
