"""How near a whole run comes to the engine's own rate, and how far it leaves what people would write instead behind.

    python benchmarks/end_to_end.py --out benchmarks/results/end_to_end.json

All take turns over the same ECGs, which are read into the page cache before each, for a system may drop what lies idle:
`ecgbatch score` in each precision, from the files and from a pack of them, from the plan to the last commit; the
engines alone, fed from memory; `plain_pytorch.py` on each of its runtimes with the number of DataLoader processes that
serves it best, from the first file to the closed CSV. Starting up and loading the model is in none of them; the whole
time of each command stands beside it. At the end the scores of fp32 are compared with the plain script's.
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import engine
import inputs
import tables
from measurement import arguments, interleaved, ratios, spread, write

from ecgbatch import pack
from ecgbatch.bundle import Bundle, find
from ecgbatch.runtimes import choice

N_TRIAL = 600
"""Files that each number of DataLoader processes is tried with."""
RUNTIMES = ("eager", "compile", "onnxruntime")
TARGETS = {
    "fp32 files": {"engine": 0.90, "eager": 2.5},
    "int8 files": {"engine": 0.82, "eager": 7.0, "fp32 files": 2.3},
    "int8 pack": {"engine": 0.90},
}
"""What a run is to reach of its engine, and how many times others' rates."""


class Commands:
    """The commands, each started anew for every measurement, and how long they took as a whole."""

    def __init__(self, work: Path, *, model: str, batch: int) -> None:
        self.archive = work / "archive"
        self.pack = work / "pack"
        self.run = work / "run"
        self.csv = work / "scores.csv"
        self.whole_s: dict[str, list[float]] = defaultdict(list)
        self._options = ["--model", model, "--batch", str(batch)]

    def ecgbatch(self, name: str, source: Path, *, precision: str) -> float:
        """ECG/s of `ecgbatch score`."""
        shutil.rmtree(self.run, ignore_errors=True)
        inputs.into_page_cache(source)
        options = ["--out", str(self.run), "--precision", precision]
        self._timed(name, ["-P", "-m", "ecgbatch.cli", "score", str(source), *options])
        return float(self.facts()["ecg_per_s"])

    def plain(self, runtime: str, *, workers: int, limit: int | None = None) -> float:
        """ECG/s of the plain script."""
        inputs.into_page_cache(self.archive)
        script = str(Path(__file__).with_name("plain_pytorch.py"))
        options = ["--csv", str(self.csv), "--workers", str(workers), "--runtime", runtime]
        options += [] if limit is None else ["--limit", str(limit)]
        return float(json.loads(self._timed(runtime, [script, str(self.archive), *options]))["ecg_per_s"])

    def facts(self) -> dict[str, Any]:
        """What the last run of `ecgbatch score` says of its own rates."""
        invocation: dict[str, Any] = json.loads((self.run / "run.json").read_text("utf-8"))["invocation"]
        return invocation

    def _timed(self, name: str, command: list[str]) -> str:
        started = perf_counter()
        done = subprocess.run([sys.executable, *command, *self._options], capture_output=True, text=True, check=False)
        self.whole_s[name].append(perf_counter() - started)
        if done.returncode:
            raise SystemExit(f"{name}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--model", default="foundation")
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="of the plain script")
    parser.add_argument("--plain-workers", type=int, nargs="+", default=[0, 1, 2], help="the best of these is taken")
    parser.add_argument("--container", choices=inputs.CONTAINERS, default="muse-xml")
    args = parser.parse_args()
    bundle = find(args.model)
    with TemporaryDirectory() as work:
        commands = Commands(Path(work), model=str(bundle.folder), batch=args.batch)
        inputs.write_archive(commands.archive, args.container, args.n)
        pack.run([commands.archive], commands.pack, pack.Options())
        trials = _trials(commands, args.plain_workers)
        workers = max(trials, key=lambda n: trials[n], default=args.plain_workers[0])
        commands.whole_s.clear()
        subjects = _subjects(
            commands, bundle, args.precision, args.runtime, n=args.n, batch=args.batch, workers=workers
        )
        measured = _measure(commands, bundle, subjects, rounds=args.rounds)
    settings = {"model": bundle.name, "version": bundle.version, "container": args.container, "n": args.n}
    settings |= {"batch": args.batch, "rounds": args.rounds, "plain_workers": workers}
    measured["plain_trials_ecg_per_s"] = {str(n): rate for n, rate in trials.items()}
    print(tables.render(write(args.out, "end_to_end", settings, measured)))


def _trials(commands: Commands, plain_workers: list[int]) -> dict[int, float]:
    """ECG/s of the plain script with each number of DataLoader processes, where there is a choice."""
    if len(plain_workers) == 1:
        return {}
    return {n: commands.plain("eager", workers=n, limit=N_TRIAL) for n in plain_workers}


def _subjects(
    commands: Commands,
    bundle: Bundle,
    precisions: Sequence[str],
    runtimes: Sequence[str],
    *,
    n: int,
    batch: int,
    workers: int,
) -> dict[str, Callable[[], float]]:
    """What is measured, by name: `int8 files`, `int8 pack`, `int8 engine`, `eager`."""
    x = engine.records(bundle)
    subjects: dict[str, Callable[[], float]] = {}
    for precision in precisions:
        alone = choice.on_cpu(bundle, precision, batch=batch, default=batch)
        engine.ecg_per_s(alone, x, n=max(n // 4, batch))
        for kind, source in (("pack", commands.pack), ("files", commands.archive)):
            name = f"{precision} {kind}"
            subjects[name] = partial(commands.ecgbatch, name, source, precision=precision)
        subjects[f"{precision} engine"] = partial(engine.ecg_per_s, alone, x, n=n)
    return subjects | {runtime: partial(commands.plain, runtime, workers=workers) for runtime in runtimes}


def _measure(
    commands: Commands, bundle: Bundle, subjects: dict[str, Callable[[], float]], *, rounds: int
) -> dict[str, Any]:
    import plain_pytorch

    rates = {name: spread(values) for name, values in interleaved(subjects, rounds).items()}
    compared = {}
    for name, rate in rates.items():
        precision, _, kind = name.partition(" ")
        others = {"engine": f"{precision} engine", "eager": "eager", "fp32 files": f"fp32 {kind}"}
        if kind in ("files", "pack"):
            compared[name] = {
                to: {**ratios(rate, rates[other]), "target": TARGETS.get(name, {}).get(to)}
                for to, other in others.items()
                if other in rates and other != name
            }
    told: dict[str, Any] = {}
    if {"fp32 files", "eager"} <= set(rates):
        commands.ecgbatch("fp32 files", commands.archive, precision="fp32")
        commands.plain("eager", workers=0)
        told = {
            "largest_difference": plain_pytorch.largest_difference(commands.csv, commands.run, bundle),
            "tolerance": plain_pytorch.TOLERANCE,
        }
    whole = {name: spread(seconds) for name, seconds in commands.whole_s.items()}
    return {"ecg_per_s": rates, "ratios": compared, "whole_command_s": whole, **told}


if __name__ == "__main__":
    main()
