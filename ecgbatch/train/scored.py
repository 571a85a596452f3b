"""A finished run and what is known of its ECGs: the scores of one model, and the label of each where there is one."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecgbatch import parts
from ecgbatch.errors import OutputError, UsageError
from ecgbatch.facts import is_finished
from ecgbatch.plan import Plan
from ecgbatch.train import labels, statements
from ecgbatch.train.cohort import n_unknown_patients, one_person
from ecgbatch.train.columns import told
from ecgbatch.train.labels import Labels

__all__ = ["GROUPS", "Scored", "read", "run_of"]

_NAMES = ["record_id", "source_path"]
_FACTS = [*_NAMES, "format", "waveform_hash", "device_model", "fs_hz", "seconds"]
GROUPS = ("format", "device_model", "fs_hz", "seconds")
"""Columns of the scores that tell subgroups."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """The labelled records of a run, in its order, and the labels that both the model and the table have."""

    model: Mapping[str, Any]
    """As `run.json` tells it: name, version, fingerprint, and each label's code, name and threshold."""
    labels: tuple[Mapping[str, Any], ...]
    """Those of the model that the table has too."""
    probability: np.ndarray
    """float32 (record, label)"""
    is_positive: np.ndarray
    """float32 (record, label): 1, 0, or NaN where it is not known."""
    patients: np.ndarray
    """str (record,); those who share a waveform are one."""
    groups: pl.DataFrame
    """Columns that tell subgroups, of the table and of the scores, a row a record."""
    facts: Mapping[str, Any]
    """Where the labels come from, and what became of every one of them."""

    @property
    def codes(self) -> list[str]:
        return [label["code"] for label in self.labels]


def run_of(run: Path) -> Mapping[str, Any]:
    """The `run.json` of a finished run.

    Raises:
        OutputError: there is no run, or it is not finished.
    """
    if not os.path.isfile(run / "plan.parquet"):  # noqa: PTH113  # Path.is_file raises where it may not look
        raise OutputError(f"{run}: no plan.parquet, expected a run folder of ecgbatch")
    if parts.ledger(run) == "records":
        raise OutputError(f"{run}: a pack, which has no scores; expected a run of it")
    n_done, n_shards = len(parts.committed(run)), Plan.open(run / "plan.parquet").n_shards
    if n_done < n_shards or not is_finished(run):
        state = f"{n_done} of {n_shards} shards are done" if n_done < n_shards else "run.json says no end"
        raise OutputError(f"{run}: {state}, expected a finished run; finish it with the command that began it")
    return json.loads((run / "run.json").read_text("utf-8"))


def read(
    run: Path,
    table: Path,
    *,
    model: str | None = None,
    record_column: str | None = None,
    patient_column: str | None = None,
    label_columns: Sequence[str] = (),
) -> Scored:
    """The labels of a table joined to the scores of a finished run.

    A record that is set aside as a duplicate hands its labels to the one that stayed: what either knows is known, and
    where they say otherwise, nothing is.

    Raises:
        UsageError: the run has no such model, or run and table have no record or no label in common.
        OutputError: the run is not finished, or cannot be read.
    """
    told_by = run_of(run)
    chosen = _model(run, told_by["models"], model)
    codes = [label["code"] for label in chosen["labels"]]
    known = labels.read(
        table,
        record_column=record_column,
        patient_column=patient_column,
        label_columns=label_columns,
        known_codes=codes,
    )
    if known.is_listed:
        known = _with_superclasses(known, codes)
    shared = [at for at, code in enumerate(codes) if code in known.codes]
    if not shared:
        found = f"the table has {told(known.codes, 'label')}, the model {_some(codes)}"
        raise UsageError(
            f"{table}: no label of model {chosen['name']!r}: {found}; name its columns by the model's codes"
        )
    columns = [f"{chosen['name']}/{codes[at]}" for at in shared]
    scores, duplicates, rejects = _rows(run)
    at_score, is_positive, counts = _joined(known, scores, duplicates, rejects)
    if not len(at_score):
        first = "".join(f", whose first is {name!r}" for name in scores["record_id"][:1])
        raise UsageError(f"{table}: none of its {len(known.record_ids)} records was scored in {run}{first}")
    is_positive = is_positive[:, [known.codes.index(codes[at]) for at in shared]]
    kept = _kept(run, at_score["score"].to_numpy(), [*_FACTS, *columns])
    own = known.patients[at_score["label"]]
    patients = one_person(own, kept["waveform_hash"].to_numpy())
    return Scored(
        model=chosen,
        labels=tuple(chosen["labels"][at] for at in shared),
        probability=kept.select(columns).to_numpy().astype(np.float32, copy=False),
        is_positive=is_positive,
        patients=patients,
        groups=kept.select(GROUPS).with_columns(
            known.groups[at_score["label"]].drop(_FACTS, strict=False).get_columns()
        ),
        facts={
            "run": run.name,
            "run_fingerprint": Plan.open(run / "plan.parquet").fingerprint,
            "labels": table.name,
            "labels_sha256": known.sha256,
            "model": chosen["name"],
            "model_version": chosen["version"],
            "model_fingerprint": chosen["fingerprint"],
            "engine": told_by["engine"],
            "ecgbatch": version("ecgbatch"),
            "n_records": len(kept),
            "n_patients": len(np.unique(patients)),
            "n_without_patient": n_unknown_patients(own),
            **counts,
            "n_repeated_waveforms": int((~kept["waveform_hash"].is_first_distinct()).sum()),
            "labels_without_scores": [code for code in known.codes if code not in codes],
            "scores_without_labels": [code for code in codes if code not in known.codes],
        },
    )


