"""Whether the memory of a training stays flat however many ECGs it is trained on.

    python benchmarks/train_memory.py --out benchmarks/results/train_memory.json

`ecgbatch train pretrain` runs as a command, for one epoch of a network of next to no operations, on packs of growing
length: small records, copies of a few hundred, in int16 counts. Resident memory is read from /proc ten times a second.
"""

import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import inputs
import polars as pl
import tables
from measurement import arguments, spread, write
from watch import watched

from ecgbatch import pack

_N_POINTS = 100
"""Readings of each run that the result keeps."""


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 100_000], help="lengths of the pack")
    parser.add_argument("--folder", type=Path, help="where packs and trainings are made (default: a temporary folder)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.folder) as work:
        measured = {str(n): _grown(Path(work) / str(n), n, rounds=args.rounds) for n in sorted(args.n)}
    settings = {"n": sorted(args.n), "rounds": args.rounds, "epochs": 1, "batch": 64}
    print(tables.render(write(args.out, "train_memory", settings, {"packs": measured})))


def _grown(work: Path, n: int, *, rounds: int) -> dict[str, Any]:
    inputs.linked_archive(work / "archive", n)
    packed = pack.run([work / "archive"], work / "pack", pack.Options())
    if packed.n_scored != n:
        raise SystemExit(f"{packed.n_scored} of {n} records packed; the benchmark means nothing")
    _write_labels(work / "labels.csv", sorted(path.relative_to(work / "archive") for path in work.rglob("r*.xml")))
    runs = [_run(work, work / f"training{at}") for at in range(rounds)]
    return {
        "peak_mib": spread(run["peak_mib"] for run in runs),
        "growth_mib": spread(run["growth_mib"] for run in runs),
        "seconds": spread(run["seconds"] for run in runs),
        "rss_mib": [run["rss_mib"] for run in runs],
    }


def _run(work: Path, out: Path) -> dict[str, Any]:
    """One training: its highest resident memory, and what it grew by from its second quarter to its last."""
    options = "--widths 8,8,16 --depths 1,1 --epochs 1 --batch 64 --device cpu"
    command = [sys.executable, "-P", "-m", "ecgbatch.cli", "train", "pretrain", str(work / "pack")]
    command += ["--labels", str(work / "labels.csv"), "--out", str(out), *options.split()]
    # Threads of a network this small wait for each other most of the time.
    readings, peak_mib = watched(command, environment={**os.environ, "OMP_NUM_THREADS": "1"})
    mib = [value for _, value in readings]
    quarter = max(len(mib) // 4, 1)
    return {
        "peak_mib": peak_mib,
        "growth_mib": median(mib[-quarter:]) - median(mib[quarter : 2 * quarter] or mib),
        "seconds": readings[-1][0],
        "rss_mib": readings[:: -(-len(readings) // _N_POINTS)],
    }


def _write_labels(path: Path, names: list[Path]) -> None:
    """Two labels, of half and of a tenth of the records; two records a patient."""
    rows = range(len(names))
    columns = {
        "record_id": list(map(str, names)),
        "patient_id": [at // 2 for at in rows],
        "HALF": [at % 2 for at in rows],
        "TENTH": [int(at % 10 == 0) for at in rows],
    }
    pl.DataFrame(columns).write_csv(path)


if __name__ == "__main__":
    main()
