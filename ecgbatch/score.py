"""The main path: an archive in, one row for every entry out."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any

from ecgbatch import archive, duplicates, formats, gate, parts
from ecgbatch.bundle import Bundle
from ecgbatch.errors import ArchiveError, OutputError, UsageError
from ecgbatch.facts import Facts, is_finished, recount
from ecgbatch.feed.batch import Batch, batches
from ecgbatch.output import Output, Outputs, exclusive
from ecgbatch.plan import Plan
from ecgbatch.remote import is_url
from ecgbatch.tally import Tally, spaced
from ecgbatch.trunk import Trunk, opened

__all__ = ["Options", "run", "score"]

Observer = Callable[[Tally], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to score. A run that is gone on with may change `device`, `batch`, `workers`, `deduplicate`, nothing else."""

    device: str = "auto"
    precision: str = "auto"
    batch: int = 32
    """Records the engine takes at once."""
    shard_size: int = 4096
    """Entries committed together: what a crash can lose."""
    embeddings: bool = False
    limit: int | None = None
    """Score only the first so many entries."""
    reject_poor: float | None = None
    """Reject records of less quality than this."""
    workers: int = 2
    """Threads that read and decode."""
    deduplicate: bool = False
    """At the end, take out of the scores what has the waveform of an earlier entry."""

    def __post_init__(self) -> None:
        for name in ("batch", "shard_size", "workers", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}, expected at least 1")
        if self.reject_poor is not None and not 0 <= self.reject_poor <= 1:
            raise UsageError(f"--reject-poor {self.reject_poor}, expected 0 to 1")


def score(feed: Iterable[Batch], trunks: Sequence[Trunk], out: Output, tally: Tally, observe: Observer) -> None:
    """Score every batch; each entry ends as exactly one score row or one reject row."""
    for batch, outputs in tally.timed(_scored(tally.timed(feed, "wait-feed"), trunks), "wait-engine"):
        started = perf_counter()
        out.add(batch.rows, batch.rejects, outputs)
        if batch.is_last:
            out.commit(batch.shard)
        tally.stage_s["write"] += perf_counter() - started
        tally.stage_s["decode"] += batch.decode_s
        tally.stage_s["prepare"] += batch.prepare_s
        tally.n_scored += len(batch.rows)
        tally.n_rejected += len(batch.rejects)
        observe(tally)
    tally.stage_s["wait-engine"] -= tally.stage_s["wait-feed"]  # the engines pull the feed


