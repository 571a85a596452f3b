"""CARD.md of the quality gate: what it is, how often it is right, and where it should not be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ecgbatch.train import metrics

__all__ = ["Figures", "Share", "figures", "text"]

DRAWS = 1000
_THRESHOLDS = (0.2, 0.35, 0.5, 0.65, 0.8)
_BINS = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Share:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What cross-validation says."""

    accuracy: Share
    auc: Share
    brier: float
    baseline: float
    """Accuracy of calling every ECG acceptable."""
    at: Mapping[float, tuple[Share, Share, Share]]
    """By threshold: share rejected, sensitivity (unacceptable ECGs rejected), specificity (acceptable ones kept)."""
    calibration: tuple[tuple[float, float, float, float, float], ...]
    """From, to, number of ECGs, mean probability, share that readers accepted."""


def figures(is_good: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, baseline: float) -> Figures:
    """Figures of (record, split) probabilities, averaged over the splits; intervals by drawing patients."""
    _, patient = np.unique(patients, return_inverse=True)
    n_patients = patient.max() + 1
    drawn = np.random.default_rng(0).multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=DRAWS)
    weight = drawn[:, patient].astype(np.float64)  # (draw, record)

    def share(hits: np.ndarray, of: np.ndarray) -> Share:
        each = hits.mean(1) * of
        return Share(float(each.sum() / of.sum()), *metrics.interval((weight @ each) / (weight @ of)))

    good, everyone = is_good[:, None], np.ones(len(is_good))
    many = np.repeat(good, probabilities.shape[1], axis=1)
    drawn_auc = metrics.bootstrap_auc(many, probabilities, patients=patients, n_draws=DRAWS, seed=0).mean(1)
    auc = np.mean([metrics.auc(is_good, probability) for probability in probabilities.T])
    return Figures(
        accuracy=share((probabilities >= 0.5) == good, everyone),
        auc=Share(float(auc), *metrics.interval(drawn_auc)),
        brier=float(((probabilities - good) ** 2).mean()),
        baseline=baseline,
        at={
            threshold: (
                share(probabilities < threshold, everyone),
                share(probabilities < threshold, (~is_good).astype(np.float64)),
                share(probabilities >= threshold, is_good.astype(np.float64)),
            )
            for threshold in _THRESHOLDS
        },
        calibration=tuple(_calibration(many, probabilities)),
    )


def _calibration(many: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, float, float, float, float]]:
    rows = []
    for low, high in pairwise(_BINS):
        at = (probabilities >= low) & (probabilities < high if high < 1 else probabilities <= 1)
        if at.any():
            n = at.sum() / probabilities.shape[1]
            rows.append((low, high, float(n), float(probabilities[at].mean()), float(many[at].mean())))
    return rows


def text(content: Mapping[str, Any], found: Figures, *, has_patients: bool, n_folds: int, n_splits: int) -> str:
    """The card in Markdown."""
    facts = content["training"]
    n = facts["n_acceptable"] + facts["n_unacceptable"]
    unit = "patients" if has_patients else "ECGs, for the data do not say which of them are one patient's"
    _, sensitivity, specificity = found.at[0.5]
    n_measures, n_poor = len(content["weights"]), facts["n_unacceptable"]
    always = found.baseline * (1 - found.baseline)
    return f"""# Quality gate {content["version"]}

The column `quality`: the probability that a reader would call the ECG acceptable. A logistic regression on
{n_measures} measures of the eight independent leads, each in the lead where it is worst and in the middle one;
`ecgbatch/quality.py` defines them, `gate.toml` holds the weights.

| {n} ECGs, {n_folds}-fold cross-validation | 95 % interval |
|---|---|
| **accuracy** at 0.5 | **{found.accuracy}** |
| sensitivity: unacceptable ECGs found | {sensitivity} |
| specificity: acceptable ECGs kept | {specificity} |
| AUC | {found.auc} |

Calling every ECG acceptable would be right in {found.baseline:.3f}.

## Limits

* **For research only. Not a medical device; not to be used in the care of patients.**
* It judges whether an ECG can be read, not what it shows. Swapped electrodes and wrong gains are not its business:
  `leads_suspect` and `amplitude_suspect` are.
* Readers disagree: of ECGs with one lead without a signal, some were accepted and some not. No gate can agree with
  a verdict better than readers agree with each other.
* It was trained on recordings made with mobile phones, at 500 Hz and 5 µV a count. A hospital's
  electrocardiographs filter more and fail less. Under 250 Hz, noise and mains are seen less well.
* The probability holds where poor ECGs are as frequent as here ({n_poor} of {n}); where they are rarer, it is too low.

## Data

{facts["provenance"]}.

I. Silva, G. B. Moody, L. Celi: Improving the quality of ECGs collected using mobile phones: the PhysioNet/Computing in
Cardiology Challenge 2011. *Computing in Cardiology* 38:273–276 (2011). This gate contains information from that
database, which is made available under the ODC Attribution License.

## How the figures were made

No ECG is judged by a gate that has seen it: {n_folds} folds, {n_splits} times with another partition, averaged. The
penalty is chosen within the training folds, by a cross-validation of its own. The form (which measures, worst and
middle lead) was chosen on the same ECGs, so the figures may flatter it a little. Intervals are of {DRAWS} bootstrap
draws of {unit}.

| `--reject-poor` | rejected | sensitivity | specificity |
|---:|---|---|---|
{_threshold_rows(found)}

## Calibration

Brier score {found.brier:.4f}; {always:.4f} for always saying the share of acceptable ECGs.

| `quality` | ECGs | mean | accepted by readers |
|---|---:|---:|---:|
{_calibration_rows(found)}

## Weights

Of log10(1 + µV), of shares and of the correlation as they are; a logit, positive is good. Weights are held to their
sense, so that no defect makes `quality` better: one that would turn is 0.

| measure | worst lead | middle lead |
|---|---:|---:|
{_weight_rows(content["weights"])}

## How it was made

    ecgbatch train gate cinc2011_quality.parquet --out engines/quality

| | |
|---|---|
| sha256 of the file | {facts["sha256"]} |
| penalty | {facts["ridge"]:g} |
| ecgbatch | {facts["ecgbatch"]} |
"""


def _threshold_rows(found: Figures) -> str:
    return "\n".join(f"| {at:g} | {' | '.join(map(str, shares))} |" for at, shares in found.at.items())


def _calibration_rows(found: Figures) -> str:
    rows = found.calibration
    return "\n".join(
        f"| {low:g} to {high:g} | {n:.0f} | {mean:.2f} | {good:.2f} |" for low, high, n, mean, good in rows
    )


def _weight_rows(weights: Mapping[str, tuple[float, float]]) -> str:
    return "\n".join(f"| {name} | {worst:.2f} | {middle:.2f} |" for name, (worst, middle) in weights.items())
