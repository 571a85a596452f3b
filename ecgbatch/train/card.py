"""CARD.md: what a model is, what it was made from, what it achieves, and what it must not be used for."""

from ecgbatch.bundle import Bundle
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.report import DRAWS, Report

__all__ = ["text"]

_PTB_XL = """
P. Wagner, N. Strodthoff, R.-D. Bousseljot, D. Kreiseler, F. I. Lunze, W. Samek, T. Schaeffter: PTB-XL, a large publicly
available electrocardiography dataset. *Scientific Data* 7:154 (2020).
"""

_SUPERCLASSES = """
A superclass is a label of its own, true where any of its statements is listed.
"""


def text(bundle: Bundle, report: Report, *, n_parameters: int, gflop: float) -> str:
    """The card in Markdown."""
    spec, facts = bundle.input, bundle.training
    return f"""# {bundle.name} {bundle.version}

A residual network over time. It reads {spec.seconds:g} s of {len(spec.leads)} leads ({", ".join(spec.leads)}) at
{spec.fs_hz} Hz and gives the probabilities of {len(bundle.labels)} labels, and an embedding to build other models on.
{n_parameters / 1e6:.2f} million parameters, {gflop:.2f} GFLOP an ECG.

**Macro AUC {report.macro}** on {report.n_records} ECGs of patients it has never seen.

## Limits

* **For research only. Not a medical device; not to be used in the care of patients.**
* Trained on {facts["n_train"]} ECGs. Devices, patients and readers elsewhere differ, and figures there may be lower.
* The labels are what the data below say, right or wrong. What is not listed is not looked for.
* Rare labels rest on few positives: mind the counts and the intervals. Under {JUDGED} positives no AUC is stated.
* Records of less than {spec.min_seconds:g} s are refused. Shorter than {spec.seconds:g} s, they are padded with zeros,
  as some were in training.
* Children, paced rhythms and rare arrhythmias are few in the data.
* Thresholds weigh sensitivity and specificity alike and were chosen on few positives: choose your own for your purpose.

## Data and split

{facts["provenance"]}.
{_PTB_XL if "PTB-XL" in facts["provenance"] else ""}
The weights are derived from these data; licence: {bundle.licence}.

The split is by patient (folds: {facts["folds"]}): {facts["n_train"]} ECGs trained the weights, {facts["n_choose"]}
chose the epoch and fitted calibration and thresholds, {facts["n_report"]} gave the figures below. Nothing was trained
again on all of them. ECGs left out: {facts["left_out"]}. A statement counts as present when it is listed, whatever its
likelihood; those with at least {facts["n_positives"]} training positives became labels.

## Figures

95 % intervals are of {DRAWS} bootstrap draws of patients.

{_summary(report)}
{_SUPERCLASSES if report.superclasses else ""}
{_label_table(bundle, report)}

## Calibration

Each label has a slope and an intercept fitted on the choosing side (Platt), the slope drawn towards one common to all
labels where positives are few. Mean Brier score on the reporting side: {report.brier:.4f};
{report.brier_prevalence:.4f} for always saying the label's frequency. Probabilities hold where the labels are as
frequent as in these data.

## How it was made

    {facts["command"]}

{_facts(bundle)}
"""


def _summary(report: Report) -> str:
    rows = [
        "| | positives | AUC (95 % interval) |",
        "|---|---:|---|",
        f"| **macro AUC**, labels with at least {JUDGED} positives: {report.macro.n_positive} | | **{report.macro}** |",
    ]
    rows += [f"| superclass {name} | {figure.n_positive} | {figure} |" for name, figure in report.superclasses.items()]
    return "\n".join(rows)


def _label_table(bundle: Bundle, report: Report) -> str:
    rows = [
        "| label | | positives, training | positives, report | AUC (95 % interval) | average precision |",
        "|---|---|---:|---:|---|---:|",
    ]
    for label in bundle.labels:
        figure, precision = report.labels[label.code], report.average_precision[label.code]
        shown = f"{figure} | {precision:.2f}" if figure.n_positive >= JUDGED else "– | –"
        rows.append(f"| {label.code} | {label.name} | {label.n_train} | {label.n_test} | {shown} |")
    return "\n".join(rows)


def _facts(bundle: Bundle) -> str:
    shown = {key: value for key, value in bundle.training.items() if key not in {"command", "provenance"}}
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())])
