"""What a comparison found: tables in Markdown, a learning curve as SVG, and whether a confounder explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from ecgbatch.train import figures, markdown
from ecgbatch.train.arms import SPECIFICITY
from ecgbatch.train.confounding import confounding, most_told
from ecgbatch.train.curve import Point, drawn
from ecgbatch.train.figures import DRAWS, figure
from ecgbatch.train.task import Task

__all__ = ["Found", "draws", "figures_of", "found", "made"]

Found = Mapping[tuple[int | None, str], Mapping[str, np.ndarray]]
"""The draws of each figure of an arm that trained on so many positive patients; None for all."""

_FIGURES = {
    "auc": "AUC",
    "precision": "average precision",
    "sensitivity": f"sensitivity at specificity {SPECIFICITY:g}",
    "specificity": "specificity there",
}
_NAMES = {"finetune": "fine-tuned", "scratch": "from scratch", "probe": "linear probe"}


def found(scores: pl.DataFrame, task: Task, *, arms: Sequence[str]) -> Found:
    """The figures of the out-of-fold scores of `compare`, by growing numbers of positives."""
    numbers: list[int | None] = sorted({n for n in scores["n_positives"] if n is not None})
    numbers += [None] if scores["n_positives"].null_count() else []
    return {
        (n, arm): draws(scores.filter(pl.col("n_positives").eq_missing(n), pl.col("arm") == arm), task)
        for n in numbers
        for arm in arms
    }


def figures_of(
    scores: pl.DataFrame,
    task: Task,
    found: Found,
    *,
    arms: Sequence[str],
    confounders: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures and those of paired differences, with 95 % intervals, for programs and for a bundle's card."""
    most = _n_training(scores, task)
    whole = scores.filter(pl.col("n_positives").eq_missing([*found][-1][0]))
    rows = [
        {"n_positives": n, "arm": arm, **{name: asdict(figure(each[name])) for name in _FIGURES}}
        for (n, arm), each in found.items()
    ]
    rows += [
        {
            "n_positives": n,
            "arm": f"{one} - {other}",
            **{name: asdict(figure(found[n, one][name] - found[n, other][name])) for name in _FIGURES},
        }
        for n in dict.fromkeys(n for n, _ in found)
        for one, other in combinations(arms, 2)
    ]
    return {
        "label": task.code,
        **{name: settings[name] for name in ("from", "depth", "seconds", "epochs", "rates", "data")},
        "seed": settings.get("seed", 0),
        "ecgbatch": version("ecgbatch"),
        "n_records": len(task.y),
        "n_patients": len(set(task.patients.tolist())),
        "n_positive": int(task.y.sum()),
        "n_positive_training": most,
        **{f"n_{name}s": scores[name].n_unique() for name in ("fold", "repeat", "seed")},
        "provenance": task.provenance,
        "told": {
            name: asdict(most_told(whole, task, name, arm="finetune")) for name in confounders if "finetune" in arms
        },
        "figures": rows,
    }


def made(
    scores: pl.DataFrame,
    task: Task,
    found: Found,
    *,
    arms: Sequence[str],
    confounders: Sequence[str],
    settings: Mapping[str, Any],
) -> tuple[str, str]:
    """The report and the learning curve of the out-of-fold scores of `compare`, and what was found of them."""
    numbers = list(dict.fromkeys(n for n, _ in found))
    most = _n_training(scores, task)
    points = [Point(_NAMES[arm], most if n is None else n, figure(each["auc"])) for (n, arm), each in found.items()]
    sections = [_heading(scores, task, settings)]
    for n in reversed(numbers):
        heading = f"about {most} (all)" if n is None else str(n)
        sections.append(f"## {heading} positive patients to train on\n\n{_table(found, n, arms)}")
    if len(numbers) > 1:
        sections.append("## Learning curve\n\n![AUC by positives](curve.svg)")
    whole = scores.filter(pl.col("n_positives").eq_missing(numbers[-1]))
    sections += [confounding(whole, task, name, arms={arm: _NAMES[arm] for arm in arms}) for name in confounders]
    sections.append(_how(settings))
    return "\n\n".join(sections) + "\n", drawn(points, x_name="positive patients to train on", y_name="AUC")