def run(
    sources: Sequence[Path | str],
    folder: Path,
    bundles: Sequence[Bundle],
    options: Options,
    *,
    observe: Observer = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Plan the run in `folder` or go on with it, score what is left, and check that every entry has its row.

    Raises:
        EcgbatchError: the run failed; what was committed stays, and the same call goes on from there.
    """
    existed = os.path.exists(folder)
    _refuse_foreign(folder)
    for source in sources:
        if not is_url(str(source)) and not os.path.exists(source):
            raise ArchiveError(f"{source}: no such file or folder")
    trunks = opened(bundles, options.device, options.precision, batch=options.batch)
    tally = Tally(str(trunks[0].engine))
    say(f"device: {tally.engine}")
    with exclusive(folder):
        plan = _planned(folder, sources, _settings(sources, bundles, options), existed=existed)
        embeddings = [trunk.name for trunk in trunks] if options.embeddings else []
        out = Output(folder, bundles, fingerprint=plan.fingerprint, embeddings=embeddings)
        facts = Facts(folder, plan, bundles, tally)
        done = parts.committed(folder)
        if len(done) < plan.n_shards and (n_restored := duplicates.restore(folder, plan)):
            say(f"{spaced(n_restored)} duplicates are among the scores again until the run is finished")
        found = parts.counts(folder)
        tally.n_entries = plan.n_entries
        tally.count(found)
        tally.n_before = tally.n_done
        say(f"{spaced(plan.n_entries)} entries, shards done before: {len(done)} of {plan.n_shards}")
        if len(done) == plan.n_shards and is_finished(folder):
            say("nothing left to score")
            parts.reconcile(folder, plan, found)
            recount(folder, plan, found)
        else:
            facts.write("running", found)
            specs = list(dict.fromkeys(bundle.input for bundle in bundles))
            feed = batches(
                plan.shards(done=done),
                specs,
                size=options.batch,
                workers=options.workers,
                least_quality=options.reject_poor,
            )
            _go_on(feed, trunks, out, facts, observe)
        if options.deduplicate:
            tally.count(duplicates.take_out(folder, plan, say=say))
    return tally


def _go_on(feed: Iterable[Batch], trunks: Sequence[Trunk], out: Output, facts: Facts, observe: Observer) -> None:
    """Score what is left, tell how it ended in `run.json`, and check that every entry has its row."""
    tally, plan = facts.tally, facts.plan
    started = perf_counter()
    try:
        score(feed, trunks, out, tally, observe)
    except BaseException:
        with suppress(OutputError):
            facts.write("stopped", parts.counts(out.folder))
        raise
    tally.seconds = perf_counter() - started
    found = parts.counts(out.folder)
    facts.write("finished" if parts.n_rows(found) == plan.n_entries else "failed", found)
    parts.reconcile(out.folder, plan, found)


def _scored(feed: Iterable[Batch], trunks: Sequence[Trunk]) -> Iterator[tuple[Batch, Outputs]]:
    """Each batch with what every model says of it; all engines work at once, each on a batch of its own."""
    stream: Iterator[tuple[Batch, Outputs]] = ((batch, {}) for batch in feed)
    for trunk in trunks:
        stream = _through(trunk, stream)
    return stream


def _through(trunk: Trunk, stream: Iterator[tuple[Batch, Outputs]]) -> Iterator[tuple[Batch, Outputs]]:
    spec = trunk.engine.bundle.input
    inputs = ((item, item[0].x[spec]) for item in stream)
    for (batch, outputs), logits, embedding in trunk.engine.stream(inputs):
        yield batch, {**outputs, **trunk.outputs(logits, embedding)}


def _settings(sources: Sequence[Path | str], bundles: Sequence[Bundle], options: Options) -> dict[str, Any]:
    """What a run is the result of; another value of any of them is another run."""
    return {
        "source": [str(source) if is_url(str(source)) else os.path.abspath(source) for source in sources],
        "model": [f"{bundle.name} {bundle.fingerprint[:16]}" for bundle in bundles],
        "precision": "fp32" if options.precision == "auto" else options.precision,
        "embeddings": options.embeddings,
        "limit": options.limit,
        "shard_size": options.shard_size,
        "reject_poor": None
        if options.reject_poor is None
        else f"{options.reject_poor:g} (gate {gate.shipped().version})",
    }


def _refuse_foreign(folder: Path) -> None:
    """Leave alone a folder that is neither a run nor empty.

    Raises:
        OutputError: it holds something else, or cannot be looked into.
    """
    try:
        found = set(os.listdir(folder)) if os.path.lexists(folder) else set()
    except OSError as err:
        raise OutputError(f"{folder}: cannot be a run folder: {err.strerror}") from err
    if "plan.parquet" not in found and (foreign := found - {".lock", "plan.parquet.partial"}):
        raise OutputError(f"{folder}: holds {min(foreign)!r} and no plan, expected a new folder or a run of ecgbatch")


def _planned(folder: Path, sources: Sequence[Path | str], settings: Mapping[str, Any], *, existed: bool) -> Plan:
    """The plan in `folder` if it is of these settings, else a new one in an empty folder.

    Raises:
        OutputError: the folder holds another run.
        ArchiveError: the sources cannot be listed; a folder that is new is removed again.
    """
    path = folder / "plan.parquet"
    if path.exists():
        plan = Plan.open(path)
        for name, planned in plan.settings.items():
            if settings.get(name) != planned:
                detail = f"{name.replace('_', '-')} {_plain(planned)}, not {_plain(settings.get(name))}"
                raise OutputError(f"{folder}: holds a run with {detail}; use another --out for another run")
        return plan
    try:
        entries = archive.scan(sources, companions=formats.companions, skip=folder)
        first = next(entries, None)
        if first is None:
            raise ArchiveError(f"{_plain(settings['source'])}: holds no file; nothing was planned")
        entries = islice(chain([first], entries), settings["limit"])
        return Plan.write(path, entries, shard_size=settings["shard_size"], settings=settings)
    except BaseException:
        if not existed:
            shutil.rmtree(folder)
        raise


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
