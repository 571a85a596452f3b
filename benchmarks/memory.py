"""Whether the memory of a run stays flat however long its archive is, and how fast the archive is planned.

    python benchmarks/memory.py --out benchmarks/results/memory.json

`ecgbatch score` runs as a command over archives of growing length: directory entries that are links to a few hundred
small files, scored with a network of next to no operations, so that a hundred thousand take a minute or two. `--model`
takes a real one instead. Resident memory is read from /proc ten times a second.
"""

import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import inputs
import tables
from measurement import arguments, spread, write
from watch import watched

from ecgbatch import archive, bundle, formats
from ecgbatch.plan import Plan

TARGET_MIB = 1536
_N_POINTS = 100
"""Readings of each run that the result keeps."""


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 30_000, 100_000], help="lengths of the archive")
    parser.add_argument("--model", help="bundle (default: a tiny one, made for this)")
    parser.add_argument("--shard-size", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where archives and runs are made (default: a temporary folder)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.folder) as work:
        model = bundle.find(args.model) if args.model else inputs.tiny_bundle((args.folder or Path(work)) / "tiny")
        measured = {
            str(n): _grown(Path(work) / str(n), n, model, shard_size=args.shard_size, rounds=args.rounds)
            for n in sorted(args.n)
        }
    settings = {"model": model.name, "n": sorted(args.n), "rounds": args.rounds, "shard_size": args.shard_size}
    result = {"archives": measured, "target_mib": TARGET_MIB}
    print(tables.render(write(args.out, "memory", settings, result)))


def _grown(work: Path, n: int, model: bundle.Bundle, *, shard_size: int, rounds: int) -> dict[str, Any]:
    source = work / "archive"
    inputs.linked_archive(source, n)
    runs = [_run(source, work / f"run{at}", model, shard_size) for at in range(rounds)]
    return {
        "peak_mib": spread(run["peak_mib"] for run in runs),
        "growth_mib": spread(run["growth_mib"] for run in runs),
        "ecg_per_s": spread(run["ecg_per_s"] for run in runs),
        "planned_per_s": spread(_planned_per_s(source, work / f"{at}.parquet", n) for at in range(max(rounds, 3))),
        "rss_mib": [run["rss_mib"] for run in runs],
    }


def _run(source: Path, out: Path, model: bundle.Bundle, shard_size: int) -> dict[str, Any]:
    """One run: its highest resident memory, and what it grew by from its second quarter to its last."""
    options = ["--model", str(model.folder), "--shard-size", str(shard_size)]
    command = [sys.executable, "-P", "-m", "ecgbatch.cli", "score", str(source), "--out", str(out), *options]
    readings, peak_mib = watched(command)
    facts = json.loads((out / "run.json").read_text("utf-8"))
    if facts["counts"]["scored"] != facts["counts"]["entries"]:
        raise SystemExit(f"{facts['counts']}, expected every record scored; the benchmark means nothing")
    begun_s = readings[-1][0] - facts["invocation"]["seconds"]
    scoring = [mib for at_s, mib in readings if at_s >= begun_s]
    quarter = max(len(scoring) // 4, 1)
    return {
        "peak_mib": peak_mib,
        "growth_mib": median(scoring[-quarter:]) - median(scoring[quarter : 2 * quarter] or scoring),
        "ecg_per_s": facts["invocation"]["ecg_per_s"],
        "rss_mib": readings[:: -(-len(readings) // _N_POINTS)],
    }


def _planned_per_s(source: Path, path: Path, n: int) -> float:
    """Entries a second of listing an archive, file names in memory of the kernel, and of writing the plan."""
    started = perf_counter()
    listed = archive.scan([source], companions=formats.companions, skip=path)
    planned = Plan.write(path, listed, shard_size=4096, settings={"shard_size": 4096}).n_entries
    assert planned == n
    return n / (perf_counter() - started)


if __name__ == "__main__":
    main()
