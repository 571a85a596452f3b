"""GE MUSE XML (`RestingECG`): base64 int16, one block a lead, each with its CRC-32."""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import Reason, Record, lead_name

__all__ = ["decode"]

_WAVEFORM = ("WaveformType", "SampleBase", "SampleExponent")
_LEAD = (
    "LeadID",
    "LeadAmplitudeUnitsPerBit",
    "LeadAmplitudeUnits",
    "LeadByteCountTotal",
    "LeadSampleCountTotal",
    "LeadSampleSize",
    "LeadTimeOffset",
    "LeadOffsetFirstSample",
    "FirstSampleBaseline",
    "LeadDataCRC32",
    "WaveFormData",
)
_TEST = ("AcquisitionDate", "AcquisitionTime", "AcquisitionDevice")
_FIELDS = ("", "", *_WAVEFORM, *_LEAD, *_TEST)
"""Name of each path below, by its index; the first two open a new waveform and a new lead."""
_PATHS = _kernels.XmlPaths(
    [
        "RestingECG/Waveform",
        "RestingECG/Waveform/LeadData",
        *(f"RestingECG/Waveform/{name}" for name in _WAVEFORM),
        *(f"RestingECG/Waveform/LeadData/{name}" for name in _LEAD),
        *(f"RestingECG/TestDemographics/{name}" for name in _TEST),
    ]
)
_FIRST_LEAD_FIELD = 2 + len(_WAVEFORM)
_FIRST_TEST_FIELD = _FIRST_LEAD_FIELD + len(_LEAD)
_UV_PER_UNIT = {"MICROVOLTS": 1.0, "MILLIVOLTS": 1000.0, "NANOVOLTS": 0.001, "VOLTS": 1e6}
_MAX_RATE_HZ = 100_000

_Span = tuple[int, int]


@dataclass(slots=True)
class _Waveform:
    fields: dict[str, _Span] = field(default_factory=dict)
    leads: list[dict[str, _Span]] = field(default_factory=list)


