"""What the scores of a run are worth, by labels that somebody else gave: figures with intervals, and where they hold.

Every interval is the central 95 % of a bootstrap that draws patients, and that of a sensitivity or specificity at least
Wilson's; a group's records are those of the same draws.
"""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan
from typing import Any

import numpy as np
import polars as pl

from ecgbatch.errors import UsageError
from ecgbatch.train import metrics
from ecgbatch.train.calibrate import Rule, thresholds
from ecgbatch.train.cells import Cells
from ecgbatch.train.columns import told
from ecgbatch.train.metrics import FEW, JUDGED
from ecgbatch.train.scored import Scored

__all__ = ["CHOSEN", "FIGURES", "Evaluation", "draws_of", "figures_of", "levels", "measure"]

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

CHOSEN = "chosen on these records"
"""Of thresholds: not the model's own."""

_WORK = 100_000_000
"""Records times draws: a thousand draws of 100 000 records, fewer of more."""
_GROUP_DRAWS = 400
"""Of the draws, so many are looked at for each group."""
_LEVELS = 12
"""Groups of one column; the rarer ones are put together."""
_AGES = (40.0, 60.0, 80.0)
_OTHER, _UNKNOWN = "other", "unknown"


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
        raise UsageError(f"no column {unknown[0]!r} to tell groups by among {told(scored.groups.columns)}")
    at = (
        np.array([label["threshold"] for label in scored.labels])
        if rule is None
        else thresholds(scored.is_positive, scored.probability, rule)
    )
    weight = draws_of(scored.patients)
    rows = list(_rows(scored, at, weight, np.ones(len(scored.patients), bool)))
    n_draws, weight = len(weight), weight[:_GROUP_DRAWS]
    for name in by:
        level = levels(scored.groups[name])
        for value in level.unique().sort():
            is_in = (level == value).to_numpy()
            rows += [{"group": name, "level": value, **row} for row in _rows(scored, at, weight, is_in)]
    chosen = "the model's own" if rule is None else f"{rule}, {CHOSEN}"
    return Evaluation(
        facts={
            **scored.facts,
            "labels_of_few": few_of(rows),
            "thresholds": chosen,
            "n_draws": n_draws,
            "n_draws_groups": len(weight),
        },
        figures=pl.DataFrame(rows, schema=_schema()),
    )


def few_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels that are judged on all records with less than `FEW` positives or negatives."""
    judged = [row for row in rows if "group" not in row and not isnan(row.get("sensitivity", float("nan")))]
    return [row["label"] for row in judged if min(row["n_positive"], row["n"] - row["n_positive"]) < FEW]


def draws_of(patients: np.ndarray) -> np.ndarray:
    """`metrics.resamples`, as many as there is time for."""
    return metrics.resamples(patients, n_draws=int(np.clip(_WORK // len(patients), 200, 1000)), seed=0)


def figures_of(
    is_positive: np.ndarray, probability: np.ndarray, patients: np.ndarray, weight: np.ndarray, threshold: float
) -> tuple[dict[str, float], np.ndarray]:
    """Each of `FIGURES` of one label's records, with `_low` and `_high`, and the drawn AUCs; weight is (draw, record).

    Of a share of the positives or the negatives these are its `metrics.share_interval`. NaN where there are fewer than
    `JUDGED` of either.
    """
    n_positive = int(is_positive.sum())
    if min(n_positive, len(is_positive) - n_positive) < JUDGED:
        return dict.fromkeys(_names(), float("nan")), np.full(len(weight), np.nan)
    point = Cells.of(is_positive, probability)
    drawn = Cells.drawn(is_positive, probability, weight, edge=threshold)
    found: dict[str, float] = {}
    n_of = {
        "sensitivity": len(np.unique(patients[is_positive > 0])),
        "specificity": len(np.unique(patients[is_positive == 0])),
    }
    for name, figure in FIGURES.items():
        n_patients = n_of.get(name.partition("_")[0])
        found |= _stated(name, float(figure(point, threshold)[0]), figure(drawn, threshold), n_patients)
    return found, drawn.auc()


def _stated(name: str, value: float, draws: np.ndarray, n_patients: int | None = None) -> dict[str, float]:
    low, high = metrics.share_interval(draws, value, n_patients) if n_patients else metrics.interval(draws)
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
        figures, auc = figures_of(truth, scored.probability[used, at], scored.patients[used], drawn, threshold[at])
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
        mean = metrics.mean_figure(np.stack([draws for _, draws in judged], axis=1))
        macro |= _stated("auc", float(np.mean([value for value, _ in judged])), mean)
    yield macro


def levels(column: pl.Series) -> pl.Series:
    """The group of each record by a column, in the order of groups: ages in bands, other numbers in quarters."""
    if column.dtype.is_numeric():
        column = column.cast(pl.Float64).fill_nan(None)
        if column.name.lower() == "age":
            return _bands(column, _AGES)
        if column.n_unique() > _LEVELS:
            quarters = {column.quantile(share) or 0.0 for share in (0.25, 0.5, 0.75)}
            return _bands(column, tuple(sorted(quarters)))
        names = [f"{value:g}" for value in column.drop_nulls().unique().sort()]
        return _named(column, [None if value is None else f"{value:g}" for value in column], names)
    column = column.cast(pl.String)
    common = column.drop_nulls().value_counts(sort=True)[column.name].to_list()
    if len(common) > _LEVELS:
        common = common[: _LEVELS - 1]
        column = column.set(column.is_not_null() & ~column.is_in(common), _OTHER)
    return _named(column, column.to_list(), [*sorted({*common} - {_OTHER, _UNKNOWN}), _OTHER])


def _bands(column: pl.Series, edges: tuple[float, ...]) -> pl.Series:
    names = [f"< {edges[0]:g}", *(f"{low:g} to < {high:g}" for low, high in pairwise(edges)), f"≥ {edges[-1]:g}"]
    bands = [None if value is None else names[bisect(edges, value)] for value in column]
    return _named(column, bands, names)


def _named(column: pl.Series, values: list[str | None], names: list[str]) -> pl.Series:
    return pl.Series(column.name, values, pl.Enum(list(dict.fromkeys([*names, _UNKNOWN])))).fill_null(_UNKNOWN)
