"""The files of one ECG in each container: what its devices record, how they write that, and what went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record
from ecgbatch.synth.aecg import aecg_xml
from ecgbatch.synth.cardiosoft import cardiosoft_xml
from ecgbatch.synth.code15 import FS_HZ, N_SAMPLES
from ecgbatch.synth.damage import damaged_file, damaged_muse, damaged_record, damaged_wfdb
from ecgbatch.synth.dicom import dicom_file
from ecgbatch.synth.ecg import record
from ecgbatch.synth.edf import edf_file
from ecgbatch.synth.mortara import mortara_xml
from ecgbatch.synth.muse import muse_xml
from ecgbatch.synth.philips import philips_xml
from ecgbatch.synth.schiller import schiller_xml
from ecgbatch.synth.wfdb import SAMPLE_BITS, wfdb_files

__all__ = ["FORMATS", "Visit", "draw_exam", "draw_files"]

_SECONDS, _SECONDS_SHARE = (10.0, 12.0, 15.0, 30.0), (0.94, 0.03, 0.02, 0.01)
_EXAM_SECONDS, _EXAM_SECONDS_SHARE = (N_SAMPLES / FS_HZ, 10.0, 7.335), (0.4, 0.1, 0.5)
_MUSE_FS_HZ, _MUSE_FS_SHARE = (500.0, 250.0), (0.75, 0.25)
_MUSE_ENCODINGS, _MUSE_ENCODINGS_SHARE = ("ISO-8859-1", "utf-8", "utf-8-sig", "utf-16"), (0.80, 0.12, 0.04, 0.04)
_WFDB_FS_HZ, _WFDB_FS_SHARE = (500.0, 1000.0, 400.0, 360.0, 100.0), (0.55, 0.10, 0.15, 0.10, 0.10)
_WFDB_FMTS, _WFDB_FMTS_SHARE = (16, 212, 24, 32, 61, 80, 160, 310, 311), (0.72, 0.14, *(0.02,) * 7)
_UV_PER_COUNT = {8: 40.0, 10: 20.0, 12: 5.0, 16: 1.0, 24: 0.5, 32: 0.25}
"""By bits of a sample, so that about 5 mV fit."""
_UTF16_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What is known of an ECG before any device has recorded it."""

    name: str
    """Of its files, without suffix."""
    patient_id: str
    rhythm: str
    year: int
    month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    """What all recordings of a container's devices have in common."""

    write: Callable[..., bytes]
    suffix: str
    fs_hz: tuple[float, ...]
    """Equally frequent."""
    uv_per_count: float
    twelve: float
    """Share of the devices that store all leads, not eight."""


_DEVICES: Mapping[str, _Device] = MappingProxyType(
    {
        "hl7-aecg": _Device(write=aecg_xml, suffix=".xml", fs_hz=(500.0, 500.0, 1000.0), uv_per_count=2.5, twelve=0.8),
        "cardiosoft-xml": _Device(write=cardiosoft_xml, suffix=".xml", fs_hz=(500.0,), uv_per_count=5.0, twelve=1.0),
        "dicom": _Device(
            write=dicom_file, suffix=".dcm", fs_hz=(500.0, 500.0, 1000.0, 240.0), uv_per_count=4.88, twelve=0.9
        ),
        "edf": _Device(write=edf_file, suffix=".edf", fs_hz=(500.0, 1000.0, 250.0), uv_per_count=2.5, twelve=0.7),
        "mortara-xml": _Device(write=mortara_xml, suffix=".xml", fs_hz=(500.0, 1000.0), uv_per_count=2.5, twelve=0.8),
        "philips-xml": _Device(write=philips_xml, suffix=".xml", fs_hz=(500.0,), uv_per_count=5.0, twelve=1.0),
        "schiller-xml": _Device(write=schiller_xml, suffix=".xml", fs_hz=(500.0,), uv_per_count=1.0, twelve=1.0),
    }
)

FORMATS = ("muse-xml", "wfdb", *_DEVICES)
"""The containers of one ECG."""


