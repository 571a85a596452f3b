"""What a model achieves on records that neither trained nor chose it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecgbatch.train import metrics
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.statements import SUPERCLASSES

__all__ = ["Figure", "Report", "measure"]

DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An AUC with its 95 % interval."""

    n_positive: int
    auc: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.auc:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures of one model on one side of a split."""

    n_records: int
    macro: Figure
    """Of the labels with at least `JUDGED` positives; `n_positive` is the number of those labels."""
    labels: Mapping[str, Figure]
    average_precision: Mapping[str, float]
    superclasses: Mapping[str, Figure]
    brier: float
    """Mean over records and labels."""
    brier_prevalence: float
    """The same for each label's frequency in place of a score."""


def measure(
    is_positive: np.ndarray,
    probability: np.ndarray,
    *,
    codes: Sequence[str],
    statements: Sequence[frozenset[str]],
    patients: np.ndarray,
) -> Report:
    """The report on (record, label) probabilities; `statements` are each record's own, for the superclasses."""
    draws = metrics.bootstrap_auc(is_positive, probability, patients=patients, n_draws=DRAWS, seed=0)
    judged = is_positive.sum(0) >= JUDGED
    low, high = metrics.interval(metrics.mean_auc(draws[:, judged]))
    macro = metrics.macro_auc(is_positive, probability)
    prevalence = is_positive.mean(0)
    return Report(
        n_records=len(is_positive),
        macro=Figure(n_positive=int(judged.sum()), auc=macro, low=low, high=high),
        labels={code: _figure(is_positive[:, at], probability[:, at], draws[:, at]) for at, code in enumerate(codes)},
        average_precision={
            code: metrics.average_precision(is_positive[:, at], probability[:, at]) for at, code in enumerate(codes)
        },
        superclasses=_superclasses(probability, codes, statements, patients),
        brier=float(np.mean((probability - is_positive) ** 2)),
        brier_prevalence=float(np.mean(prevalence * (1 - prevalence))),
    )


def _figure(is_positive: np.ndarray, score: np.ndarray, draws: np.ndarray) -> Figure:
    n_positive = int(is_positive.sum())
    if n_positive < JUDGED:
        return Figure(n_positive=n_positive, auc=float("nan"), low=float("nan"), high=float("nan"))
    low, high = metrics.interval(draws)
    return Figure(n_positive=n_positive, auc=metrics.auc(is_positive, score), low=low, high=high)


def _superclasses(
    probability: np.ndarray, codes: Sequence[str], statements: Sequence[frozenset[str]], patients: np.ndarray
) -> dict[str, Figure]:
    """Each superclass: true where any of its statements is listed, scored by its most probable label."""
    figures = {}
    for name, members in SUPERCLASSES.items():
        at = [column for column, code in enumerate(codes) if code in members]
        if at:
            truth = np.array([[bool(members & listed)] for listed in statements], np.float32)
            score = probability[:, at].max(axis=1, keepdims=True)
            draws = metrics.bootstrap_auc(truth, score, patients=patients, n_draws=DRAWS, seed=0)
            figures[name] = _figure(truth[:, 0], score[:, 0], draws[:, 0])
    return figures