def _with_superclasses(known: Labels, codes: Sequence[str]) -> Labels:
    """The labels, and those superclasses of listed statements that a model of these codes has, as in training."""
    every, is_positive = statements.with_superclasses(known.codes, known.is_positive)
    at = [at for at, code in enumerate(every) if code in known.codes or code in codes]
    return replace(known, codes=tuple(every[one] for one in at), is_positive=is_positive[:, at])


def _model(run: Path, models: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    names = [model["name"] for model in models]
    if name is None and len(models) > 1:
        raise UsageError(f"{run}: scored by {', '.join(names)}; choose one with --model")
    if name is not None and name not in names:
        raise UsageError(f"{run}: model {name!r}, expected {' or '.join(map(repr, names))}")
    return models[names.index(name) if name else 0]


def _rows(run: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The names of scores, duplicates and rejects of all shards, in order, with `duplicate_of` and `reason`."""
    scores, duplicates, rejects = [], [], []
    for shard in sorted(parts.committed(run)):
        with parts.readable(run, shard):
            part = pl.read_parquet(run / "scores" / parts.name(shard), columns=_NAMES, glob=False)
            scores.append(part)
            duplicates.append(parts.moved(run, shard, part, columns=[*_NAMES, "duplicate_of"]))
            rejects.append(
                pl.read_parquet(run / "rejects" / parts.name(shard), columns=[*_NAMES, "reason"], glob=False)
            )
    return pl.concat(scores), pl.concat(duplicates, how="diagonal"), pl.concat(rejects)


def _kept(run: Path, place: np.ndarray, columns: Sequence[str]) -> pl.DataFrame:
    """The rows of the scores at `place`, growing, counted through all parts."""
    kept, start = [], 0
    for shard in sorted(parts.committed(run)):
        with parts.readable(run, shard):
            part = pl.read_parquet(run / "scores" / parts.name(shard), columns=list(columns), glob=False)
        end = start + part.height
        kept.append(part[place[np.searchsorted(place, start) : np.searchsorted(place, end)] - start])
        start = end
    return pl.concat(kept)


def _joined(
    known: Labels, scores: pl.DataFrame, duplicates: pl.DataFrame, rejects: pl.DataFrame
) -> tuple[pl.DataFrame, np.ndarray, dict[str, Any]]:
    """The labelled rows of the scores as (`score`, `label`), their labels (record, label), where all labels went."""
    entries = pl.concat(part.select(_NAMES) for part in (scores, duplicates, rejects) if part.height)
    label = known.rows_of(entries)
    of_score, of_duplicate, of_reject = np.split(label, [scores.height, scores.height + duplicates.height])

    own = pl.DataFrame({"score": np.arange(scores.height), "label": of_score})
    if duplicates.height:
        place = pl.DataFrame({"duplicate_of": scores["record_id"], "score": np.arange(scores.height)})
        left = duplicates.with_columns(label=pl.Series(of_duplicate)).join(place, on="duplicate_of")
        own = pl.concat([own, left.select("score", "label")])
    own = own.filter(pl.col("label") >= 0).sort("score", maintain_order=True)
    is_first = own["score"].is_first_distinct().to_numpy()
    is_positive, n_contradicted = _merged(known.is_positive[own["label"]], is_first)
    reasons = Counter(rejects["reason"].to_numpy()[of_reject >= 0].tolist())
    where = {
        "n_scored": int((of_score >= 0).sum()),
        "n_rejected": int((of_reject >= 0).sum()),
        "n_duplicate": int((of_duplicate >= 0).sum()),
        "n_absent": int(len(known.record_ids) - (label >= 0).sum()),
    }
    assert sum(where.values()) == len(known.record_ids)
    counts = {
        "n_labelled": len(known.record_ids),
        **where,
        "n_contradicted": n_contradicted,
        "n_unlabelled": int(scores.height - is_first.sum()),
        "rejects": dict(sorted(reasons.items())),
    }
    return own.filter(is_first), is_positive, counts


def _merged(is_positive: np.ndarray, is_first: np.ndarray) -> tuple[np.ndarray, int]:
    """One row for each run of rows that begins where `is_first`, and how many of its labels are contradicted."""
    if is_first.all():
        return is_positive, 0
    first = np.flatnonzero(is_first)
    n_positive = np.add.reduceat(is_positive == 1, first, axis=0, dtype=np.int64)
    n_negative = np.add.reduceat(is_positive == 0, first, axis=0, dtype=np.int64)
    merged = np.where(n_positive > 0, 1, np.where(n_negative > 0, 0, np.nan)).astype(np.float32)
    is_contradicted = (n_positive > 0) & (n_negative > 0)
    merged[is_contradicted] = np.nan
    return merged, int(is_contradicted.sum())


def _some(codes: Sequence[str]) -> str:
    return ", ".join(codes[:5]) + (", …" if len(codes) > 5 else "")