def decode(text: bytes) -> Record:
    """The rhythm of a MUSE document in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    waveforms, test = _outline(text)
    rhythms = [w for w in waveforms if _text(text, w.fields, "WaveformType").upper() == "RHYTHM"]
    if len(rhythms) != 1:
        found = ", ".join(_text(text, w.fields, "WaveformType")[:20] or "none" for w in waveforms) or "none"
        raise RecordError(Reason.NO_RHYTHM, f"waveforms {found}, expected one Rhythm")
    rhythm = rhythms[0]
    leads = _standard_leads(text, rhythm)
    return Record(
        format="muse-xml",
        fs_hz=_rate_hz(text, rhythm),
        leads=tuple(leads),
        counts=_counts(text, leads),
        uv_per_count=tuple(_gain_uv(text, name, lead) for name, lead in leads.items()),
        zero_counts=tuple(-_number(text, lead, "FirstSampleBaseline", "0") for lead in leads.values()),
        acquired_at=_acquired_at(text, test),
        device_model=_text(text, test, "AcquisitionDevice")[:64] or None,
    )


def _outline(text: bytes) -> tuple[list[_Waveform], dict[str, _Span]]:
    waveforms: list[_Waveform] = []
    test: dict[str, _Span] = {}
    for path, begin, end in xml.spans(text, _PATHS):
        if path == 0:
            waveforms.append(_Waveform())
        elif path == 1:
            waveforms[-1].leads.append({})
        elif path < _FIRST_LEAD_FIELD:
            waveforms[-1].fields[_FIELDS[path]] = (begin, end)
        elif path < _FIRST_TEST_FIELD:
            waveforms[-1].leads[-1][_FIELDS[path]] = (begin, end)
        else:
            test[_FIELDS[path]] = (begin, end)
    return waveforms, test


def _standard_leads(text: bytes, rhythm: _Waveform) -> dict[str, dict[str, _Span]]:
    """The twelve standard leads among those stored; extra ones (V3R, V7) are left alone."""
    leads: dict[str, dict[str, _Span]] = {}
    for lead in rhythm.leads:
        name = lead_name(_text(text, lead, "LeadID"))
        if name in leads:
            raise RecordError(Reason.DUPLICATE_LEAD, f"lead {name} is stored twice")
        if name:
            leads[name] = lead
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no standard lead in the rhythm")
    return leads


def _rate_hz(text: bytes, rhythm: _Waveform) -> float:
    try:
        base = float(_text(text, rhythm.fields, "SampleBase"))
        rate_hz = base * 10.0 ** int(_text(text, rhythm.fields, "SampleExponent") or "0")
    except (ValueError, OverflowError):
        rate_hz = 0.0
    if not 0 < rate_hz <= _MAX_RATE_HZ:
        raise RecordError(Reason.UNKNOWN_RATE, "SampleBase and SampleExponent do not give a sampling rate")
    return rate_hz


def _gain_uv(text: bytes, name: str, lead: dict[str, _Span]) -> float:
    try:
        gain = float(_text(text, lead, "LeadAmplitudeUnitsPerBit"))
        uv_per_count = gain * _UV_PER_UNIT[_text(text, lead, "LeadAmplitudeUnits").upper()]
    except (ValueError, KeyError):
        uv_per_count = 0.0
    if not (isfinite(uv_per_count) and uv_per_count > 0):
        detail = f"lead {name}: LeadAmplitudeUnitsPerBit and LeadAmplitudeUnits do not give a gain"
        raise RecordError(Reason.UNKNOWN_GAIN, detail)
    return uv_per_count


def _counts(text: bytes, leads: dict[str, dict[str, _Span]]) -> np.ndarray:
    """int16 (lead, time), held to every count and checksum that the file states."""
    n_bytes = _declared_bytes(text, leads)
    spans = np.array([lead["WaveFormData"] for lead in leads.values()], np.int64)
    samples = np.empty((len(leads), n_bytes), np.uint8)
    decoded, crcs = _kernels.base64_blocks(text, spans, samples)
    for (name, lead), got, crc in zip(leads.items(), decoded, crcs, strict=True):
        if got < 0:
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"lead {name}: not base64")
        if got != n_bytes:
            raise RecordError(Reason.MALFORMED, f"lead {name}: {got} bytes of samples, expected {n_bytes}")
        if "LeadDataCRC32" in lead and crc != _number(text, lead, "LeadDataCRC32", str(crc)) % 2**32:
            raise RecordError(Reason.CHECKSUM, f"lead {name}: CRC-32 differs from LeadDataCRC32")
    return samples.view("<i2")


def _declared_bytes(text: bytes, leads: dict[str, dict[str, _Span]]) -> int:
    """Bytes of samples in every lead, as the counts of all of them agree."""
    declared = set()
    for name, lead in leads.items():
        if "WaveFormData" not in lead:
            raise RecordError(Reason.MALFORMED, f"lead {name}: no WaveFormData")
        if _number(text, lead, "LeadSampleSize", "2") != 2 or _number(text, lead, "LeadOffsetFirstSample", "0") != 0:
            raise RecordError(Reason.MALFORMED, f"lead {name}: expected LeadSampleSize 2 and LeadOffsetFirstSample 0")
        begin, end = lead["WaveFormData"]
        at_most = (end - begin) * 3 // 4
        n_bytes = _number(text, lead, "LeadByteCountTotal", "-1")
        n_samples = _number(text, lead, "LeadSampleCountTotal", "-1")
        if n_bytes < 0 <= n_samples:
            n_bytes = 2 * n_samples
        elif n_samples < 0 <= n_bytes:
            n_samples = n_bytes / 2
        if not 0 < n_bytes <= at_most or n_bytes != 2 * n_samples:
            detail = f"lead {name}: {n_bytes:.0f} bytes, {n_samples:g} samples declared for {at_most} bytes of payload"
            raise RecordError(Reason.MALFORMED, detail)
        declared.add((n_bytes, _text(text, lead, "LeadTimeOffset") or "0"))
    if len(declared) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different length or start, expected simultaneous leads")
    return int(declared.pop()[0])


def _acquired_at(text: bytes, test: dict[str, _Span]) -> datetime | None:
    stamp = f"{_text(text, test, 'AcquisitionDate')} {_text(text, test, 'AcquisitionTime') or '00:00:00'}"
    with suppress(ValueError):
        return datetime.strptime(stamp, "%m-%d-%Y %H:%M:%S")
    return None


def _number(text: bytes, fields: dict[str, _Span], name: str, default: str) -> float:
    """The number in a field; `default` where it is absent or empty."""
    try:
        number = float(_text(text, fields, name) or default)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise RecordError(Reason.MALFORMED, f"{name} is not a number")
    return number


def _text(text: bytes, fields: dict[str, _Span], name: str) -> str:
    """Stripped content of a field; empty where it is absent."""
    span = fields.get(name)
    return text[span[0] : span[1]].decode("latin-1").strip() if span else ""
