"""What can be said of one file, bundle or run: the content of `ecgbatch inspect`."""

import json
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from ecgbatch import archive, container, files, formats, gate, parts
from ecgbatch.archive import Entry
from ecgbatch.bundle import SHIPPED, Bundle, is_bundle
from ecgbatch.errors import ArchiveError, OutputError, RecordError
from ecgbatch.facts import told
from ecgbatch.feed import batch, host
from ecgbatch.formats import pack
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Reason, Record, Reject
from ecgbatch.tally import outcome, spaced

__all__ = [
    "bundle_facts",
    "bundle_text",
    "describe",
    "kind_of",
    "leads_uv",
    "pack_facts",
    "pack_text",
    "record_of",
    "record_text",
    "run_facts",
    "run_text",
    "write_samples",
]

_WIDTH = 120
_RECORDS = 10
"""Of a run whose called labels are shown."""
_CALLED = 3
"""Labels shown a record: so many fit a line."""


def kind_of(path: Path) -> Literal["bundle", "pack", "record", "run"]:
    """What there is to inspect at `path`: any file may be a record.

    So is a file in a container, called `container#member` as `source_path` in the scores calls it.

    Raises:
        ArchiveError: nothing is there, nor is it the name of a shipped bundle; or a folder of something else.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if _member(path):
            return "record"
        if len(path.parts) == 1 and is_bundle(SHIPPED / path):
            return "bundle"
        missing = "a link to a file that is not there" if os.path.islink(path) else "no such file or folder"
        raise ArchiveError(f"{path}: {missing}") from None
    except OSError:
        return "record"  # what may not be looked at cannot be read either: reading it says why
    return _folder_kind(path) if os.path.isdir(path) else "record"


def _folder_kind(folder: Path) -> Literal["bundle", "pack", "run"]:
    if is_bundle(folder):
        return "bundle"
    if pack.is_pack(folder):
        return "pack"
    if not any(os.path.exists(folder / name) for name in ("run.json", "pack.json", pack.PLAN)):
        raise ArchiveError(f"{folder}: a folder, but no run, pack or bundle; expected one of these, or an ECG file")
    return "run"


def record_of(path: Path) -> Record:
    """The ECG in a file.

    Raises:
        RecordError: there is none that can be decoded.
    """
    if found := _member(path):
        outer, member = found
        entry = Entry(path.name, os.path.abspath(outer), *archive.stamp(outer, ()), member)
    elif names := _records_in(path):
        detail = f"a container of {len(names)} records, expected one of them, such as {path}#{names[0]}"
        raise RecordError(Reason.UNKNOWN_FORMAT, detail)
    else:
        belongings = formats.companions(archive.read(str(path)), path.name)
        entry = Entry(path.name, os.path.abspath(path), *archive.stamp(str(path), belongings))
    outcome = batch.read(entry)
    if isinstance(outcome, Reject):
        raise RecordError(outcome.reason, outcome.detail)
    return outcome


def _records_in(path: Path) -> Sequence[str]:
    """What the records in a container are told apart by; of any other file nothing."""
    if container.kind_of(str(path)):
        entries = archive.scan([path], companions=formats.companions, skip=path)
        return [entry.member for entry in entries if entry.member is not None]
    many = formats.records(os.path.abspath(path))
    return many.members() if many else ()


def _member(path: Path) -> tuple[str, str] | None:
    """The container and the member that a path names, if it names one: of a pack, the part that has the member."""
    text = str(path)
    marks = (at for at, letter in enumerate(text) if letter == "#" and os.path.exists(text[:at]))
    at = None if os.path.exists(path) else next(marks, None)
    if at is None:
        return None
    outer, member = text[:at], text[at + 1 :]
    if not os.path.isdir(outer):
        return outer, member
    parts_there = [os.path.join(outer, name) for name in pack.parts_of(outer) or ()]
    return next(((part, member) for part in parts_there if member in _members(part)), None)


def _members(part: str) -> Sequence[str]:
    try:
        opened = formats.records(part)
    except RecordError:
        return ()
    return opened.members() if opened else ()


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


def describe(record: Record) -> dict[str, Any]:
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


def record_text(facts: dict[str, Any]) -> str:
    """`describe`'s facts for a person."""
    lines = [
        f"{facts['format']} · {facts['fs_hz']:g} Hz · {facts['seconds']:g} s · {facts['n_samples']} samples",
        f"acquired {facts['acquired_at'] or 'unknown'} · device {facts['device_model'] or 'unknown'}",
        f"derived {', '.join(facts['leads_derived']) or 'none'} · flat {', '.join(facts['flat_leads']) or 'none'}",
        f"missing samples {facts['missing_samples']}",
        f"quality {facts['quality']:.2f} · poor {', '.join(facts['poor_leads']) or 'none'}{_suspicion(facts)}",
        f"waveform {facts['waveform_hash']}",
        "",
        f"{'lead':<5}{'mean µV':>10}{'std µV':>10}{'min µV':>10}{'max µV':>10}",
    ]
    for lead, found in facts["leads"].items():
        numbers = (f"{value:10.1f}" if value is not None else f"{'-':>10}" for value in found.values())
        lines.append(f"{lead:<5}{''.join(numbers)}")
    return "\n".join(lines)


