"""What the scores of a run are worth, by labels that somebody else gave: figures with intervals, and where they hold.

Every interval is the central 95 % of a bootstrap that draws patients; a group's records are those of the same draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from json import dumps
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table

from ecgbatch.errors import OutputError, UsageError
from ecgbatch.output import write_json
from ecgbatch.train import metrics
from ecgbatch.train.calibrate import Rule, thresholds
from ecgbatch.train.cells import Cells
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.scored import Scored

__all__ = ["FIGURES", "Evaluation", "draws_of", "figures_of", "measure", "notes", "table", "write"]

FIGURES: Mapping[str, Callable[[Cells, float], np.ndarray]] = {
    "auc": lambda cells, _: cells.auc(),
    "average_precision": lambda cells, _: cells.average_precision(),
    "sensitivity": lambda cells, threshold: cells.sensitivity(threshold),
    "specificity": lambda cells, threshold: cells.specificity(threshold),
    "sensitivity_at_specificity_0.90": lambda cells, _: cells.sensitivity_at(0.90),
    "sensitivity_at_specificity_0.95": lambda cells, _: cells.sensitivity_at(0.95),
    "brier": lambda cells, _: cells.brier(),
    "brier_skill": lambda cells, _: cells.brier_skill(),
    "calibration_slope": lambda cells, _: cells.calibration_slope(),
    "calibration_intercept": lambda cells, _: cells.calibration_intercept(),
    "calibration_error": lambda cells, _: cells.calibration_error(),
}
"""What is stated of each label; the second argument is its threshold."""

_WORK = 100_000_000
"""Records times draws: a thousand draws of 100 000 records, fewer of more."""
_LEVELS = 12
"""Groups of one column; the rarer ones are put together."""
_DECADES = (40.0, 60.0, 80.0)
_SHOWN = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "sensitivity_at_specificity_0.95": "sensitivity at specificity 0.95",
    "brier_skill": "Brier skill",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "calibration_error": "calibration error",
}
"""Columns of the table for a person; the others stand in the report."""
_WITH_INTERVAL = {"auc", "calibration_slope"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The figures of one model on the labelled records of one run."""

    facts: Mapping[str, Any]
    figures: pl.DataFrame
    """A row a label and the mean over labels, for all records and for each group; a figure, its `_low` and `_high`."""


def measure(scored: Scored, *, rule: Rule | None = None, by: Sequence[str] = ()) -> Evaluation:
    """All figures, at the model's own thresholds or at those that a rule chooses on these very records.

    Raises:
        UsageError: there is no such column to tell groups by.
    """
    if unknown := [name for name in by if name not in scored.groups.columns]:
        raise UsageError(f"no column {unknown[0]!r} to tell groups by, expected {', '.join(scored.groups.columns)}")
    at = (
        np.array([label["threshold"] for label in scored.labels])
        if rule is None
        else thresholds(scored.is_positive, scored.probability, rule)
    )
    weight = draws_of(scored.patients)
    rows = list(_rows(scored, at, weight, np.ones(len(scored.patients), bool)))
    for name in by:
        level = levels(scored.groups[name])
        for value in level.unique().sort():
            is_in = (level == value).to_numpy()
            rows += [{"group": name, "level": value, **row} for row in _rows(scored, at, weight, is_in)]
    chosen = "the model's own" if rule is None else f"{rule}, chosen on these records"
    return Evaluation(
        facts={**scored.facts, "thresholds": chosen, "n_draws": len(weight)},
        figures=pl.DataFrame(rows, schema=_schema()),
    )