def draw_files(rng: np.random.Generator, container: str, visit: Visit, kind: str | None) -> dict[str, bytes]:
    """File name -> content of an ECG in a container, damaged where `kind` says so; the ECG's entry comes first."""
    match container:
        case "muse-xml":
            return _muse(rng, visit, kind)
        case "wfdb":
            return _wfdb(rng, visit, kind)
    device = _DEVICES[container]
    fs_hz = float(rng.choice(device.fs_hz))
    made = _draw_record(rng, visit, fs_hz=fs_hz, uv_per_count=device.uv_per_count, twelve=device.twelve)
    options = {"patient_id": visit.patient_id}
    if container == "philips-xml" and rng.random() < _UTF16_SHARE and kind is None:
        options["encoding"] = "utf-16"
    content = device.write(damaged_record(made, kind or ""), **options)
    return {f"{visit.name}{device.suffix}": damaged_file(content, container, kind or "", rng)}


def draw_exam(rng: np.random.Generator, visit: Visit, kind: str | None) -> Record:
    """An ECG as CODE-15 has them, damaged where `kind` says so."""
    seconds = float(rng.choice(_EXAM_SECONDS, p=_EXAM_SECONDS_SHARE))
    made = _draw_record(rng, visit, fs_hz=FS_HZ, uv_per_count=1.0, twelve=1.0, seconds=seconds)
    return damaged_record(made, kind or "")


def _draw_record(
    rng: np.random.Generator,
    visit: Visit,
    *,
    fs_hz: float,
    uv_per_count: float,
    twelve: float,
    seconds: float | None = None,
) -> Record:
    """An ECG of the visit's month; `twelve` is the share of devices that store all leads."""
    made = record(
        seed=int(rng.integers(2**62)),
        rhythm=visit.rhythm,
        fs_hz=fs_hz,
        seconds=seconds or float(rng.choice(_SECONDS, p=_SECONDS_SHARE)),
        leads=LEADS if rng.random() < twelve else INDEPENDENT_LEADS,
        uv_per_count=uv_per_count,
    )
    assert made.acquired_at is not None
    day = min(made.acquired_at.day, 28)
    return replace(made, acquired_at=made.acquired_at.replace(year=visit.year, month=visit.month, day=day))


def _muse(rng: np.random.Generator, visit: Visit, kind: str | None) -> dict[str, bytes]:
    fs_hz = float(rng.choice(_MUSE_FS_HZ, p=_MUSE_FS_SHARE))
    made = _draw_record(rng, visit, fs_hz=fs_hz, uv_per_count=4.88, twelve=0.15)
    encoding = str(rng.choice(_MUSE_ENCODINGS, p=_MUSE_ENCODINGS_SHARE))
    if kind is None:
        return {f"{visit.name}.xml": muse_xml(made, encoding=encoding, patient_id=visit.patient_id)}
    document = muse_xml(damaged_record(made, kind), patient_id=visit.patient_id)
    return {f"{visit.name}.xml": damaged_muse(document, kind, rng)}


def _wfdb(rng: np.random.Generator, visit: Visit, kind: str | None) -> dict[str, bytes]:
    fs_hz = float(rng.choice(_WFDB_FS_HZ, p=_WFDB_FS_SHARE))
    fmt = int(rng.choice(_WFDB_FMTS, p=_WFDB_FMTS_SHARE))
    fmt = fmt if kind is None else 16
    uv_per_count = _UV_PER_COUNT[SAMPLE_BITS[fmt]]
    made = _draw_record(rng, visit, fs_hz=fs_hz, uv_per_count=uv_per_count, twelve=0.5)
    container = "mat" if fmt == 16 and rng.random() < 0.25 else "dat"
    half = 2 ** (SAMPLE_BITS[fmt] - 1) - 1
    made = damaged_record(replace(made, counts=made.counts.clip(-half, half)), kind or "")
    files = wfdb_files(made, visit.name, fmt=fmt, container=container, patient_id=visit.patient_id)
    return damaged_wfdb(files, kind or "", rng)
