"""What more workers bring the feed: as threads of one interpreter, and as processes, which `ecgbatch score` takes.

    python benchmarks/workers.py --out benchmarks/results/workers.json

Files in the page cache become batches with hash and quality. Rates are of the last three quarters: processes have
started by then, and `start_s` says what that takes until the first batch.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest import mock

import inputs
import tables
from inputs import CONTAINERS, SPEC
from measurement import arguments, interleaved, ratios, spread, write

from ecgbatch import pack
from ecgbatch.archive import Entry
from ecgbatch.cores import n_cores
from ecgbatch.feed import ahead
from ecgbatch.feed.batch import Batch, batches
from ecgbatch.plan import Shard

BATCH = 32


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--n", type=int, default=12_000, help="records of each source")
    parser.add_argument("--workers", type=int, default=n_cores())
    args = parser.parse_args()
    kinds = ("one", "threads", "processes")
    started: dict[str, list[float]] = {kind: [] for kind in kinds}
    with TemporaryDirectory() as work:
        sources = _sources(Path(work), args.n)
        subjects = {
            f"{name} {kind}": partial(_rate, listed, kind, args.workers, started[kind])
            for name, listed in sources.items()
            for kind in kinds
        }
        values = {name: spread(each) for name, each in interleaved(subjects, args.rounds).items()}
    measured: dict[str, Any] = {"start_s": {kind: spread(each) for kind, each in started.items()}}
    measured["feeds"] = {
        name: {
            "ecg_per_s": {kind: values[f"{name} {kind}"] for kind in kinds},
            "to_one": {kind: ratios(values[f"{name} {kind}"], values[f"{name} one"]) for kind in kinds[1:]},
        }
        for name in sources
    }
    settings = {"n": args.n, "rounds": args.rounds, "batch": BATCH, "workers": args.workers}
    print(tables.render(write(args.out, "workers", settings, measured)))


def _sources(work: Path, n: int) -> dict[str, list[Entry]]:
    inputs.write_archive(work / "files", CONTAINERS[0], n)
    pack.run([work / "files"], work / "pack", pack.Options())
    return {CONTAINERS[0]: inputs.entries(work / "files"), "pack": inputs.entries(work / "pack")}


def _rate(listed: list[Entry], kind: str, workers: int, started: list[float]) -> float:
    """ECG/s of one worker, or of several of a kind."""
    with mock.patch.object(ahead, "can_start", return_value=kind == "processes"):
        feed = batches([Shard(0, listed)], [SPEC], size=BATCH, workers=1 if kind == "one" else workers)
        began = perf_counter()
        n_first = _taken(feed, 1)
        started.append(perf_counter() - began)
        n_first += _taken(feed, len(listed) // BATCH // 4)
        began = perf_counter()
        n = _taken(feed, len(listed))
    if n_first + n != len(listed):
        raise SystemExit(f"{n_first + n} of {len(listed)} good records fed, expected all; the benchmark means nothing")
    return n / (perf_counter() - began)


def _taken(feed: Iterator[Batch], n: int) -> int:
    """Records of the next n batches, or of what there is."""
    return sum(len(batch.rows) for _, batch in zip(range(n), feed, strict=False))


if __name__ == "__main__":
    main()
