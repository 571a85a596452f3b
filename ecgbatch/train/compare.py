"""Does fine-tuning find what training from scratch on the same ECGs does not? Both on the same folds, again and again.

    ecgbatch train compare cohort.parquet --from foundation --label brugada --out comparison

`out` holds `parts/`, one Parquet file for each fold that is done, so that a killed comparison goes on; and after each
repeat `scores.parquet`, `figures.json`, `curve.svg` and `REPORT.md`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import polars as pl

from ecgbatch import files
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError, UsageError
from ecgbatch.output import exclusive, write_json
from ecgbatch.train import comparison_report, metrics
from ecgbatch.train.arms import ARMS, Arm, Budget, Known, Learnt, Pretrained, learn
from ecgbatch.train.finetune import known_of, pretrained_of
from ecgbatch.train.folds import folds, thinned
from ecgbatch.train.task import Task

__all__ = ["SCHEMA", "Plan", "arms_of", "compare", "positives_of"]

SCHEMA = {
    "record": pl.String(),
    "fold": pl.Int32(),
    "repeat": pl.Int32(),
    "seed": pl.Int32(),
    "arm": pl.String(),
    "n_positives": pl.Int32(),  # patients in the training folds at most; null for all
    "score": pl.Float32(),  # a logit; the scale is that of the fold's own model
    "called": pl.Boolean(),  # by the threshold that was chosen among the training patients
    "positive": pl.Boolean(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared."""

    arms: tuple[Arm, ...]
    n_folds: int
    n_repeats: int
    """Cross-validations, each of another partition."""
    n_seeds: int
    """Trainings of each fold."""
    positives: tuple[int | None, ...]
    """Positive patients to train on, for the learning curve; None for all."""
    confounders: tuple[str, ...] = ()
    seconds: float | None = None
    """Of each ECG that are looked at; None for all that the model takes."""
    seed: int = 0
    """Of the first partition; each repeat's is one more."""

    def __post_init__(self) -> None:
        if not self.arms or self.n_folds < 2 or min(self.n_repeats, self.n_seeds) < 1:
            raise UsageError("compare: expected an arm, two folds, a repeat and a seed at least")
        if any(n is not None and n < 2 for n in self.positives) or not self.positives:
            raise UsageError("positives: expected numbers from 2 on, or 'all'")


def arms_of(asked: str) -> tuple[Arm, ...]:
    """`finetune,scratch` as arms, each once.

    Raises:
        UsageError: one of them is none.
    """
    names = [name.strip() for name in asked.split(",")]
    if unknown := [name for name in names if name not in ARMS]:
        raise UsageError(f"arm {unknown[0]!r}, expected some of {', '.join(ARMS)}")
    return tuple(arm for arm in ARMS if arm in names)