def _suspicion(facts: dict[str, Any]) -> str:
    leads = (
        f" · leads suspect: {facts['limb_residual_uv']:.0f} µV from Einthoven's law" if facts["leads_suspect"] else ""
    )
    amplitude = f" · amplitude suspect: {facts['amplitude_uv']:.0f} µV" if facts["amplitude_suspect"] else ""
    return leads + amplitude


def _plain(value: Any) -> Any:
    """For JSON: four digits of a measure, and a list for a tuple."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return list(value) if isinstance(value, tuple) else value


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """A bundle for scripts; None for a figure that its test split could not give."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "licence": bundle.licence,
        "input": asdict(bundle.input),
        **({"parent": asdict(bundle.parent)} if bundle.parent else {}),
        **(
            {"parity": {precision: asdict(found) for precision, found in bundle.parity.items()}}
            if bundle.parity
            else {}
        ),
        "labels": [
            {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in asdict(label).items()
            }  # NaN is no JSON
            for label in bundle.labels
        ],
        "fingerprint": bundle.fingerprint,
        "hashes": dict(bundle.hashes),
    }


def bundle_text(bundle: Bundle) -> str:
    """A bundle for a person: what it takes, what it says, how well."""
    spec = bundle.input
    lines = [
        f"{bundle.name} {bundle.version} · {len(bundle.labels)} labels · licence {bundle.licence}",
        f"input {', '.join(spec.leads)} · {spec.fs_hz} Hz × {spec.seconds:g} s, at least {spec.min_seconds:g} s"
        + ("" if spec.filter == "none" else f", filter {spec.filter}"),
        f"fingerprint {bundle.fingerprint}",
        *([f"head on {bundle.parent.name}, model.onnx {bundle.parent.sha256}"] if bundle.parent else []),
        *(found.table(precision) for precision, found in bundle.parity.items()),
        "",
        f"{'code':<8}{'AUC':>6}  {'95 % interval':<15}{'cases':>6}{'threshold':>11}  name",
    ]
    for label in bundle.labels:
        known = not math.isnan(label.auc)
        auc, spread = (f"{label.auc:.3f}", f"{label.auc_low:.3f}–{label.auc_high:.3f}") if known else ("-", "-")
        lines.append(f"{label.code:<8}{auc:>6}  {spread:<15}{label.n_test:>6}{label.threshold:>11.3f}  {label.name}")
    return "\n".join(lines)


def run_facts(folder: Path) -> dict[str, Any]:
    """A run for scripts: `run.json`, but with the counts of the parts that are there now.

    Raises:
        OutputError: the folder holds no readable run.
    """
    with _reading(folder):
        facts: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
        return {**facts, "counts": {**facts["counts"], **told(parts.counts(folder))}}


