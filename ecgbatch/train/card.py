"""CARD.md: what a model is, what it was made from, what it achieves, and what it must not be used for."""

from ecgbatch.bundle import Bundle
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.report import DRAWS, Report

__all__ = ["text"]

_PTB_XL = """
P. Wagner, N. Strodthoff, R.-D. Bousseljot, D. Kreiseler, F. I. Lunze, W. Samek, T. Schaeffter: PTB-XL, a large publicly
available electrocardiography dataset. *Scientific Data* 7:154 (2020).
"""


def text(bundle: Bundle, report: Report, *, n_parameters: int, gflop: float) -> str:
    """The card in Markdown."""
    spec, facts = bundle.input, bundle.training
    return f"""# {bundle.name} {bundle.version}

A residual network over time. It reads {spec.seconds:g} s of {len(spec.leads)} leads ({", ".join(spec.leads)}) at
{spec.fs_hz} Hz and gives the probabilities of {len(bundle.labels)} SCP-ECG statements, and an embedding to build other
models on. {n_parameters / 1e6:.2f} million parameters, {gflop:.2f} GFLOP an ECG.

**Macro AUC {report.macro}** on {report.n_records} ECGs of patients it has never seen.

## Limits

* **For research only. Not a medical device; not to be used in the care of patients.**
* Trained on {facts["n_train"]} ECGs of one public collection. Devices, patients and readers elsewhere differ, and
  figures there may be lower.
* The labels are statements of ECG readers, in part made automatically; they are not outcomes. What is not listed
  below is not looked for.
* Rare statements rest on few positives: mind the counts and the intervals. Under {JUDGED} positives no AUC is stated.
* Records of less than {spec.min_seconds:g} s are refused. Shorter than {spec.seconds:g} s, they are padded with zeros;
  training has seen such, the figures below have not.
* Children, paced rhythms and rare arrhythmias are few in the data.
* Thresholds weigh sensitivity and specificity alike and were chosen on few positives: choose your own for your purpose.

## Data and split

{facts["provenance"]}.
{_PTB_XL if "PTB-XL" in facts["provenance"] else ""}
The weights are derived from these data and licensed {bundle.licence}, with this attribution.

The split is by patient, as the collection's folds give it: {facts["n_train"]} ECGs of folds 1 to 7 trained the weights,
{facts["n_choose"]} of fold 8 chose recipe and epoch and fitted calibration and thresholds,
{facts["n_report"]} of fold 9 gave the figures below. Nothing was trained again on all of them. A statement counts as
present when it is listed, whatever its likelihood; those with at least {facts["n_positives"]} training positives became
labels.

## Figures

95 % intervals are of {DRAWS} bootstrap draws of patients.

{_summary(report)}

A superclass is true where any of its statements is listed, and scored by the most probable of its labels.

{_label_table(bundle, report)}

## Calibration

Each label has a slope and an intercept fitted on fold 8 (Platt), the slope drawn towards one common to all labels where
positives are few. Mean Brier score on fold 9: {report.brier:.4f}; {report.brier_prevalence:.4f} for always saying the
label's frequency. Probabilities hold where the statements are as frequent as in the collection.

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
        "| label | | positives, training | positives, fold 9 | AUC (95 % interval) | average precision |",
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
