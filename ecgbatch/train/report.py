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
    """Of those that are labels."""
    brier: float
    """Mean over what is known of records and labels."""
    brier_prevalence: float
    """The same for each label's frequency in place of a score."""


def measure(
    is_positive: np.ndarray,
    probability: np.ndarray,
    *,
    codes: Sequence[str],
    patients: np.ndarray,
) -> Report:
    """The report on (record, label) probabilities; NaN in `is_positive` is unknown and does not count."""
    known = ~np.isnan(is_positive)
    draws = metrics.bootstrap_auc(is_positive, probability, patients=patients, n_draws=DRAWS, seed=0)
    judged = np.nansum(is_positive, axis=0) >= JUDGED
    low, high = metrics.interval(metrics.mean_figure(draws[:, judged]))
    macro = metrics.macro_auc(is_positive, probability)
    n_known = np.maximum(1, known.sum(0))
    prevalence = np.nansum(is_positive, axis=0) / n_known
    each = {code: (known[:, at], at) for at, code in enumerate(codes)}
    labels = {code: _figure(is_positive[at], probability[at], draws[:, at[1]]) for code, at in each.items()}
    return Report(
        n_records=len(is_positive),
        macro=Figure(n_positive=int(judged.sum()), auc=macro, low=low, high=high),
        labels=labels,
        average_precision={
            code: metrics.average_precision(is_positive[at], probability[at]) for code, at in each.items()
        },
        superclasses={name: labels[name] for name in SUPERCLASSES if name in labels},
        brier=float(np.nanmean((probability - is_positive) ** 2)),
        brier_prevalence=float((n_known * prevalence * (1 - prevalence)).sum() / n_known.sum()),
    )


def _figure(is_positive: np.ndarray, score: np.ndarray, draws: np.ndarray) -> Figure:
    n_positive = int(is_positive.sum())
    if n_positive < JUDGED:
        return Figure(n_positive=n_positive, auc=float("nan"), low=float("nan"), high=float("nan"))
    low, high = metrics.interval(draws)
    return Figure(n_positive=n_positive, auc=metrics.auc(is_positive, score), low=low, high=high)
