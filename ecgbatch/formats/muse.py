"""GE MUSE XML (`RestingECG`): base64 int16, one block a lead, each with its CRC-32."""

from contextlib import suppress
from datetime import datetime
from math import isfinite
from xml.sax.saxutils import unescape

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import RATES_HZ, Reason, Record, lead_name

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
_DOCUMENT = _kernels.XmlPaths(
    [
        "RestingECG/Waveform",
        *(f"RestingECG/Waveform/{name}" for name in _WAVEFORM),
        *(f"RestingECG/TestDemographics/{name}" for name in _TEST),
    ]
)
_LEADS = _kernels.XmlPaths(["Waveform/LeadData", *(f"Waveform/LeadData/{name}" for name in _LEAD)])
"""Leads are looked up in the rhythm alone: a median beat has as many elements again."""
_UV_PER_UNIT = {"MICROVOLTS": 1.0, "MILLIVOLTS": 1000.0, "NANOVOLTS": 0.001, "VOLTS": 1e6}
_MAX_COUNT = 2**31  # of any sample

_Span = tuple[int, int]
_Fields = dict[str, _Span]
"""Where the content of each field lies in the text, by element name."""


def decode(text: bytes) -> Record:
    """The rhythm of a MUSE document in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    waveforms, test = _outline(text)
    rhythms = [w for w in waveforms if _text(text, w, "WaveformType").upper() == "RHYTHM"]
    if len(rhythms) != 1:
        found = ", ".join(_text(text, w, "WaveformType")[:20] or "none" for w in waveforms) or "none"
        raise RecordError(Reason.NO_RHYTHM, f"waveforms {found}, expected one Rhythm")
    rhythm = rhythms[0]
    leads = _standard_leads(text, rhythm)
    return Record(
        format="muse-xml",
        fs_hz=_rate_hz(text, rhythm),
        leads=tuple(leads),
        counts=_counts(text, leads),
        uv_per_count=tuple(_gain_uv(text, name, lead) for name, lead in leads.items()),
        zero_counts=tuple(_zero_count(text, lead) for lead in leads.values()),
        acquired_at=_acquired_at(text, test),
        device_model=_name(text, test, "AcquisitionDevice"),
    )


def _outline(text: bytes) -> tuple[list[_Fields], _Fields]:
    """The waveforms, each with its whole content under an empty name, and the fields of the test."""
    waveforms: list[_Fields] = []
    test: _Fields = {}
    for path, begin, end in xml.spans(text, _DOCUMENT):
        if path == 0:
            waveforms.append({"": (begin, end)})
        elif path <= len(_WAVEFORM):
            waveforms[-1][_WAVEFORM[path - 1]] = (begin, end)
        else:
            test[_TEST[path - 1 - len(_WAVEFORM)]] = (begin, end)
    return waveforms, test


def _standard_leads(text: bytes, rhythm: _Fields) -> dict[str, _Fields]:
    """The twelve standard leads among those stored; extra ones (V3R, V7) are left alone."""
    stored: list[_Fields] = []
    for path, begin, end in xml.spans(text, _LEADS, *xml.with_tags(text, rhythm[""])):
        if path == 0:
            stored.append({})
        else:
            stored[-1][_LEAD[path - 1]] = (begin, end)
    leads: dict[str, _Fields] = {}
    for lead in stored:
        name = lead_name(_text(text, lead, "LeadID"))
        if name in leads:
            raise RecordError(Reason.DUPLICATE_LEAD, f"lead {name} is stored twice")
        if name:
            leads[name] = lead
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no standard lead in the rhythm")
    return leads


def _rate_hz(text: bytes, rhythm: _Fields) -> float:
    try:
        base = float(_text(text, rhythm, "SampleBase"))
        rate_hz = base * 10.0 ** int(_text(text, rhythm, "SampleExponent") or "0")
    except (ValueError, OverflowError):
        rate_hz = 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "SampleBase and SampleExponent do not give a sampling rate")
    return rate_hz


def _gain_uv(text: bytes, name: str, lead: _Fields) -> float:
    try:
        gain = float(_text(text, lead, "LeadAmplitudeUnitsPerBit"))
        uv_per_count = gain * _UV_PER_UNIT[_text(text, lead, "LeadAmplitudeUnits").upper()]
    except (ValueError, KeyError):
        uv_per_count = 0.0
    if not (isfinite(uv_per_count) and uv_per_count > 0):
        detail = f"lead {name}: LeadAmplitudeUnitsPerBit and LeadAmplitudeUnits do not give a gain"
        raise RecordError(Reason.UNKNOWN_GAIN, detail)
    return uv_per_count


def _zero_count(text: bytes, lead: _Fields) -> float:
    baseline = _number(text, lead, "FirstSampleBaseline", "0")
    if abs(baseline) > _MAX_COUNT:
        raise RecordError(Reason.MALFORMED, "FirstSampleBaseline is beyond any sample")
    return -baseline


def _counts(text: bytes, leads: dict[str, _Fields]) -> np.ndarray:
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


def _declared_bytes(text: bytes, leads: dict[str, _Fields]) -> int:
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
        if not 0 < n_bytes <= at_most or n_bytes % 2 or n_bytes != 2 * n_samples:
            detail = f"lead {name}: {n_bytes:.0f} bytes, {n_samples:g} samples declared for {at_most} bytes of payload"
            raise RecordError(Reason.MALFORMED, detail)
        declared.add((n_bytes, _text(text, lead, "LeadTimeOffset") or "0"))
    if len(declared) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different length or start, expected simultaneous leads")
    return int(declared.pop()[0])


def _acquired_at(text: bytes, test: _Fields) -> datetime | None:
    stamp = f"{_text(text, test, 'AcquisitionDate')} {_text(text, test, 'AcquisitionTime') or '00:00:00'}"
    with suppress(ValueError):
        return datetime.strptime(stamp, "%m-%d-%Y %H:%M:%S")
    return None


def _name(text: bytes, fields: dict[str, _Span], name: str) -> str | None:
    """A free text, in UTF-8 or else Latin-1, whatever the document says of itself."""
    begin, end = fields.get(name, (0, 0))
    try:
        found = text[begin:end].decode("utf-8")
    except UnicodeDecodeError:
        found = text[begin:end].decode("latin-1")
    return unescape(found).strip()[:64] or None


def _number(text: bytes, fields: _Fields, name: str, default: str) -> float:
    """The number in a field; `default` where it is absent or empty."""
    try:
        number = float(_text(text, fields, name) or default)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise RecordError(Reason.MALFORMED, f"{name} is not a number")
    return number


def _text(text: bytes, fields: _Fields, name: str) -> str:
    """Stripped content of a field; empty where it is absent."""
    span = fields.get(name)
    return text[span[0] : span[1]].decode("latin-1").strip() if span else ""