def draws_of(patients: np.ndarray) -> np.ndarray:
    """`metrics.resamples`, as many as there is time for."""
    return metrics.resamples(patients, n_draws=int(np.clip(_WORK // len(patients), 200, 1000)), seed=0)


def figures_of(
    is_positive: np.ndarray, probability: np.ndarray, weight: np.ndarray, threshold: float
) -> tuple[dict[str, float], np.ndarray]:
    """Each of `FIGURES` of one label's records, with `_low` and `_high`, and the drawn AUCs; weight is (draw, record).

    NaN where there are fewer than `JUDGED` positives or negatives.
    """
    n_positive = int(is_positive.sum())
    if min(n_positive, len(is_positive) - n_positive) < JUDGED:
        return dict.fromkeys(_names(), float("nan")), np.full(len(weight), np.nan)
    point = Cells.of(is_positive, probability)
    drawn = Cells.drawn(is_positive, probability, weight, edge=threshold)
    found: dict[str, float] = {}
    for name, figure in FIGURES.items():
        draws = figure(drawn, threshold)
        found |= _stated(name, float(figure(point, threshold)[0]), draws)
    return found, drawn.auc()


def _stated(name: str, value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = metrics.interval(draws)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _names() -> list[str]:
    return [name + end for name in FIGURES for end in ("", "_low", "_high")]


def _schema() -> dict[str, Any]:
    words: dict[str, Any] = dict.fromkeys(("group", "level", "label", "name"), pl.String)
    return (
        words | {"threshold": pl.Float64, "n": pl.Int64, "n_positive": pl.Int64} | dict.fromkeys(_names(), pl.Float64)
    )


def _rows(scored: Scored, threshold: np.ndarray, weight: np.ndarray, is_in: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row a label, of the records in a group, and one of the mean AUC of those that are judged."""
    aucs, n_seen = [], 0
    for at, label in enumerate(scored.labels):
        used = is_in & ~np.isnan(scored.is_positive[:, at])
        truth = scored.is_positive[used, at]
        n_seen = max(n_seen, len(truth))
        drawn = weight if used.all() else weight[:, used]
        figures, auc = figures_of(truth, scored.probability[used, at], drawn, threshold[at])
        aucs.append((figures["auc"], auc))
        yield {
            "label": label["code"],
            "name": label["name"],
            "threshold": float(threshold[at]),
            "n": len(truth),
            "n_positive": int(truth.sum()),
            **figures,
        }
    judged = [(value, draws) for value, draws in aucs if not isnan(value)]
    name = f"mean of {len(judged)} labels with {JUDGED} positives and negatives"
    macro: dict[str, Any] = {"label": "macro", "name": name, "n": n_seen}
    if judged:
        mean = metrics.mean_auc(np.stack([draws for _, draws in judged], axis=1))
        macro |= _stated("auc", float(np.mean([value for value, _ in judged])), mean)
    yield macro


def levels(column: pl.Series) -> pl.Series:
    """The group of each record by a column: ages in bands, other numbers in quarters, words as they are."""
    if column.dtype.is_numeric():
        column = column.cast(pl.Float64).fill_nan(None)
        if column.name.lower() == "age":
            return _bands(column, _DECADES)
        if column.n_unique() > _LEVELS:
            quarters = (column.quantile(share) or 0.0 for share in (0.25, 0.5, 0.75))
            return _bands(column, tuple(sorted(set(quarters))))
        texts = [None if value is None else f"{value:g}" for value in column]
        column = pl.Series(column.name, texts, pl.String)
    column = column.cast(pl.String)
    common = column.drop_nulls().value_counts(sort=True)[column.name][: _LEVELS - 1]
    if column.drop_nulls().n_unique() > _LEVELS:
        column = column.set(column.is_not_null() & ~column.is_in(common.implode()), "other")
    return column.fill_null("unknown")


def _bands(column: pl.Series, edges: tuple[float, ...]) -> pl.Series:
    names = [f"< {edges[0]:g}", *(f"{a:g} to < {b:g}" for a, b in zip(edges, edges[1:], strict=False))]
    names.append(f"≥ {edges[-1]:g}")
    band = np.searchsorted(edges, column.fill_null(0).to_numpy(), side="right")
    return pl.Series(column.name, np.array(names)[band]).set(column.is_null(), "unknown")


def notes(facts: Mapping[str, Any]) -> list[str]:
    """Lines on what the figures are of, for a person."""
    lines = [
        f"labels of {facts['n_labelled']} ECGs: {facts['n_scored']} scored, {facts['n_rejected']} rejected, "
        f"{facts['n_duplicate']} duplicates, {facts['n_absent']} not in the run; "
        f"{facts['n_unlabelled']} scored ECGs have no labels"
    ]
    if facts["n_duplicate"]:
        lines.append(f"labels of duplicates went to the record that stayed; {facts['n_contradicted']} contradict it")
    if facts["n_repeated_waveforms"]:
        again = facts["n_repeated_waveforms"]
        lines.append(f"{again} ECGs have the waveform of another and count again; ecgbatch deduplicate sets them aside")
    if facts["n_without_patient"]:
        lines.append(f"{facts['n_without_patient']} ECGs are of no known patient, and each counts as one")
    for key, told in (("labels_without_scores", "no score for"), ("scores_without_labels", "no labels for")):
        if facts[key]:
            lines.append(f"{told} {', '.join(facts[key])}")
    return lines


def table(evaluation: Evaluation) -> Table:
    """The main figures for a person."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    heads, rows = _shown(evaluation)
    for at, head in enumerate(heads):
        shown.add_column(head, justify="left" if at == 0 else "right", no_wrap=at == 0)
    for row in rows:
        shown.add_row(*row)
    return shown


def _shown(evaluation: Evaluation) -> tuple[list[str], Iterator[list[str]]]:
    """Heads and rows of the table."""
    heads = ["label", "ECGs", "positives"] + [
        f"{head} (95 %)" if name in _WITH_INTERVAL else head for name, head in _SHOWN.items()
    ]
    return heads, (_told(row) for row in evaluation.figures.iter_rows(named=True))


def _told(row: Mapping[str, Any]) -> list[str]:
    of = f"{row['group']} {row['level']} · " if row["group"] else ""
    n_positive = "–" if row["n_positive"] is None else str(row["n_positive"])
    return [f"{of}{row['label']}", str(row["n"]), n_positive, *(_number(row, name) for name in _SHOWN)]


def _number(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None or isnan(value):
        return "–"
    interval = f" ({row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f})" if name in _WITH_INTERVAL else ""
    return f"{value:.3f}{interval}" if name == "auc" else f"{value:.2f}{interval}"


def write(evaluation: Evaluation, path: Path) -> None:
    """Write all figures as `.json`, `.parquet` or `.md`.

    Raises:
        UsageError: the suffix is none of these.
        OutputError: the file cannot be written.
    """
    figures = evaluation.figures
    match path.suffix.lower():
        case ".json":
            rows = [{k: v for k, v in row.items() if v is not None} for row in figures.fill_nan(None).to_dicts()]
            write_json(path, {**evaluation.facts, "figures": rows})
            return
        case ".parquet":
            content = BytesIO()
            figures.write_parquet(content, metadata={"ecgbatch": dumps(evaluation.facts)})
            raw = content.getvalue()
        case ".md":
            raw = _markdown(evaluation).encode()
        case suffix:
            raise UsageError(f"{path}: suffix {suffix!r}, expected '.json', '.parquet' or '.md'")
    try:
        path.write_bytes(raw)
    except OSError as err:
        raise OutputError(f"{path}: cannot be written: {err.strerror}") from err


def _markdown(evaluation: Evaluation) -> str:
    facts = evaluation.facts
    heads, rows = _shown(evaluation)
    lines = [
        f"# {facts['model']} {facts['model_version']} on {facts['labels']}",
        "",
        f"{facts['n_records']} ECGs of {facts['n_patients']} patients; thresholds: {facts['thresholds']}. Intervals are "
        f"95 % of {facts['n_draws']} bootstrap draws of patients.",
        "",
        *(f"* {line}" for line in notes(facts)),
        "",
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