def run_text(folder: Path) -> str:
    """A run for a person: how far it got, what became of its entries, and what was called in the first records.

    Raises:
        OutputError: the folder holds no readable run.
    """
    facts = run_facts(folder)
    with _reading(folder):
        counts = facts["counts"]
        became = outcome(counts["scored"], counts["rejected"], counts["duplicate"])
        lines = [
            f"{_status(facts)} · {became} · of {spaced(counts['entries'])}",
            f"engine {facts['engine']} · models {', '.join(model['name'] for model in facts['models'])}",
            *_listed("scored from", _formats(folder)),
            *_listed("rejected", counts["rejects"]),
        ]
        for model in facts["models"]:
            lines += ["", f"{model['name']}: labels called, likeliest first, as probability (≥ the label's threshold)"]
            lines += _called(folder, model)
    return "\n".join(lines)


def pack_facts(folder: Path) -> dict[str, Any]:
    """A pack for scripts: `pack.json`, but with what its parts hold now.

    Raises:
        OutputError: the folder holds no readable pack.
    """
    with _reading(folder):
        facts: dict[str, Any] = json.loads((folder / "pack.json").read_text("utf-8"))
        there = _parts(folder)
        return {
            **facts,
            "counts": {**facts["counts"], **told(parts.counts(folder), verb="packed")},
            "formats": _formats(folder),
            "parts": len(there),
            "bytes": sum(part.stat().st_size for part in there),
        }


def pack_text(folder: Path) -> str:
    """A pack for a person: how far it got, what it holds, and what became of the other entries.

    Raises:
        OutputError: the folder holds no readable pack.
    """
    facts = pack_facts(folder)
    with _reading(folder):
        counts = facts["counts"]
        became = outcome(counts["packed"], counts["rejected"], 0, verb="packed")
        plural = "part" if facts["parts"] == 1 else "parts"
        return "\n".join(
            [
                f"{_status(facts)} · {became} · of {spaced(counts['entries'])}",
                f"{spaced(facts['parts'])} {plural} · {facts['bytes'] / 1e6:.1f} MB · {facts['encoding']}",
                *_listed("packed from", facts["formats"]),
                *_listed("rejected", counts["rejects"]),
            ]
        )


def _status(facts: dict[str, Any]) -> str:
    return "running or stopped" if facts["status"] == "running" else str(facts["status"])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as err:
        kind = "pack" if pack.is_pack(folder) else "run"
        raise OutputError(f"{folder}: no readable {kind}, expected a {kind} folder of ecgbatch") from err


def _listed(what: str, counts: dict[str, int]) -> list[str]:
    """Lines that say how many there are of each, broken between them."""
    each = [f"{name} {spaced(n)}".replace(" ", "\u00a0") for name, n in counts.items()]
    lines = textwrap.wrap(f"{what} {', '.join(each) or 'none'}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def _formats(folder: Path) -> dict[str, int]:
    """How many scored or packed ECGs came from which container."""
    there = _parts(folder)
    if not there:
        return {}
    return dict(pl.scan_parquet(there, glob=False).group_by("format").len().sort("format").collect().iter_rows())


def _parts(folder: Path) -> list[Path]:
    return [folder / parts.ledger(folder) / parts.name(shard) for shard in sorted(parts.committed(folder))]


def _called(folder: Path, model: dict[str, Any]) -> Iterator[str]:
    """A line a record with the labels called in it."""
    columns = {f"{model['name']}/{label['code']}": label for label in model["labels"]}
    scores, shown_columns = _parts(folder), ("record_id", "format", *columns)
    rows = (
        pl.scan_parquet(scores, glob=False).select(shown_columns).head(_RECORDS).collect() if scores else pl.DataFrame()
    )
    for row in rows.iter_rows(named=True):
        called = [(row[column], label) for column, label in columns.items() if row[column] >= label["threshold"]]
        called.sort(key=lambda found: -found[0])
        shown = [f"{label['code']} {_share(p)} (≥ {_share(label['threshold'])})" for p, label in called[:_CALLED]]
        if len(called) > _CALLED:
            shown.append(f"+{len(called) - _CALLED}")
        yield f"{row['record_id']:<29} {row['format']:<14} {' · '.join(shown) or 'none'}"


def _share(p: float) -> str:
    """Two decimals, or two digits of what is so rare that these would be zeros."""
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


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
