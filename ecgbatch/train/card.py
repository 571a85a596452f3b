"""CARD.md: what a model is, what it was made from, what it achieves, and what it must not be used for."""

from collections.abc import Mapping
from dataclasses import fields
from math import isnan
from typing import Any

import polars as pl

from ecgbatch.bundle import Bundle, InputSpec
from ecgbatch.train import markdown
from ecgbatch.train.cohort import Doubts
from ecgbatch.train.evaluation import Evaluation
from ecgbatch.train.metrics import FEW, JUDGED
from ecgbatch.train.statements import SUPERCLASSES

__all__ = ["centred", "doubts", "labels", "macro", "text"]

MANY = 30
"""Positives from which the calibration of a label is stated."""

_PTB_XL = """
P. Wagner, N. Strodthoff, R.-D. Bousseljot, D. Kreiseler, F. I. Lunze, W. Samek, T. Schaeffter: PTB-XL, a large publicly
available electrocardiography dataset. *Scientific Data* 7:154 (2020).
"""

_SUPERCLASSES = """
A superclass is a label of its own, true where any of its statements is listed.
"""


def text(bundle: Bundle, report: Evaluation, *, n_parameters: int, gflop: float) -> str:
    """The card in Markdown."""
    spec, facts = bundle.input, bundle.training
    return f"""# {bundle.name} {bundle.version}

A residual network over time. It reads {spec.seconds:g} s of {len(spec.leads)} leads ({", ".join(spec.leads)}) at
{spec.fs_hz} Hz{centred(spec)}, and gives the probabilities of {len(bundle.labels)} labels, and an embedding to build
other models on.
{n_parameters / 1e6:.2f} million parameters, {gflop:.2f} GFLOP an ECG.

**Macro AUC {macro(report)}** on {facts["n_report"]} ECGs of patients it has never seen.

## Limits

* **For research only. Not a medical device; not to be used in the care of patients.**
* Trained on {facts["n_train"]} ECGs. Devices, patients and readers elsewhere differ, and figures there may be lower.
* The labels are what the data below say, right or wrong. What is not listed is not looked for.
* Rare labels rest on few positives: mind the counts. Under {JUDGED} positives no AUC is stated, and under {FEW} its
  interval is narrower than it should be.
* Records of less than {spec.min_seconds:g} s are refused. Shorter than {spec.seconds:g} s, they are padded with zeros,
  as some were in training.
{doubts(facts)}{_few(facts["provenance"])}
* Thresholds weigh sensitivity and specificity alike and were chosen on few positives: choose your own for your purpose.

## Data and split

{facts["provenance"]}.
{_PTB_XL if "PTB-XL" in facts["provenance"] else ""}
The weights are derived from these data; licence: {bundle.licence}.

The split is by patient (folds: {facts["folds"]}): {facts["n_train"]} ECGs trained the weights, {facts["n_choose"]}
chose the epoch and fitted calibration and thresholds, {facts["n_report"]} gave the figures below. Nothing was trained
again on all of them. ECGs left out: {facts["left_out"]}. What is listed counts as present, whatever its likelihood;
labels are those with at least {facts["n_positives"]} training positives.

## Figures

95 % intervals are of {report.facts["n_draws"]} bootstrap draws of patients.

{_summary(report)}
{_SUPERCLASSES if _superclasses(report) else ""}
{_label_table(bundle, report)}
{_groups(report)}
## Calibration

Each label has a slope and an intercept fitted on the choosing side (Platt), the slope drawn towards one common to all
labels where positives are few. Probabilities hold where the labels are as frequent as in these data. A slope of 1 on
the reporting side says that they are neither too bold nor too timid there; a Brier skill above 0, that they are better
than always saying the label's frequency. Of labels with at least {MANY} positives there:

{_calibration(report)}

## How it was made

    {facts["command"]}

{_facts(bundle)}
"""


def centred(spec: InputSpec) -> str:
    """What is done about how far a lead lies from zero, as the end of what is said of the input."""
    return ", each lead's mean taken off" if spec.filter == "offset" else ""


