"""What an ECG holds, for a person and for scripts: as it is stored, in µV at its own rate."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ecgbatch import files, gate
from ecgbatch.feed import batch, host
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Record

__all__ = ["facts", "leads_uv", "text", "write_samples"]


def leads_uv(record: Record) -> np.ndarray:
    """The twelve leads in µV, float32 (lead, time) at the record's own rate; NaN where a sample is missing.

    A lead that is stored flat is flat here, and no other is derived from it that can be derived without.

    Raises:
        RecordError: a lead is neither stored nor a sum of stored ones.
    """
    flat = host.flat_leads(record)
    nv = host.nanovolts(record, LEADS, flat)
    nv[[LEADS.index(lead) for lead in flat]] = host.nanovolts(record, flat)
    return np.where(nv == INVALID, np.nan, nv * 1e-3).astype(np.float32)


def write_samples(record: Record, path: Path) -> None:
    """Write `leads_uv` as an .npy file.

    Raises:
        OutputError: the file cannot be written.
    """
    with files.writing(path), path.open("wb") as file:
        np.save(file, leads_uv(record))


def facts(record: Record) -> dict[str, Any]:
    """Metadata of the rhythm, named as the scores' columns are, and the statistics in µV of the leads as stored."""
    uv = leads_uv(record)
    flat = host.flat_leads(record)
    compared = gate.comparable(record.leads, flat)
    nv = host.nanovolts(record, INDEPENDENT_LEADS + compared, flat)
    return {
        "format": record.format,
        "fs_hz": record.fs_hz,
        "n_samples": record.n_samples,
        "seconds": record.seconds,
        "acquired_at": record.acquired_at.isoformat() if record.acquired_at else None,
        "device_model": record.device_model,
        "leads_derived": list(host.leads_derived(record, flat)),
        **{name: _plain(value) for name, value in asdict(gate.measure(nv, record.fs_hz, flat, compared)).items()},
        "missing_samples": int(np.isnan(uv).any(axis=0).sum()),
        "waveform_hash": batch.waveform_hash(nv[: len(INDEPENDENT_LEADS)], record.fs_hz),
        "leads": {lead: _statistics(row) for lead, row in zip(LEADS, uv, strict=True)},
    }


def text(told: dict[str, Any]) -> str:
    """`facts` of a record, for a person."""
    lines = [
        f"{told['format']} · {told['fs_hz']:g} Hz · {told['seconds']:g} s · {told['n_samples']} samples",
        f"acquired {told['acquired_at'] or 'unknown'} · device {told['device_model'] or 'unknown'}",
        f"derived {', '.join(told['leads_derived']) or 'none'} · flat {', '.join(told['flat_leads']) or 'none'}",
        f"missing samples {told['missing_samples']}",
        f"quality {told['quality']:.2f} · poor {', '.join(told['poor_leads']) or 'none'}{_suspicion(told)}",
        f"waveform {told['waveform_hash']}",
        "",
        f"{'lead':<5}{'mean µV':>10}{'std µV':>10}{'min µV':>10}{'max µV':>10}",
    ]
    for lead, found in told["leads"].items():
        numbers = (f"{value:10.1f}" if value is not None else f"{'-':>10}" for value in found.values())
        lines.append(f"{lead:<5}{''.join(numbers)}")
    return "\n".join(lines)


def _suspicion(told: dict[str, Any]) -> str:
    leads = f" · leads suspect: {told['limb_residual_uv']:.0f} µV from Einthoven's law" if told["leads_suspect"] else ""
    amplitude = f" · amplitude suspect: {told['amplitude_uv']:.0f} µV" if told["amplitude_suspect"] else ""
    return leads + amplitude


def _plain(value: Any) -> Any:
    """For JSON: four digits of a measure, and a list for a tuple."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return list(value) if isinstance(value, tuple) else value


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
