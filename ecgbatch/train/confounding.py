"""Whether scores tell a confounder, such as the device or the length of an ECG, instead of the disease."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from ecgbatch.train import figures, markdown
from ecgbatch.train.figures import Figure, figure
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.task import Task

__all__ = ["confounding", "mean_ranks", "most_told", "strata"]

_FEW = 8
"""Values of a column that are strata by themselves; of more, numbers are parted at their median."""


def confounding(scores: pl.DataFrame, task: Task, name: str, *, arms: Mapping[str, str]) -> str:
    """A section of the report: a row for each stratum of the column and each arm."""
    parted = strata(task.column(name))
    weight = figures.resamples(task.patients)
    heads = (name, "ECGs", "positive", "", "tells it, among negatives", "among positives", "AUC within")
    rows = []
    for arm, arm_name in arms.items():
        rank = mean_ranks(scores.filter(pl.col("arm") == arm), task)
        for value, is_in in parted.items():
            told = [_auc(is_in[side], rank[side], weight[:, side]) for side in (~task.y, task.y)]
            within = _auc(task.y[is_in], rank[is_in], weight[:, is_in])
            rows.append((value, is_in.sum(), (is_in & task.y).sum(), arm_name, *told, within))
    by_itself = _by_itself(scores, parted, task, weight)
    return f"""## Is it {name} that is found?

By its {name} alone, an ECG is told positive or negative with an AUC of {by_itself}:
by how many are positive among those of its {name} in the other folds.

{markdown.table(heads, "lrrllll", rows)}

*Tells it*: the AUC with which the score tells ECGs of this {name} from the others where all are alike positive or
negative; 0.5 is none of it. *AUC within*: positives against negatives of this {name} only. – where a side has fewer
than {JUDGED} ECGs. Ranks within each fold, averaged over repeats and seeds."""


def most_told(scores: pl.DataFrame, task: Task, name: str, *, arm: str) -> Figure:
    """The largest AUC with which an arm's score tells a stratum of the column among negatives; 0.5 is none of it."""
    rank = mean_ranks(scores.filter(pl.col("arm") == arm), task)
    negative, weight = ~task.y, figures.resamples(task.patients)
    told = [_auc(is_in[negative], rank[negative], weight[:, negative]) for is_in in strata(task.column(name)).values()]
    known = [one for one in told if not np.isnan(one.value)]
    return max(known, key=lambda one: one.value, default=Figure(float("nan"), float("nan"), float("nan")))


def strata(column: pl.Series) -> dict[str, np.ndarray]:
    """Which records have which value, bool (record,); numbers of many values are parted at the median."""
    if column.dtype.is_numeric() and column.round(1).n_unique() > _FEW:
        values = column.cast(pl.Float64).to_numpy()
        middle = float(np.nanmedian(values))
        return {f"up to {middle:.4g}": values <= middle, f"over {middle:.4g}": values > middle}
    text = (column.round(1) if column.dtype.is_float() else column).cast(pl.String).fill_null("unknown")
    return {value: (text == value).to_numpy() for value in text.unique().sort()}


def mean_ranks(scores: pl.DataFrame, task: Task) -> np.ndarray:
    """(record,): the share of its fold that each record scores above, averaged over repeats and seeds."""
    group = ("repeat", "seed", "fold")
    ranked = scores.with_columns(((pl.col("score").rank() - 0.5) / pl.len()).over(group).alias("rank"))
    mean = dict(ranked.group_by("record").agg(pl.col("rank").mean()).iter_rows())
    return np.array([mean[record] for record in task.record_ids.tolist()])


def _by_itself(scores: pl.DataFrame, parted: Mapping[str, np.ndarray], task: Task, weight: np.ndarray) -> Figure:
    """AUC of the share of positives in each record's stratum in the other folds; of each fold by itself, averaged."""
    aucs = []
    judgements = scores.unique(["repeat", "fold", "record"], maintain_order=True)
    for fold in judgements.partition_by("repeat", "fold", maintain_order=True):
        judged = np.isin(task.record_ids, fold["record"].to_numpy())
        share = _prevalence(parted, task.y, ~judged)
        aucs.append(figures.auc(task.y[judged], share[judged], weight[:, judged]))
    return figure(figures.mean(aucs))


def _prevalence(parted: Mapping[str, np.ndarray], y: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(record,): share of positives in the record's own stratum among those seen; in all of these where it has none."""
    share = np.full(len(y), y[seen].mean())
    for is_in in parted.values():
        if (is_in & seen).any():
            share[is_in] = y[is_in & seen].mean()
    return share


def _auc(is_positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> Figure:
    if min(is_positive.sum(), (~is_positive).sum()) < JUDGED:
        return Figure(float("nan"), float("nan"), float("nan"))
    return figure(figures.auc(is_positive, score, weight))