def doubts(facts: Mapping[str, Any]) -> str:
    """What the split by patient could not be sure of, a line each, of the facts of a training."""
    found = Doubts(**{field.name: facts.get(field.name, 0) for field in fields(Doubts)})
    return "".join(f"* {line}.\n" for line in found.lines)


def _few(provenance: str) -> str:
    """What there is little of in these data, as far as it is known."""
    few = "children, paced rhythms and rare arrhythmias" if "PTB-XL" in provenance else "rare labels"
    return f"* Of {few} there are few ECGs in the data."


def labels(report: Evaluation) -> list[dict[str, Any]]:
    """The figures of each label, in order, on all records."""
    figures = report.figures
    return figures.filter(pl.col("group").is_null(), pl.col("label") != "macro").to_dicts()


def macro(report: Evaluation) -> str:
    """The mean AUC of the labels with at least `JUDGED` positives."""
    return _interval(_macro(report), "auc")


def _macro(report: Evaluation) -> dict[str, Any]:
    return report.figures.filter(pl.col("group").is_null(), pl.col("label") == "macro").row(0, named=True)


def _superclasses(report: Evaluation) -> list[dict[str, Any]]:
    return sorted((row for row in labels(report) if row["label"] in SUPERCLASSES), key=_place)


def _place(row: Mapping[str, Any]) -> int:
    return [*SUPERCLASSES].index(row["label"])


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None or isnan(row[name]):
        return "–"
    return f"{row[name]:z.3f} ({row[f'{name}_low']:z.3f} to {row[f'{name}_high']:z.3f})"


def _summary(report: Evaluation) -> str:
    n_judged = sum(not isnan(row["auc"]) for row in labels(report))
    rows = [
        (f"**macro AUC**, labels with at least {JUDGED} positives: {n_judged}", "", f"**{macro(report)}**"),
        *((f"superclass {row['label']}", row["n_positive"], _interval(row, "auc")) for row in _superclasses(report)),
    ]
    return markdown.table(("", "positives", "AUC (95 % interval)"), "lrl", rows)


def _label_table(bundle: Bundle, report: Evaluation) -> str:
    heads = ("label", "", "positives, training", "positives, report", "AUC (95 % interval)", "average precision")
    rows = []
    for label, row in zip(bundle.labels, labels(report), strict=True):
        precision = "–" if isnan(row["average_precision"]) else f"{row['average_precision']:.2f}"
        rows.append((label.code, label.name, label.n_train, label.n_test, _interval(row, "auc"), precision))
    return markdown.table(heads, "llrrlr", rows)


def _groups(report: Evaluation) -> str:
    found = report.figures.filter(pl.col("group").is_not_null(), pl.col("label") == "macro").to_dicts()
    if not found:
        return ""
    heads = ("", "", "ECGs", "macro AUC (95 % interval)", "of labels")
    rows = [(row["group"], row["level"], row["n"], _interval(row, "auc"), _judged(row)) for row in found]
    return f"""
### Subgroups

{markdown.table(heads, "llrlr", rows)}

Each of the labels that have {JUDGED} positives and negatives in the group, so rows are not of the same labels.
Intervals are of {report.facts["n_draws_groups"]} draws.
"""


def _judged(row: Mapping[str, Any]) -> str:
    return row["name"].removeprefix("mean of ").split()[0]


def _calibration(report: Evaluation) -> str:
    heads = ("label", "positives", "calibration slope (95 % interval)", "Brier skill (95 % interval)")
    rows = [
        (row["label"], row["n_positive"], _interval(row, "calibration_slope"), _interval(row, "brier_skill"))
        for row in labels(report)
        if row["n_positive"] >= MANY
    ]
    return markdown.table(heads, "lrll", rows) if rows else "none."


def _facts(bundle: Bundle) -> str:
    hidden = {"command", "provenance"}
    return markdown.table(("", ""), "ll", [item for item in bundle.training.items() if item[0] not in hidden])
