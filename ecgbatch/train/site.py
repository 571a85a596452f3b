"""A bundle calibrated for a site: the same network and weights, with slopes, intercepts and thresholds of its labels.

What is fitted is a second calibration on top of the bundle's own, sigmoid(slope * logit(p) + intercept), and the two
are multiplied out into one pair. What is stated of it is of records that it was not fitted to.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecgbatch import bundle
from ecgbatch.bundle import Bundle, Label
from ecgbatch.errors import UsageError
from ecgbatch.train import evaluation, metrics, reliability, scored, site_bundle
from ecgbatch.train.calibrate import Rule, platt, sigmoid, thresholds
from ecgbatch.train.cells import Cells, logits
from ecgbatch.train.metrics import JUDGED
from ecgbatch.train.scored import Scored

__all__ = ["OWN_SLOPE", "Calibrated", "calibrate", "fit", "out_of_fold"]

OWN_SLOPE = 10
"""Positives, and negatives, that a label needs for a slope of its own; with fewer it has the common one."""
N_FOLDS = 5
METHODS = ("kept", "common slope", "own slope")
"""How a label is calibrated: not at all under `JUDGED` positives or negatives, then with the common slope, its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A second calibration, (label,) each."""

    slope: np.ndarray
    intercept: np.ndarray
    threshold: np.ndarray
    """Of the calibrated probability; NaN where the label is kept."""

    def probability(self, z: np.ndarray) -> np.ndarray:
        """Of (record, label) logits of the scores."""
        return sigmoid(self.slope * z + self.intercept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """The bundle that was made, and what it is worth."""

    bundle: Bundle
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """A label each: `method`, and figures before and after with their intervals."""

    @property
    def summary(self) -> str:
        """One line: what was calibrated, and what it changed out of sample."""
        done = [row for row in self.rows if row["method"] != METHODS[0]]
        before, after = (float(np.mean([row[side]["brier"] for row in done])) for side in ("before", "after"))
        return (
            f"calibrated {len(done)} of {len(self.bundle.labels)} labels on {self.facts['n_records']} ECGs of "
            f"{self.facts['n_patients']} patients · mean Brier score {before:.4f}, {after:.4f} out of fold"
        )


def calibrate(
    run: Path,
    table: Path,
    out: Path,
    *,
    model: str | None = None,
    rule: Rule,
    record_column: str | None = None,
    patient_column: str | None = None,
    label_columns: Sequence[str] = (),
) -> Calibrated:
    """Fit the calibration of a run's model to a table of labels, and write the bundle with it to `out`.

    Raises:
        UsageError: the labels are too few, `out` is there already, or the run is of another version of the model.
        BundleError: the model is not to be had.
        OutputError: the run is not finished, or `out` cannot be written.
    """
    if os.path.lexists(out):  # Path.exists raises where it may not look
        raise UsageError(f"{out}: is there already, expected a new folder for the bundle")
    models = scored.run_of(run)["models"]
    if model is None and len(models) > 1:
        names = ", ".join(each["name"] for each in models)
        raise UsageError(f"{run}: scored by {names}; choose one with --model")
    old = bundle.find(model or models[0]["name"])
    found = scored.read(
        run,
        table,
        model=old.name,
        record_column=record_column,
        patient_column=patient_column,
        label_columns=label_columns,
    )
    if found.model["fingerprint"] != old.fingerprint:
        raise UsageError(f"{run}: not scored with {old.name} {old.version} in {old.folder}; name the one with --model")
    method = methods(found.is_positive)
    if (method == METHODS[0]).all():
        raise UsageError(f"{table}: no label with {JUDGED} positives and {JUDGED} negatives in the run; nothing to fit")

    z = logits(found.probability)
    fitted = fit(found.is_positive, z, method, rule)
    held_out, called = out_of_fold(found.is_positive, z, method, rule, found.patients)
    rows = _rows(found, method, held_out, called)
    facts = {
        **found.facts,
        "threshold_rule": str(rule),
        "n_saturated": int(((found.probability == 0) | (found.probability == 1)).sum()),
        "n_folds": N_FOLDS,
    }
    drawn = reliability.panels(found.codes, found.is_positive, held_out, before=found.probability)
    made = site_bundle.write(old, _labels(old, found.codes, method, fitted), out, facts=facts, rows=rows, panels=drawn)
    return Calibrated(bundle=made, facts=facts, rows=rows)


def methods(is_positive: np.ndarray) -> np.ndarray:
    """Which of `METHODS` suits the counts of each label of (record, label): str (label,)."""
    least = np.minimum((is_positive == 1).sum(0), (is_positive == 0).sum(0))
    return np.array(METHODS)[np.digitize(least, [JUDGED, OWN_SLOPE])]


def fit(is_positive: np.ndarray, z: np.ndarray, method: np.ndarray, rule: Rule) -> Fit:
    """The calibration of (record, label) logits; a label that is kept has slope 1 and intercept 0."""
    n_labels = z.shape[1]
    slope, intercept, threshold = np.ones(n_labels), np.zeros(n_labels), np.full(n_labels, np.nan)
    at = np.flatnonzero(method != METHODS[0])
    slope[at], intercept[at] = platt(is_positive[:, at], z[:, at], has_own_slope=method[at] == METHODS[2])
    probability = sigmoid(slope[at] * z[:, at] + intercept[at])
    threshold[at] = thresholds(is_positive[:, at], probability, rule)
    return Fit(slope=slope, intercept=intercept, threshold=threshold)


def out_of_fold(
    is_positive: np.ndarray, z: np.ndarray, method: np.ndarray, rule: Rule, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether each label is called, by fits that have not seen the patient: (record, label).

    Raises:
        UsageError: there are fewer patients than folds.
    """
    unique, patient = np.unique(patients, return_inverse=True)
    if len(unique) < N_FOLDS:
        raise UsageError(f"labels: of {len(unique)} patients, expected at least {N_FOLDS}")
    fold = (np.random.default_rng(0).permutation(len(unique)) % N_FOLDS)[patient]
    probability, called = np.empty(z.shape), np.zeros(z.shape, bool)
    for at in range(N_FOLDS):
        seen = fold != at
        fitted = fit(is_positive[seen], z[seen], method, rule)
        probability[~seen] = fitted.probability(z[~seen])
        called[~seen] = probability[~seen] >= fitted.threshold
    return probability, called


