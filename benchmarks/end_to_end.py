"""How near a whole run comes to the engine's own rate, and how far it leaves the plain PyTorch script behind.

    python benchmarks/end_to_end.py --out benchmarks/results/end_to_end.json

Three subjects take turns over the same MUSE XML files in the page cache: `ecgbatch score`, from the plan to the last
commit; the engine alone, fed from memory; `plain_pytorch.py` with the number of DataLoader processes that serves it
best, from the first file to the closed CSV. Starting up and loading the model is in none of the three; the whole time
of each command stands beside it. At the end the scores of both are compared.
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import engine
import inputs
import tables
from measurement import arguments, interleaved, ratios, spread, write

from ecgbatch.bundle import Bundle, find
from ecgbatch.runtimes import cpu

N_TRIAL = 600
"""Files that each number of DataLoader processes is tried with."""


class Commands:
    """The two commands, each started anew for every measurement, and how long they took as a whole."""

    def __init__(self, work: Path, *, model: str, batch: int) -> None:
        self.archive = work / "archive"
        self.run = work / "run"
        self.csv = work / "scores.csv"
        self.whole_s: dict[str, list[float]] = defaultdict(list)
        self._options = ["--model", model, "--batch", str(batch)]

    def ecgbatch(self) -> float:
        """ECG/s of `ecgbatch score`."""
        shutil.rmtree(self.run, ignore_errors=True)
        self._timed("ecgbatch", ["-P", "-m", "ecgbatch.cli", "score", str(self.archive), "--out", str(self.run)])
        return float(self.facts()["ecg_per_s"])

    def plain(self, *, workers: int, limit: int | None = None) -> float:
        """ECG/s of the plain script."""
        script = str(Path(__file__).with_name("plain_pytorch.py"))
        options = ["--csv", str(self.csv), "--workers", str(workers)]
        options += [] if limit is None else ["--limit", str(limit)]
        return float(json.loads(self._timed("plain", [script, str(self.archive), *options]))["ecg_per_s"])

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
    parser.add_argument("--plain-workers", type=int, nargs="+", default=[0, 1, 2], help="the best of these is taken")
    parser.add_argument("--container", choices=inputs.CONTAINERS, default="muse-xml")
    args = parser.parse_args()
    bundle = find(args.model)
    with TemporaryDirectory() as work:
        commands = Commands(Path(work), model=str(bundle.folder), batch=args.batch)
        inputs.write_archive(commands.archive, args.container, args.n)
        trials = _trials(commands, args.plain_workers)
        workers = max(trials, key=lambda n: trials[n], default=args.plain_workers[0])
        commands.whole_s.clear()
        measured = _measure(commands, bundle, n=args.n, batch=args.batch, workers=workers, rounds=args.rounds)
    settings = {"model": bundle.name, "version": bundle.version, "container": args.container, "n": args.n}
    settings |= {"batch": args.batch, "rounds": args.rounds, "plain_workers": workers}
    measured["plain_trials_ecg_per_s"] = {str(n): rate for n, rate in trials.items()}
    print(tables.render(write(args.out, "end_to_end", settings, measured)))


def _trials(commands: Commands, plain_workers: list[int]) -> dict[int, float]:
    """ECG/s of the plain script with each number of DataLoader processes, where there is a choice."""
    if len(plain_workers) == 1:
        return {}
    return {n: commands.plain(workers=n, limit=N_TRIAL) for n in plain_workers}


def _measure(commands: Commands, bundle: Bundle, *, n: int, batch: int, workers: int, rounds: int) -> dict[str, Any]:
    import plain_pytorch

    alone, x = cpu.load(bundle, batch=batch), engine.records(bundle)
    engine.ecg_per_s(alone, x, n=max(n // 4, batch))
    subjects: dict[str, Callable[[], float]] = {
        "ecgbatch": commands.ecgbatch,
        "engine": partial(engine.ecg_per_s, alone, x, n=n),
        "plain": partial(commands.plain, workers=workers),
    }
    rates = {name: spread(values) for name, values in interleaved(subjects, rounds).items()}
    return {
        "ecg_per_s": rates,
        "to_engine": {**ratios(rates["ecgbatch"], rates["engine"]), "target": 0.90},
        "to_plain": {**ratios(rates["ecgbatch"], rates["plain"]), "target": 2.5},
        "whole_command_s": {name: spread(seconds) for name, seconds in commands.whole_s.items()},
        "largest_difference": plain_pytorch.largest_difference(commands.csv, commands.run, bundle),
        "tolerance": plain_pytorch.TOLERANCE,
        "run": commands.facts(),
    }


if __name__ == "__main__":
    main()
