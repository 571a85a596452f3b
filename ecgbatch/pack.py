"""Packing: an archive in, one row of samples or one reject for every entry out.

DIR/plan.parquet  written once, before the first part, as that of a run
DIR/records/      Parquet parts, one a shard; so are DIR/rejects/: see parts.py
DIR/pack.json     a report
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import facts, files, gate, parts, planning
from ecgbatch.cores import n_cores
from ecgbatch.errors import UsageError
from ecgbatch.feed.decoded import Chunk, chunks
from ecgbatch.formats import pack_layout as layout
from ecgbatch.output import exclusive, write_rejects
from ecgbatch.record import Reject
from ecgbatch.tally import Tally, spaced

__all__ = ["Options", "Output", "pack", "run"]

_GROUP_RECORDS, _GROUP_BYTES = 64, 16 * 2**20
"""Records, or bytes of samples, that make a row group: enough for Parquet, and few enough to have some in memory."""

Observer = Callable[[Tally], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to pack. A pack that is gone on with may change `workers`, nothing else."""

    shard_size: int = 4096
    """Entries committed together: what a crash can lose."""
    compression: str = "none"
    """Of the samples: `none` is the fastest to read, `zstd` the smallest."""
    limit: int | None = None
    """Pack only the first so many entries."""
    workers: int | None = None
    """Processes that read and decode, or threads if there is little to; as many as cores by default."""

    def __post_init__(self) -> None:
        for name in ("shard_size", "workers", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}, expected at least 1")
        if self.compression not in layout.COMPRESSIONS:
            raise UsageError(f"--compression {self.compression}, expected {', '.join(layout.COMPRESSIONS)}")


def pack(feed: Iterable[Chunk], out: "Output", tally: Tally, observe: Observer) -> None:
    """Pack every chunk; each entry ends as exactly one row of samples or one reject row."""
    for chunk in tally.timed(feed, "wait-feed"):
        with tally.written(chunk):
            out.add(chunk)
        observe(tally)


def run(
    sources: Sequence[Path | str],
    folder: Path,
    options: Options,
    *,
    observe: Observer = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Plan the pack in `folder` or go on with it, pack what is left, and check that every entry has its row.

    Raises:
        EcgbatchError: it failed; what was committed stays, and the same call goes on from there.
    """
    existed = os.path.exists(folder)
    planning.spare_foreign(folder)
    planning.require_sources(sources)
    tally = Tally(f"parquet {options.compression}", verb="packed")
    with exclusive(folder):
        plan = planning.planned(folder, sources, _settings(sources, options), existed=existed, say=say)
        report = facts.Facts(folder, plan, None, tally)
        done = parts.committed(folder)
        found = parts.counts(folder)
        tally.begin(plan.n_entries, found)
        say(f"{spaced(plan.n_entries)} entries, shards done before: {len(done)} of {plan.n_shards}")
        with closing(Output(folder, plan.fingerprint, options.compression)) as out:
            if len(done) == plan.n_shards and facts.is_finished(folder):
                say("nothing left to pack")
                parts.reconcile(folder, plan, found)
            else:
                feed = chunks(plan.shards(done=done), workers=options.workers or n_cores())
                with closing(feed), report.kept(found):
                    pack(feed, out, tally, observe)
    return tally


class Output:
    """The parts of one pack: writes a shard's row groups as they come, then commits them as one pair of files."""

    def __init__(self, folder: Path, fingerprint: str, compression: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._compression = compression
        self._part: _Part | None = None
        self._rejects: list[Reject] = []
        for kind in ("records", "rejects"):
            files.made(folder / kind)
        parts.discard_partials(folder)

    def add(self, chunk: Chunk) -> None:
        """Rows and rejects of the shard that is being packed; it is committed where they are its last.

        Raises:
            OutputError: the disk is full or not writable; the shard is not committed.
        """
        if self._part is None:
            path = self._folder / "records" / parts.name(chunk.shard)
            self._part = _Part(path, self._fingerprint, self._compression)
        self._part.add(chunk.rows)
        self._rejects.extend(chunk.rejects)
        if chunk.is_last:
            self._part.end()
            write_rejects(self._rejects, self._folder, chunk.shard, fingerprint=self._fingerprint)
            self._part.commit()
            self._part, self._rejects = None, []

    def close(self) -> None:
        """Throw away what was not committed."""
        if self._part is not None:
            self._part.discard()


class _Part:
    """A part that is being written, under a name of its own until it is whole."""

    def __init__(self, path: Path, fingerprint: str, compression: str) -> None:
        self._path = path
        self._partial = files.partial_of(path)
        self._waiting: list[dict[str, Any]] = []
        self._n_bytes = 0
        with parts.writing(self._path):
            self._file = self._partial.open("wb")
            self._writer = pq.ParquetWriter(
                self._file,
                layout.SCHEMA.with_metadata(layout.mark(fingerprint)),
                compression=layout.compression(compression),
                use_dictionary=False,
                write_statistics=layout.COMPARED,
                write_page_checksum=True,
            )

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self._waiting.append(row)
            self._n_bytes += len(row["counts"])
            if len(self._waiting) == _GROUP_RECORDS or self._n_bytes >= _GROUP_BYTES:
                self._flush()

    def end(self) -> None:
        """Have it whole on the disk itself, but not yet in its place."""
        if self._waiting:
            self._flush()
        with parts.writing(self._path):
            self._writer.close()
            self._file.close()
            files.sync(self._partial)

    def commit(self) -> None:
        with parts.writing(self._path):
            self._partial.replace(self._path)
            files.sync(self._path.parent)

    def discard(self) -> None:
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        with parts.writing(self._path):
            self._writer.write_table(layout.table(self._waiting))
        self._waiting, self._n_bytes = [], 0


def _settings(sources: Sequence[Path | str], options: Options) -> dict[str, Any]:
    """What a pack is the result of; another value of any of them is another pack."""
    return {
        "pack": layout.VERSION,
        "gate": gate.judgement(),
        "source": planning.named(sources),
        "compression": options.compression,
        "limit": options.limit,
        "shard_size": options.shard_size,
    }
