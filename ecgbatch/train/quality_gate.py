"""The quality gate from ECGs that readers judged: measures, regression, cross-validation, gate and card.

    ecgbatch train gate cinc2011_quality.parquet --out engines/quality

The Parquet file has the columns `quality` (acceptable, unacceptable), `fs_hz`, `uv_per_count`, `leads` and `samples`
(int16, lead after lead), and a `patient_id` where it is known; its metadata may say under `provenance` where the ECGs
come from.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import tomli_w

from ecgbatch import _kernels, files, quality
from ecgbatch.errors import UsageError
from ecgbatch.feed import host
from ecgbatch.gate import WEIGHED
from ecgbatch.quality import MEASURES, WORST_IS_LEAST
from ecgbatch.record import INDEPENDENT_LEADS, Record
from ecgbatch.train import place, quality_card, table

__all__ = ["Judged", "cross_validated", "fit", "read", "train"]

VERSION = "1.0.0"
N_FOLDS = 5
N_SPLITS = 10
"""Cross-validations, each of another partition: one alone wanders by half a percent."""
RIDGE = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Penalties to choose from, on the squared weights of standardised features."""
_SIGN = np.array([1 if name in WORST_IS_LEAST else -1 for name in WEIGHED] * 2)
_COLUMNS = ["quality", "fs_hz", "uv_per_count", "leads", "samples"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """ECGs as the gate sees them, and what readers said."""

    features: np.ndarray
    """float64 (record, feature)"""
    is_good: np.ndarray
    """bool (record,)"""
    patients: np.ndarray
    """(record,); a record whose patient is unknown is of one of its own."""
    has_patients: bool
    provenance: str
    sha256: str


def train(data: Path, out: Path) -> Path:
    """Write `gate.toml` and `CARD.md` into a folder, figures by cross-validation; returns the folder.

    Raises:
        UsageError: the file holds no judged ECGs.
        OutputError: the folder cannot be written; known before anything is read.
    """
    place.require_writable(out)
    judged = read(data)
    probabilities, baseline = cross_validated(judged, n_splits=N_SPLITS)
    weights, ridge = _chosen(judged.features, judged.is_good, judged.patients)
    middle_at = len(WEIGHED)
    content = {
        "version": VERSION,
        "intercept": _rounded(weights[-1]),
        "weights": {name: [_rounded(weights[k]), _rounded(weights[middle_at + k])] for k, name in enumerate(WEIGHED)},
        "training": {
            "provenance": judged.provenance,
            "sha256": judged.sha256,
            "n_acceptable": int(judged.is_good.sum()),
            "n_unacceptable": int((~judged.is_good).sum()),
            "ridge": ridge,
            "ecgbatch": version("ecgbatch"),
        },
    }
    figures = quality_card.figures(judged.is_good, probabilities, judged.patients, baseline)
    card = quality_card.text(content, figures, has_patients=judged.has_patients, n_folds=N_FOLDS, n_splits=N_SPLITS)
    with files.writing(out):
        (out / "gate.toml").write_text(tomli_w.dumps(content), "utf-8")
        (out / "CARD.md").write_text(card, "utf-8")
    return out


def read(data: Path) -> Judged:
    """The features of every ECG, through the kernels that score.

    Raises:
        UsageError: a column is missing, or a verdict is neither acceptable nor unacceptable.
    """
    try:
        frame = pl.read_parquet(data, glob=False)
        provenance = (pq.read_schema(data).metadata or {}).get(b"provenance", b"unknown").decode()
    except (OSError, pl.exceptions.PolarsError) as err:
        raise UsageError(f"{data}: no readable Parquet file") from err
    if missing := [name for name in _COLUMNS if name not in frame.columns]:
        raise UsageError(f"{data}: no column {', '.join(missing)}")
    is_known = frame["quality"].is_in(["acceptable", "unacceptable"]).fill_null(False)
    if n_unknown := int((~is_known).sum()):
        raise UsageError(f"{data}: {n_unknown} ECGs of another quality than 'acceptable' and 'unacceptable'")
    measures = np.stack([_measures(row) for row in frame.select(_COLUMNS).iter_rows(named=True)])
    weighed = [MEASURES.index(name) for name in WEIGHED]
    has_patients = "patient_id" in frame.columns
    return Judged(
        features=quality.features(measures)[:, weighed + [len(MEASURES) + at for at in weighed]],
        is_good=(frame["quality"] == "acceptable").to_numpy(),
        patients=_patients(frame["patient_id"]) if has_patients else np.arange(len(frame)),
        has_patients=has_patients,
        provenance=provenance,
        sha256=files.sha256(data),
    )


def _patients(column: pl.Series) -> np.ndarray:
    return table.patients_of(column, [str(row) for row in range(len(column))])


def cross_validated(judged: Judged, *, n_splits: int) -> tuple[np.ndarray, float]:
    """(record, split): the probability that a gate gives which has not seen the record's patient.

    And the accuracy of calling every ECG acceptable.
    """
    probabilities = np.empty((len(judged.is_good), n_splits))
    for split in range(n_splits):
        fold = _folds(judged.is_good, judged.patients, seed=split)
        for at in range(N_FOLDS):
            seen = fold != at
            weights, _ = _chosen(judged.features[seen], judged.is_good[seen], judged.patients[seen])
            probabilities[~seen, split] = _probability(judged.features[~seen], weights)
    return probabilities, float(judged.is_good.mean())


def fit(features: np.ndarray, is_good: np.ndarray, ridge: float) -> np.ndarray:
    """(feature + 1,): weights and intercept of the logistic regression in which no defect speaks for an ECG.

    A feature whose weight has the wrong sign weighs nothing.
    """
    kept = features.std(0) > 1e-9  # what never changes says nothing
    while True:
        weights = np.zeros(features.shape[1] + 1)
        weights[np.append(kept, True)] = _newton(features[:, kept], is_good, ridge)
        wrong = weights[:-1] * _SIGN < 0
        if not wrong.any():
            return weights
        kept &= ~wrong


def _newton(features: np.ndarray, is_good: np.ndarray, ridge: float) -> np.ndarray:
    mean, sd = features.mean(0), features.std(0)
    x = np.column_stack([(features - mean) / sd, np.ones(len(features))])
    penalty = np.diag([ridge] * features.shape[1] + [1e-9])
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (p - is_good) + penalty @ weights
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + penalty, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return np.append(weights[:-1] / sd, weights[-1] - (weights[:-1] * mean / sd).sum())


def _chosen(features: np.ndarray, is_good: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights under the penalty that is likeliest in a cross-validation of its own, and that penalty."""
    fold = _folds(is_good, patients, seed=1000)
    surprise = dict.fromkeys(RIDGE, 0.0)
    for ridge in RIDGE:
        for at in range(N_FOLDS):
            seen = fold != at
            p = _probability(features[~seen], fit(features[seen], is_good[seen], ridge))
            surprise[ridge] -= np.log(np.where(is_good[~seen], p, 1 - p).clip(1e-12)).sum()
    ridge = min(surprise, key=lambda each: surprise[each])
    return fit(features, is_good, ridge), ridge


def _folds(is_good: np.ndarray, patients: np.ndarray, *, seed: int) -> np.ndarray:
    """(record,): fold of each, all of a patient in one; patients with a good ECG are spread evenly, and the others."""
    unique, patient = np.unique(patients, return_inverse=True)
    has_good = np.bincount(patient, weights=is_good) > 0
    rng = np.random.default_rng(seed)
    of_patient = np.empty(len(unique), np.int64)
    for side in (has_good, ~has_good):
        of_patient[rng.permutation(np.flatnonzero(side))] = np.arange(side.sum()) % N_FOLDS
    return np.asarray(of_patient[patient])


def _probability(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-(features @ weights[:-1] + weights[-1]))))


def _measures(row: dict[str, Any]) -> np.ndarray:
    """float32 (measure, lead) of a row of the file."""
    leads = tuple(row["leads"])
    record = Record(
        format="table",
        fs_hz=float(row["fs_hz"]),
        leads=leads,
        counts=np.array(row["samples"], np.int16).reshape(len(leads), -1),
        uv_per_count=(float(row["uv_per_count"]),) * len(leads),
        zero_counts=(0.0,) * len(leads),
    )
    out = np.empty((len(MEASURES), len(INDEPENDENT_LEADS)), np.float32)
    nv = host.nanovolts(record, INDEPENDENT_LEADS, host.flat_leads(record))
    _kernels.lead_measures(nv, record.fs_hz, out)
    return out


def _rounded(x: float) -> float:
    return float(f"{x:.6g}")