def draws(scores: pl.DataFrame, task: Task) -> dict[str, np.ndarray]:
    """Each figure of one arm's scores as (1 + draw,): the mean over folds, repeats and seeds of what a fold gives.

    A fold's scores are compared with each other only: every fold has a model, and a scale, of its own.
    """
    weight = figures.resamples(task.patients)
    place = {record: at for at, record in enumerate(task.record_ids.tolist())}
    each: dict[str, list[np.ndarray]] = {name: [] for name in _FIGURES}
    for one in scores.partition_by("repeat", "seed", "fold", maintain_order=True):
        at = np.array([place[record] for record in one["record"]])
        y, score, is_called = task.y[at], one["score"].to_numpy(), one["called"].to_numpy()
        drawn_weight = weight[:, at]
        each["auc"].append(figures.auc(y, score, drawn_weight))
        each["precision"].append(figures.average_precision(y, score, drawn_weight))
        each["sensitivity"].append(figures.share(is_called[y], drawn_weight[:, y]))
        each["specificity"].append(figures.share(~is_called[~y], drawn_weight[:, ~y]))
    return {name: figures.mean(values) for name, values in each.items()}


def _n_training(scores: pl.DataFrame, task: Task) -> int:
    """Positive patients in the training folds, on average."""
    n = len(set(task.patients[task.y]))
    n_folds = int(scores["fold"].max()) + 1  # type: ignore[arg-type]
    return round(n * (n_folds - 1) / n_folds)


def _heading(scores: pl.DataFrame, task: Task, settings: Mapping[str, Any]) -> str:
    counts = {name: scores[name].n_unique() for name in ("fold", "repeat", "seed")}
    n_positive = int(task.y.sum())
    left_out = ", ".join(f"{n} {reason}" for reason, n in task.left_out.items() if n)
    return f"""# {task.code}: fine-tuned, or trained from scratch?

{len(task.y)} ECGs of {len(set(task.patients.tolist()))} patients, {n_positive} positive.
Left out: {left_out or "none"}.{_doubts(task)}
{counts["fold"]} folds by patient, {counts["repeat"]} repeats with other partitions, {counts["seed"]} seeds each.
Fine-tuning starts from `{settings["from"].split()[0]}` (depth {settings["depth"]}).{_cut(settings)}

{task.provenance}."""


def _doubts(task: Task) -> str:
    return "".join(f"\n**Mind: {line}.**" for line in task.doubts.lines)


def _cut(settings: Mapping[str, Any]) -> str:
    return (
        "" if settings["seconds"] is None else f"\nOf each ECG, only the first {settings['seconds']:g} s are looked at."
    )


def _table(found: Found, n: int | None, arms: Sequence[str]) -> str:
    rows = [(_NAMES[arm], *(str(figure(found[n, arm][name])) for name in _FIGURES)) for arm in arms]
    for one, other in combinations(arms, 2):
        gained = (_signed(found[n, one][name] - found[n, other][name]) for name in _FIGURES)
        rows.append((f"{_NAMES[one]} less {_NAMES[other]}", *gained))
    return markdown.table(("", *_FIGURES.values()), "l" * (1 + len(_FIGURES)), rows)


def _signed(difference: np.ndarray) -> str:
    found = figure(difference)
    return "–" if np.isnan(found.value) else f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _how(settings: Mapping[str, Any]) -> str:
    rates, seed = ", ".join(f"{rate:g}" for rate in settings["rates"]), settings.get("seed", 0)
    return f"""## How

All arms see the same training patients of the same folds, and a quarter of these is set aside by each to choose by:
the epoch (at most {settings["epochs"]}, ended by patience), the learning rate ({rates}, for both), and the threshold
that leaves {SPECIFICITY:.0%} of the negatives uncalled. The probe chooses its penalty by cross-validation among them.
Nothing is chosen by the patients that judge, so the specificity reached there may differ. Figures are of each fold by
itself, averaged over folds, repeats and seeds. Intervals, of differences too, are of {DRAWS} bootstrap draws of
patients: they tell how other patients would have judged, not how other patients would have trained.
Where not all positives train, all negatives do.

Begun with {settings["from"]}, data {settings["data"]}, seed {seed}, ecgbatch {version("ecgbatch")}."""