def _rows(found: Scored, method: np.ndarray, held_out: np.ndarray, called: np.ndarray) -> list[dict[str, Any]]:
    """What each label's scores are worth before, and after without having been fitted to the record's patient."""
    weight = evaluation.draws_of(found.patients)
    rows = []
    for at, label in enumerate(found.labels):
        known = ~np.isnan(found.is_positive[:, at])
        truth, drawn = found.is_positive[known, at], weight if known.all() else weight[:, known]
        patients = found.patients[known]
        before, _ = evaluation.figures_of(truth, found.probability[known, at], patients, drawn, label["threshold"])
        after, _ = evaluation.figures_of(truth, held_out[known, at], patients, drawn, 0.5)
        if method[at] != METHODS[0]:
            after |= _calls(truth, called[known, at], patients, drawn)
        rows.append(
            {
                "label": label["code"],
                "method": str(method[at]),
                "n": len(truth),
                "n_positive": int(truth.sum()),
                "before": before,
                "after": after,
            }
        )
    return rows


def _calls(truth: np.ndarray, called: np.ndarray, patients: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Sensitivity and specificity of thresholds that differ from fold to fold."""
    point, drawn = Cells.of(truth, called.astype(float)), Cells.drawn(truth, called.astype(float), weight)
    found: dict[str, float] = {}
    for name, of in (("sensitivity", truth > 0), ("specificity", truth == 0)):
        figure = evaluation.FIGURES[name]
        share = float(figure(point, 0.5)[0])
        low, high = metrics.share_interval(figure(drawn, 0.5), share, len(np.unique(patients[of])))
        found |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return found


def _labels(old: Bundle, codes: Sequence[str], method: np.ndarray, fitted: Fit) -> tuple[Label, ...]:
    """The labels of a bundle with both calibrations in one: slope of slope, and the intercept shifted alike."""
    place = {code: at for at, code in enumerate(codes) if method[at] != METHODS[0]}
    return tuple(_label(label, fitted, place[label.code]) if label.code in place else label for label in old.labels)


def _label(old: Label, fitted: Fit, at: int) -> Label:
    slope, intercept, threshold = (float(part[at]) for part in (fitted.slope, fitted.intercept, fitted.threshold))
    return replace(old, slope=slope * old.slope, intercept=slope * old.intercept + intercept, threshold=threshold)
