"""CARD.md: what a model is, what it was made from, what it achieves, and what it must not be used for."""

import math
from collections.abc import Mapping
from typing import Any

from ecgbatch.bundle import Bundle
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.report import Report

__all__ = ["text"]


def text(bundle: Bundle, report: Report, *, size: Mapping[str, Any]) -> str:
    """The card in Markdown; `size` holds `n_parameters` and `gflop`."""
    return (
        "\n\n".join(
            [
                f"# {bundle.name} {bundle.version}",
                _what(bundle, report, size),
                "## Limits\n\n" + _limits(bundle, report),
                "## Data and split\n\n" + _data(bundle),
                "## Figures\n\n" + _figures(report),
                _label_table(bundle, report),
                "## Calibration\n\n" + _calibration(report),
                "## How it was made\n\n" + _provenance(bundle),
            ]
        )
        + "\n"
    )


def _what(bundle: Bundle, report: Report, size: Mapping[str, Any]) -> str:
    spec = bundle.input
    return (
        f"A residual network over time that reads {len(spec.leads)} leads ({', '.join(spec.leads)}) at {spec.fs_hz} Hz "
        f"for {spec.seconds:g} s and gives the probabilities of {len(bundle.labels)} SCP-ECG statements, and an embedding "
        f"to build other models on. {size['n_parameters'] / 1e6:.2f} million parameters, {size['gflop']:.2f} GFLOP an ECG. "
        f"Macro AUC {report.macro} on {report.n_records} ECGs of patients it has never seen."
    )


def _limits(bundle: Bundle, report: Report) -> str:
    return "\n".join(
        [
            "* **For research only. Not a medical device; not to be used in the care of patients.**",
            f"* Trained on {bundle.training['n_train']} ECGs of one public collection: devices, patients and readers of "
            "elsewhere differ, and figures there may be lower.",
            "* The labels are statements of ECG readers, in part made automatically, not outcomes; statements that "
            "are not listed here are not looked for.",
            f"* Rare statements rest on few positives: mind `n` and the intervals. With under {JUDGED} positives no AUC "
            "is stated.",
            f"* Recordings of less than {bundle.input.min_seconds:g} s are refused; training has seen ECGs cut to "
            f"{bundle.input.min_seconds:g} s and padded with zeros, nothing shorter.",
            "* ECGs of children, paced rhythms and rare arrhythmias are few in the data.",
            "* Thresholds are those of equal weight for sensitivity and specificity, chosen on few positives: choose "
            "your own for your purpose.",
        ]
    )


def _data(bundle: Bundle) -> str:
    facts = bundle.training
    return (
        f"{facts['provenance']}.\n\n"
        "P. Wagner, N. Strodthoff, R.-D. Bousseljot, D. Kreiseler, F. I. Lunze, W. Samek, T. Schaeffter: PTB-XL, a large "
        "publicly available electrocardiography dataset. *Scientific Data* 7:154 (2020). The weights are derived from it "
        f"and are licensed {bundle.licence}, with this attribution.\n\n"
        f"Split by patient, as the collection's folds give it: {facts['n_train']} ECGs of folds 1 to 7 trained the "
        f"weights, {facts['n_choose']} of fold 8 chose the epoch and fitted calibration and thresholds, "
        f"{facts['n_report']} of fold 9 gave the figures below. Nothing was trained again on all of them. A statement "
        "counts as present when it is listed, whatever its likelihood; those with at least "
        f"{facts['n_positives']} training positives became labels."
    )


def _figures(report: Report) -> str:
    rows = [
        "95 % intervals are of 1000 bootstrap draws of patients.",
        "",
        "| | n positive | AUC (95 % interval) |",
        "|---|---:|---|",
        f"| **macro AUC** of {report.macro.n_positive} labels with at least {JUDGED} positives | | **{report.macro}** |",
    ]
    rows += [f"| superclass {name} | {figure.n_positive} | {figure} |" for name, figure in report.superclasses.items()]
    rows += ["", "A superclass is scored by the largest probability among its labels."]
    return "\n".join(rows)


def _label_table(bundle: Bundle, report: Report) -> str:
    rows = ["| label | | n train | n test | AUC (95 % interval) | average precision |", "|---|---|---:|---:|---|---:|"]
    for label in bundle.labels:
        figure = report.labels[label.code]
        shown = "–" if math.isnan(figure.auc) else f"{figure}"
        precision = report.average_precision[label.code]
        shown_precision = "–" if math.isnan(figure.auc) else f"{precision:.2f}"
        rows.append(f"| {label.code} | {label.name} | {label.n_train} | {label.n_test} | {shown} | {shown_precision} |")
    return "\n".join(rows)


def _calibration(report: Report) -> str:
    return (
        "Each label has a slope and an intercept fitted on fold 8 (Platt), the slope drawn towards one common to all "
        f"labels where positives are few. Mean Brier score on fold 9: {report.brier:.4f}; "
        f"{report.brier_prevalence:.4f} for always saying the label's frequency. Probabilities hold for patients like "
        "those of the collection, where the statements have its frequencies."
    )


def _provenance(bundle: Bundle) -> str:
    facts = bundle.training
    rows = [f"    {facts['command']}", "", "| | |", "|---|---|"]
    rows += [f"| {key} | {value} |" for key, value in facts.items() if key not in {"command", "provenance"}]
    return "\n".join(rows)
