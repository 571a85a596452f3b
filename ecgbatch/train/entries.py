"""The ECGs of an archive, to train on: whatever `score` reads, read again and again."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from ecgbatch.archive import Entry
from ecgbatch.feed import batch
from ecgbatch.record import Record, Reject

__all__ = ["Entries"]

_BLOCK = 256
"""ECGs of a block: what a shuffle moves as one; a container is never in a block with what lies beside it."""
_CHUNK = 64
"""Entries that are read together."""
_STRINGS = pa.dictionary(pa.int32(), pa.string())


class Entries:
    """Entries in the order in which they were found, in columns: a pack of a million has a few hundred paths."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        listed = list(entries)
        self._columns = pa.table(
            {
                "record_id": pa.array([entry.record_id for entry in listed], pa.string()),
                "path": pa.array([entry.path for entry in listed], _STRINGS),
                "n_bytes": pa.array([entry.n_bytes for entry in listed], pa.int64()),
                "modified_ns": pa.array([entry.modified_ns for entry in listed], pa.int64()),
                "member": pa.array([entry.member for entry in listed], pa.string()),
            }
        )
        self.block = _blocks(listed)

    def __len__(self) -> int:
        return len(self.block)

    @property
    def record_ids(self) -> list[str]:
        ids: list[str] = self._columns["record_id"].to_pylist()
        return ids

    @property
    def source_paths(self) -> list[str]:
        """Where each ECG is."""
        places = zip(self._columns["path"].to_pylist(), self._columns["member"].to_pylist(), strict=True)
        return [path if member is None else f"{path}#{member}" for path, member in places]

    @property
    def members(self) -> list[str]:
        """Their names in the containers that hold them; empty for a loose file."""
        return [member or "" for member in self._columns["member"].to_pylist()]

    @property
    def sha256(self) -> str:
        """Of the names and sizes: another place or time makes no other cohort."""
        digest = hashlib.sha256()
        for name, n_bytes in zip(self.record_ids, self._columns["n_bytes"].to_pylist(), strict=True):
            digest.update(f"{name}\0{n_bytes}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def read(self, at: np.ndarray) -> Iterator[Record | Reject]:
        """The ECGs of these numbers, in this order."""
        for start in range(0, len(at), _CHUNK):
            rows = self._columns.take(pa.array(at[start : start + _CHUNK])).to_pylist()
            yield from batch.read_all([Entry(**row) for row in rows])


def _blocks(entries: list[Entry]) -> np.ndarray:
    """A number a block, int (entry,): a new block where a container begins or ends, and after every so many entries."""
    block = np.empty(len(entries), np.int64)
    number, begun, container = -1, 0, ""
    for at, entry in enumerate(entries):
        own = "" if entry.member is None else entry.path
        if at == 0 or own != container or at - begun == _BLOCK:
            number, begun, container = number + 1, at, own
        block[at] = number
    return block
