"""What can be said of one file, bundle or run: the content of `ecgbatch inspect`."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecgbatch import archive, formats, waveform
from ecgbatch.archive import Entry
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError, RecordError
from ecgbatch.feed import batch, host
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Record, Reject

__all__ = ["bundle_text", "describe", "leads_uv", "record_of", "record_text", "run_text", "write_samples"]


def record_of(path: Path) -> Record:
    """The ECG in a file.

    Raises:
        RecordError: there is none that can be decoded.
    """
    belongings = formats.companions(archive.read(str(path)), path.name)
    outcome = batch.read(Entry(path.name, os.path.abspath(path), *archive.stamp(str(path), belongings)))
    if isinstance(outcome, Reject):
        raise RecordError(outcome.reason, outcome.detail)
    return outcome


def leads_uv(record: Record) -> np.ndarray:
    """The twelve leads in µV, float32 (lead, time) at the record's own rate; NaN where a sample is missing.

    Raises:
        RecordError: a lead is neither stored nor a sum of stored ones.
    """
    nv = waveform.nanovolts(record, LEADS)
    return np.where(nv == INVALID, np.nan, nv * 1e-3).astype(np.float32)


def write_samples(record: Record, path: Path) -> None:
    """Write `leads_uv` as an .npy file.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.save(file, leads_uv(record))
    except OSError as err:
        raise OutputError(f"{path}: cannot be written: {err.strerror}") from err


def describe(record: Record) -> dict[str, Any]:
    """Metadata of the rhythm as stored, and each of the twelve leads' statistics in µV."""
    uv = leads_uv(record)
    return {
        "format": record.format,
        "fs_hz": record.fs_hz,
        "n_samples": record.n_samples,
        "seconds": record.seconds,
        "acquired_at": record.acquired_at.isoformat() if record.acquired_at else None,
        "device_model": record.device_model,
        "leads_derived": [lead for lead in LEADS if lead not in record.leads],
        "flat_leads": list(host.flat_leads(record)),
        "missing_samples": int(np.isnan(uv).any(axis=0).sum()),
        "waveform_hash": batch.waveform_hash(
            host.nanovolts(record, INDEPENDENT_LEADS, host.flat_leads(record)), record.fs_hz
        ),
        "leads": {lead: _statistics(row) for lead, row in zip(LEADS, uv, strict=True)},
    }


def record_text(facts: dict[str, Any]) -> str:
    """`describe`'s facts for a person."""
    lines = [
        f"{facts['format']} · {facts['fs_hz']:g} Hz · {facts['seconds']:g} s · {facts['n_samples']} samples",
        f"acquired {facts['acquired_at'] or 'unknown'} · device {facts['device_model'] or 'unknown'}",
        f"derived {', '.join(facts['leads_derived']) or 'none'} · flat {', '.join(facts['flat_leads']) or 'none'}",
        f"missing samples {facts['missing_samples']}",
        f"waveform {facts['waveform_hash']}",
        "",
        f"{'lead':<5}{'mean µV':>10}{'std µV':>10}{'min µV':>10}{'max µV':>10}",
    ]
    for lead, found in facts["leads"].items():
        numbers = (f"{value:10.1f}" if value is not None else f"{'-':>10}" for value in found.values())
        lines.append(f"{lead:<5}{''.join(numbers)}")
    return "\n".join(lines)


def bundle_text(bundle: Bundle) -> str:
    """A bundle for a person: what it takes, what it says, how well."""
    spec = bundle.input
    lines = [
        f"{bundle.name} {bundle.version} · {len(bundle.labels)} labels · licence {bundle.licence}",
        f"input {', '.join(spec.leads)} · {spec.fs_hz} Hz × {spec.seconds:g} s, at least {spec.min_seconds:g} s",
        f"fingerprint {bundle.fingerprint}",
        "",
        f"{'code':<8}{'AUC':>6}  {'95 % interval':<15}{'cases':>6}{'threshold':>11}  name",
    ]
    for label in bundle.labels:
        known = not math.isnan(label.auc)
        auc, spread = (f"{label.auc:.3f}", f"{label.auc_low:.3f}–{label.auc_high:.3f}") if known else ("-", "-")
        lines.append(f"{label.code:<8}{auc:>6}  {spread:<15}{label.n_test:>6}{label.threshold:>11.3f}  {label.name}")
    return "\n".join(lines)


def run_text(folder: Path, *, n_records: int = 10) -> str:
    """A run for a person: how far it got, what became of its entries, and what was called in the first records.

    Raises:
        OutputError: the folder holds no readable run.
    """
    try:
        facts = json.loads((folder / "run.json").read_text("utf-8"))
        counts = facts["counts"]
        lines = [
            f"{facts['status']} · scored {counts['scored']} · rejected {counts['rejected']} · of {counts['entries']}",
            f"engine {facts['engine']} · models {', '.join(model['name'] for model in facts['models'])}",
            f"rejected {', '.join(f'{reason} {n}' for reason, n in counts['rejects'].items()) or 'none'}",
        ]
        for model in facts["models"]:
            lines += ["", f"{model['name']}: labels at or above their thresholds, likeliest first"]
            lines += _called(folder, model, n_records)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as err:
        raise OutputError(f"{folder}: no readable run, expected a run folder of ecgbatch") from err
    return "\n".join(lines)


def _called(folder: Path, model: dict[str, Any], n_records: int) -> Iterator[str]:
    """A line a record with the labels called in it."""
    columns = {f"{model['name']}/{label['code']}": label for label in model["labels"]}
    parts = sorted((folder / "scores").glob("part-*.parquet"))
    rows = pl.scan_parquet(parts).select("record_id", *columns).head(n_records).collect() if parts else pl.DataFrame()
    for row in rows.iter_rows(named=True):
        called = {label["code"]: row[column] for column, label in columns.items() if row[column] >= label["threshold"]}
        likeliest = sorted(called, key=lambda code: -called[code])[:6]
        yield f"{row['record_id']:<28} " + " · ".join(f"{code} {called[code]:.2f}" for code in likeliest)


def _statistics(uv: np.ndarray) -> dict[str, float | None]:
    present = uv[~np.isnan(uv)].astype(np.float64)
    if not present.size:
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": float(present.mean()),
        "std": float(present.std()),
        "min": float(present.min()),
        "max": float(present.max()),
    }
