"""What the DALI feed costs beside the host's, on a CPU, and what base64 costs that it leaves to the host.

    python benchmarks/dali.py --out benchmarks/results/dali.json

Both feeds turn the same files in the page cache into batches, with hash and quality, on the same number of threads of
their own; DALI's threads come on top of them, and all of them share `--cores`. Below that, the last step alone: records
in memory to batches, by the host's kernel on one thread and by the graph on one.
"""

import os
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import inputs
import numpy as np
import tables
from inputs import CONTAINERS, SPEC
from measurement import arguments, interleaved, ratios, spread, write

from ecgbatch import _kernels, pack, synth
from ecgbatch.archive import Entry
from ecgbatch.feed import Feed, dali, dali_operator, host, open_feed, payload
from ecgbatch.feed.batch import Batch, keep_freed_memory
from ecgbatch.plan import Shard
from ecgbatch.record import Record

BATCH = 32


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--n", type=int, default=800, help="records of each container")
    parser.add_argument("--workers", type=int, default=1, help="threads of each feed, and again of DALI")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, args.cores)
    keep_freed_memory()
    dali_operator.build()
    records = [synth.record(seed=seed, fs_hz=500, seconds=10) for seed in range(BATCH)]
    with TemporaryDirectory() as work:
        sources = _sources(Path(work), args.n)
        subjects: dict[str, Callable[[], float]] = {
            f"{name} {feed}": partial(feed_rate, feed, listed, workers=args.workers)
            for name, listed in sources.items()
            for feed in ("host", "dali")
        }
        subjects["input host"] = partial(host_rate, records, args.n)
        subjects["input dali"] = partial(graph_rate, records, args.n)
        subjects["base64"] = partial(base64_us, records[0])
        for subject in subjects.values():
            subject()
        values = {name: spread(each) for name, each in interleaved(subjects, args.rounds).items()}
    measured = {
        "feeds": {name: _compared(values, name) for name in sources},
        "input": _compared(values, "input"),
        "base64_us": values["base64"],
    }
    settings = {"n": args.n, "rounds": args.rounds, "batch": BATCH, "workers": args.workers, "cores": args.cores}
    print(tables.render(write(args.out, "dali", settings, measured)))


def _sources(work: Path, n: int) -> dict[str, list[Entry]]:
    """The same records as files of each container, and as a pack."""
    sources = {}
    for container in CONTAINERS:
        inputs.write_archive(work / container, container, n)
        sources[container] = inputs.entries(work / container)
    pack.run([work / CONTAINERS[0]], work / "pack", pack.Options(workers=1))
    return {**sources, "pack": inputs.entries(work / "pack")}


def _compared(values: dict[str, Any], name: str) -> dict[str, Any]:
    one, other = values[f"{name} host"], values[f"{name} dali"]
    return {"host_ecg_per_s": one, "dali_ecg_per_s": other, "ratio": ratios(other, one)}


def feed_rate(name: str, listed: list[Entry], *, workers: int) -> float:
    """ECG/s of a feed; opening it, which a run does once, is left out."""
    feed: Feed = open_feed(name, [SPEC], device="cpu", size=BATCH, workers=workers)
    started = perf_counter()
    n = sum(len(batch.x[SPEC]) for batch in feed([Shard(0, listed)]))
    seconds = perf_counter() - started
    if n != len(listed):
        raise SystemExit(f"{n} of {len(listed)} good records fed, expected all; the benchmark means nothing")
    return n / seconds


def host_rate(records: list[Record], n: int) -> float:
    """ECG/s of the host's kernels on one thread, from records to batches."""
    started = perf_counter()
    for _ in range(n // BATCH):
        x = host.room(BATCH, SPEC)
        for record, row in zip(records, x, strict=True):
            host.normalise(record, SPEC, row)
    return n // BATCH * BATCH / (perf_counter() - started)


def graph_rate(records: list[Record], n: int) -> float:
    """ECG/s of the graph with one thread, from records to batches."""
    graph = dali.Graph([SPEC], device="cpu", size=BATCH, workers=1)

    def made() -> Batch:
        room = payload.room(BATCH, SPEC)
        for record, row in zip(records, room, strict=True):
            row[0] = payload.of(record, SPEC, host.flat_leads(record))
        rows: list[Any] = [None] * BATCH
        return Batch(shard=0, is_last=False, rows=rows, x={SPEC: room}, rejects=[])

    started = perf_counter()
    n_done = sum(len(batch.x[SPEC]) for batch in graph.filled(made() for _ in range(n // BATCH)))
    return n_done / (perf_counter() - started)


def base64_us(record: Record) -> float:
    """Time to take a record's samples out of a MUSE file's base64, check sums included."""
    blocks = [b64encode(lead.tobytes()) for lead in record.counts]
    ends = np.cumsum([len(block) for block in blocks]).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    text, out = b"".join(blocks), np.empty((len(blocks), 2 * record.n_samples), np.uint8)
    n_times = 200
    started = perf_counter()
    for _ in range(n_times):
        _kernels.base64_blocks(text, spans, out)
    return (perf_counter() - started) / n_times * 1e6


if __name__ == "__main__":
    main()