def positives_of(asked: str) -> tuple[int | None, ...]:
    """`5,10,all` as numbers, None for all.

    Raises:
        UsageError: one of them is neither a number nor all.
    """
    names = [name.strip() for name in asked.split(",")]
    if wrong := [name for name in names if name != "all" and not name.isdecimal()]:
        raise UsageError(f"positives {wrong[0]!r}, expected numbers or 'all', such as 5,10,20,all")
    return tuple(dict.fromkeys(None if name == "all" else int(name) for name in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One training: what is done or not done as a whole."""

    repeat: int
    seed: int
    fold: int
    n_positives: int | None
    arm: Arm

    @property
    def name(self) -> str:
        n = "all" if self.n_positives is None else str(self.n_positives)
        return f"{self.arm}-{n}-repeat{self.repeat}-seed{self.seed}-fold{self.fold}.parquet"

    def __str__(self) -> str:
        n = "all positives" if self.n_positives is None else f"{self.n_positives} positives"
        return f"repeat {self.repeat} · seed {self.seed} · fold {self.fold} · {n} · {self.arm}"


def compare(
    task: Task, parent: Bundle, plan: Plan, budget: Budget, out: Path, *, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Train what is left to train, and write the report; returns its path.

    Raises:
        UsageError: too few patients for the folds.
        OutputError: the folder holds another comparison, or another process writes it.
    """
    if plan.seconds is not None:
        task = task.first_seconds(plan.seconds, parent.input)
    with exclusive(out):
        settings = _settings(task, parent, plan, budget)
        _same_settings(out, settings, has_shared_waveforms=task.doubts.n_shared_waveforms > 0)
        files.made(out / "parts")
        pretrained = pretrained_of(parent)
        known = known_of(task, pretrained)
        units = [*_units(plan, known)]
        left = [unit for unit in units if not (out / "parts" / unit.name).exists()]
        for line in task.doubts.lines:
            say(line)
        say(f"{len(units)} trainings, done before: {len(units) - len(left)}")
        for n_done, unit in enumerate(left, start=1 + len(units) - len(left)):
            started = monotonic()
            auc, learnt = _run(unit, task, pretrained, known, budget, plan=plan, folder=out / "parts")
            how = f"penalty {learnt.rate:g}" if unit.arm == "probe" else f"{learnt.epochs} epochs at {learnt.rate:g}"
            say(f"{n_done} of {len(units)} · {unit} · AUC {auc:.3f} · {how} · {monotonic() - started:.0f} s")
            if n_done < len(units) and units[n_done].repeat != unit.repeat:
                _report(out, units[:n_done], task, plan)
        return _report(out, units, task, plan)


def _units(plan: Plan, known: Known) -> Iterator[_Unit]:
    """Every training, one repeat after the other, so that what is done by any time is a fair comparison."""
    n_all = len(set(known.patients[known.y])) * (plan.n_folds - 1) // plan.n_folds
    numbers = dict.fromkeys(n if n is None or n < n_all else None for n in plan.positives)  # more is all of them
    for repeat, seed, fold in product(range(plan.n_repeats), range(plan.n_seeds), range(plan.n_folds)):
        for n, arm in product(numbers, plan.arms):
            yield _Unit(repeat=repeat, seed=seed, fold=fold, n_positives=n, arm=arm)


def _run(
    unit: _Unit, task: Task, pretrained: Pretrained, known: Known, budget: Budget, *, plan: Plan, folder: Path
) -> tuple[float, Learnt]:
    """Train one arm on one fold's training patients and write what it says of the others."""
    fold = folds(known.y, known.patients, n_folds=plan.n_folds, seed=plan.seed + unit.repeat)
    judged = fold == unit.fold
    training = known.only(~judged)
    draw = (plan.seed + unit.repeat) * plan.n_folds + unit.fold
    if unit.n_positives is not None:
        training = training.only(thinned(training.y, training.patients, n_positive=unit.n_positives, seed=draw))
    assert not set(training.patients) & set(known.patients[judged])
    learnt = learn(unit.arm, pretrained, training, budget, seed=1 + unit.seed + 1000 * draw)
    score = learnt.logits(known.only(judged))
    n = int(judged.sum())
    frame = pl.DataFrame(
        {
            "record": task.record_ids[judged].astype(str),
            **{name: [getattr(unit, name)] * n for name in ("fold", "repeat", "seed", "arm", "n_positives")},
            "score": score.astype(np.float32),
            "called": score >= learnt.threshold,
            "positive": known.y[judged],
        },
        schema=SCHEMA,
    )
    _write(frame, folder / unit.name)
    return metrics.auc(known.y[judged].astype(np.float32), score), learnt


def _write(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file whole or not at all."""
    with files.writing(path), files.replaced(path) as partial:
        frame.write_parquet(partial)


def _report(out: Path, units: Sequence[_Unit], task: Task, plan: Plan) -> Path:
    scores = pl.concat([_read(out / "parts" / unit.name) for unit in units])
    _write(scores, out / "scores.parquet")
    settings = json.loads((out / "comparison.json").read_text("utf-8"))
    found = comparison_report.found(scores, task, arms=plan.arms)
    text, curve = comparison_report.made(
        scores, task, found, arms=plan.arms, confounders=plan.confounders, settings=settings
    )
    with files.writing(out):
        (out / "curve.svg").write_text(curve, "utf-8")
        (out / "REPORT.md").write_text(text, "utf-8")
        write_json(
            out / "figures.json",
            comparison_report.figures_of(
                scores, task, found, arms=plan.arms, confounders=plan.confounders, settings=settings
            ),
        )
    return out / "REPORT.md"


def _read(part: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(part, glob=False)
    except (OSError, pl.exceptions.PolarsError) as err:
        found = f"{part}: cannot be read: {files.cause(err)}"
        raise OutputError(f"{found}; delete it to have its fold trained again") from err


def _settings(task: Task, parent: Bundle, plan: Plan, budget: Budget) -> dict[str, Any]:
    """What a fold's scores are the result of; more repeats, seeds, arms or numbers of positives may be added."""
    return {
        "label": task.code,
        "data": task.sha256,
        "n_records": len(task.y),
        "n_positive": int(task.y.sum()),
        "positives": hashlib.sha256(task.y.tobytes()).hexdigest()[:16],
        "patients": hashlib.sha256("\0".join(task.patients.tolist()).encode(errors="surrogateescape")).hexdigest()[:16],
        "from": f"{parent.name} {parent.fingerprint[:16]}",
        "folds": plan.n_folds,
        "seconds": plan.seconds,
        "seed": plan.seed,
        "depth": budget.depth,
        "epochs": budget.epochs,
        "rates": list(budget.rates),
        "batch": budget.batch,
        "precision": budget.device.precision,
    }


def _same_settings(out: Path, settings: dict[str, Any], *, has_shared_waveforms: bool) -> None:
    """Keep the settings of a new comparison.

    Raises:
        OutputError: the folder holds one of other settings, or something else.
    """
    path = out / "comparison.json"
    if path.exists():
        try:
            # What a comparison did not say before it could be asked for, or told apart.
            unsaid = {"seed": 0, **{name: settings[name] for name in ("positives", "patients")}}
            if has_shared_waveforms:  # whose patients were taken for different ones
                unsaid["patients"] = "not told"
            kept = {**unsaid, **json.loads(path.read_text("utf-8"))}
        except (OSError, ValueError, TypeError) as err:
            raise OutputError(f"{path}: cannot be read: {files.cause(err)}; use another --out") from err
        other = [f"{name} {kept.get(name)}, not {value}" for name, value in settings.items() if kept.get(name) != value]
        if other:
            raise OutputError(f"{out}: holds a comparison with {'; '.join(other)}; use another --out for another one")
        return
    if foreign := set(os.listdir(out)) - {".lock", "comparison.json.partial"}:  # noqa: PTH208
        raise OutputError(f"{out}: holds {min(foreign)!r}, expected a new folder or a comparison")
    write_json(path, settings)
