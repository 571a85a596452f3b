"""The main path: an archive in, one row for every entry out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgbatch import duplicates, gate, parts, planning
from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.errors import EngineError, UsageError
from ecgbatch.facts import Facts, is_finished, recount
from ecgbatch.feed import FEEDS, Feed, open_feed
from ecgbatch.feed.batch import Batch
from ecgbatch.output import Output, Outputs, exclusive
from ecgbatch.runtimes import PRECISIONS, is_gpu, placement
from ecgbatch.tally import Tally, spaced
from ecgbatch.trunk import Trunk, opened

__all__ = ["Options", "run", "score"]

Observer = Callable[[Tally], None]
Lane = tuple[Iterable[Batch], Sequence[Trunk], Output]
"""What one device does: what it is fed, the networks on it, and where its rows go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to score.

    A run that is gone on with may change `device`, `feed`, `batch`, `workers`, `deduplicate`, nothing else.
    """

    device: str = "auto"
    precision: str = "auto"
    feed: str = "host"
    """Who makes model input of decoded records: one of `feed.FEEDS`."""
    batch: int | None = None
    """Records the engine takes at once; what suits it by default."""
    shard_size: int = 4096
    """Entries committed together: what a crash can lose."""
    embeddings: bool = False
    limit: int | None = None
    """Score only the first so many entries."""
    reject_poor: float | None = None
    """Reject records of less quality than this."""
    workers: int | None = None
    """Processes that read and decode, or threads if there is little to; a quarter of the cores by default beside
    engines on a CPU, all of them for a GPU."""
    deduplicate: bool = False
    """At the end, take out of the scores what has the waveform of an earlier entry."""

    def __post_init__(self) -> None:
        for name in ("batch", "shard_size", "workers", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}, expected at least 1")
        is_gpu(self.device)  # raises where it is no device
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision!r}, expected {' or '.join(map(repr, PRECISIONS))}")
        if self.feed not in FEEDS:
            raise UsageError(f"--feed {self.feed!r}, expected {' or '.join(map(repr, FEEDS))}")
        if self.reject_poor is not None and not 0 <= self.reject_poor <= 1:
            raise UsageError(f"--reject-poor {self.reject_poor}, expected 0 to 1")


def score(lanes: Sequence[Lane], tally: Tally, observe: Observer) -> None:
    """Score every batch of every device's feed; each entry ends as exactly one score row or one reject row."""
    try:
        for at, (batch, outputs) in tally.timed(_together(lanes, tally), "wait-engine"):
            out = lanes[at][2]
            with tally.written(batch):
                out.add(batch.rows, batch.rejects, outputs)
                if batch.is_last:
                    out.commit(batch.shard)
            observe(tally)
    finally:
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
    planning.spare_foreign(folder)
    planning.require_sources(sources)
    recorded = planning.recorded(folder, "precision")
    devices = [
        opened(bundles, device, options.precision, batch=options.batch, recorded=recorded)
        for device in placement.split(options.device)
    ]
    _require_alike(devices)
    trunks = devices[0]
    tally = Tally(", ".join(dict.fromkeys(str(trunk.engine) for each in devices for trunk in each)))
    feeds = [_feed(bundles, each, options, n_devices=len(devices)) for each in devices]
    say(f"device: {tally.engine}")
    with exclusive(folder):
        plan = planning.planned(folder, sources, _settings(sources, bundles, trunks, options), existed=existed, say=say)
        embeddings = [trunk.name for trunk in trunks] if options.embeddings else []
        outs = [Output(folder, bundles, fingerprint=plan.fingerprint, embeddings=embeddings) for _ in devices]
        facts = Facts(folder, plan, bundles, tally, options.feed)
        done = parts.committed(folder)
        if len(done) < plan.n_shards and (n_restored := duplicates.restore(folder, plan)):
            say(f"{spaced(n_restored)} duplicates are among the scores again until the run is finished")
        found = parts.counts(folder)
        tally.begin(plan.n_entries, found)
        say(f"{spaced(plan.n_entries)} entries, shards done before: {len(done)} of {plan.n_shards}")
        if len(done) == plan.n_shards and is_finished(folder):
            say("nothing left to score")
            parts.reconcile(folder, plan, found)
            recount(folder, plan, found)
        else:
            with ExitStack() as stack, facts.kept(found):
                fed = [
                    stack.enter_context(closing(feed(placement.own_shards(plan.shards(done=done), at, len(devices)))))
                    for at, feed in enumerate(feeds)
                ]
                score(list(zip(fed, devices, outs, strict=True)), tally, observe)
        if options.deduplicate:
            tally.count(duplicates.take_out(folder, plan, say=say))
    return tally


def _require_alike(devices: Sequence[Sequence[Trunk]]) -> None:
    """Nothing, where every device runs the same networks in the same precision: the run's scores are of one kind.

    Raises:
        EngineError: they do not.
    """
    for trunks in devices[1:]:
        for one, other in zip(devices[0], trunks, strict=True):
            if one.engine.variant != other.engine.variant:
                raise EngineError(f"{one.engine} and {other.engine}: expected one precision; give --precision")


def _feed(bundles: Sequence[Bundle], trunks: Sequence[Trunk], options: Options, *, n_devices: int) -> Feed:
    """What feeds the engines of one device."""
    device = str(trunks[0].engine).partition(" ")[0]
    workers = options.workers or max(1, n_cores() // 4 if device == "cpu" else n_cores())
    return open_feed(
        options.feed,
        list(dict.fromkeys(bundle.input for bundle in bundles)),
        device=device,
        size=trunks[0].engine.batch,
        workers=-(-workers // n_devices),
        least_quality=options.reject_poor,
    )


def _together(lanes: Sequence[Lane], tally: Tally) -> Iterator[tuple[int, tuple[Batch, Outputs]]]:
    """Each scored batch and the place of its lane, whose shards are its own; several devices run at once."""
    if len(lanes) == 1:
        (feed, trunks, _), *_ = lanes
        return ((0, item) for item in _scored(tally.timed(feed, "wait-feed"), trunks))
    return placement.merged([_scored(feed, trunks) for feed, trunks, _ in lanes])


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


def _settings(
    sources: Sequence[Path | str], bundles: Sequence[Bundle], trunks: Sequence[Trunk], options: Options
) -> dict[str, Any]:
    """What a run is the result of; another value of any of them is another run."""
    return {
        "source": planning.named(sources),
        "model": [f"{bundle.name} {bundle.fingerprint[:16]}" for bundle in bundles],
        "precision": ", ".join(dict.fromkeys(trunk.engine.variant for trunk in trunks)),
        "embeddings": options.embeddings,
        "limit": options.limit,
        "shard_size": options.shard_size,
        "reject_poor": None
        if options.reject_poor is None
        else f"{options.reject_poor:g} (gate {gate.shipped().version})",
    }
