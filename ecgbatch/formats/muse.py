"""GE MUSE XML (`RestingECG`): base64 int16, one block a lead, each with its CRC-32."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import isfinite
from xml.sax.saxutils import unescape

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import FIRST_YEAR, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name

__all__ = ["decode"]

_WAVEFORM = ("WaveformType", "SampleBase", "SampleExponent")
_DECLARED = (
    "LeadID",
    "LeadAmplitudeUnitsPerBit",
    "LeadAmplitudeUnits",
    "LeadByteCountTotal",
    "LeadSampleCountTotal",
    "LeadSampleSize",
    "LeadTimeOffset",
    "LeadOffsetFirstSample",
    "FirstSampleBaseline",
)
_TEST = ("AcquisitionDate", "AcquisitionTime", "AcquisitionDevice")
_LEAD = ("", *(f"/{name}" for name in (*_DECLARED, "LeadDataCRC32", "WaveFormData")))
_PATHS = _kernels.XmlPaths(
    [
        *(f"RestingECG/Waveform/LeadData{name}" for name in _LEAD),
        "RestingECG/Waveform",
        *(f"RestingECG/Waveform/{name}" for name in _WAVEFORM),
        *(f"RestingECG/TestDemographics/{name}" for name in _TEST),
    ]
)
_UV_PER_UNIT = {"MICROVOLTS": 1.0, "MILLIVOLTS": 1000.0, "NANOVOLTS": 0.001, "VOLTS": 1e6}
_MAX_COUNT = 2**31  # of any sample

_Span = tuple[int, int]
_Fields = dict[str, _Span]
"""Where the content of each field lies in the text, by element name."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a lead's fields say of its samples."""

    lead: str
    uv_per_count: float
    zero_count: float
    n_bytes: int
    starts_at: str


@dataclass(slots=True)
class _Lead:
    """One of the twelve leads as stored: its layout, its checksum, and where its base64 lies."""

    layout: _Layout
    crc32: bytes
    samples: _Span


def decode(text: bytes) -> Record:
    """The rhythm of a MUSE document in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    spans, rows, places = xml.table(text, _PATHS, len(_LEAD))
    waveforms, test = _outline(spans)
    rhythms = [w for w in waveforms if _text(text, w, "WaveformType").upper() == "RHYTHM"]
    if len(rhythms) != 1:
        found = ", ".join(_text(text, w, "WaveformType")[:20] or "none" for w in waveforms) or "none"
        raise RecordError(Reason.NO_RHYTHM, f"waveforms {found}, expected one Rhythm")
    rhythm = rhythms[0]
    begin, end = rhythm[""]
    leads = _standard_leads([(row, place) for row, place in zip(rows, places, strict=True) if begin <= place[0] < end])
    return Record(
        format="muse-xml",
        fs_hz=_rate_hz(text, rhythm),
        leads=tuple(leads),
        counts=_counts(text, leads),
        uv_per_count=tuple([lead.layout.uv_per_count for lead in leads.values()]),
        zero_counts=tuple([lead.layout.zero_count for lead in leads.values()]),
        acquired_at=_acquired_at(text, test),
        device_model=_name(text, test, "AcquisitionDevice"),
    )


def _outline(spans: list[xml.Span]) -> tuple[list[_Fields], _Fields]:
    """The waveforms, each with its whole content under an empty name, and the fields of the test."""
    waveforms: list[_Fields] = []
    test: _Fields = {}
    for path, begin, end in spans:
        if path == 0:
            waveforms.append({"": (begin, end)})
        elif path <= len(_WAVEFORM):
            waveforms[-1][_WAVEFORM[path - 1]] = (begin, end)
        else:
            test[_TEST[path - 1 - len(_WAVEFORM)]] = (begin, end)
    return waveforms, test


def _standard_leads(stored: list[tuple[list[bytes], xml.Span]]) -> dict[str, _Lead]:
    """The standard leads of the rhythm, in stored order; extra ones are left alone."""
    leads: dict[str, _Lead] = {}
    for (*declared, crc32), (_, begin, end) in stored:
        layout = _layout(*declared)
        if layout is None:
            continue
        if layout.lead in leads:
            raise RecordError(Reason.DUPLICATE_LEAD, f"lead {layout.lead} is stored twice")
        if layout.n_bytes > (end - begin) * 3 // 4:
            detail = f"lead {layout.lead}: {layout.n_bytes} bytes declared for {end - begin} characters of base64"
            raise RecordError(Reason.MALFORMED, detail)
        leads[layout.lead] = _Lead(layout, crc32.strip(), (begin, end))
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no standard lead in the rhythm")
    return leads


@lru_cache(maxsize=4096)
def _layout(*content: bytes) -> _Layout | None:
    """A lead's layout from the content of its `_DECLARED` fields, None for a lead that is not one of the twelve.

    Kept, for an archive holds few different ones.
    """
    field = {name: raw.decode("latin-1").strip() for name, raw in zip(_DECLARED, content, strict=True)}
    name = lead_name(field["LeadID"])
    if name is None:
        return None
    if _number(field, "LeadSampleSize", 2) != 2 or _number(field, "LeadOffsetFirstSample", 0) != 0:
        raise RecordError(Reason.MALFORMED, f"lead {name}: expected LeadSampleSize 2 and LeadOffsetFirstSample 0")
    n_bytes = _number(field, "LeadByteCountTotal", -1)
    n_samples = _number(field, "LeadSampleCountTotal", n_bytes / 2)
    if n_bytes < 0:
        n_bytes = 2 * n_samples
    if n_bytes <= 0 or n_bytes % 2 or n_bytes != 2 * n_samples:
        raise RecordError(Reason.MALFORMED, f"lead {name}: {n_bytes:g} bytes and {n_samples:g} samples declared")
    baseline = _number(field, "FirstSampleBaseline", 0)
    if abs(baseline) > _MAX_COUNT:
        raise RecordError(Reason.MALFORMED, f"lead {name}: FirstSampleBaseline is beyond any sample")
    return _Layout(name, _gain_uv(field), -baseline, int(n_bytes), field["LeadTimeOffset"] or "0")


def _rate_hz(text: bytes, rhythm: _Fields) -> float:
    try:
        base = float(_text(text, rhythm, "SampleBase"))
        rate_hz = base * 10.0 ** int(_text(text, rhythm, "SampleExponent") or "0")
    except (ValueError, OverflowError):
        rate_hz = 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "SampleBase and SampleExponent do not give a sampling rate")
    return rate_hz


def _gain_uv(field: dict[str, str]) -> float:
    try:
        uv_per_count = float(field["LeadAmplitudeUnitsPerBit"]) * _UV_PER_UNIT[field["LeadAmplitudeUnits"].upper()]
    except (ValueError, KeyError):
        uv_per_count = 0.0
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        detail = f"lead {field['LeadID'][:8]}: LeadAmplitudeUnitsPerBit and LeadAmplitudeUnits do not give a gain"
        raise RecordError(Reason.UNKNOWN_GAIN, detail)
    return uv_per_count


def _counts(text: bytes, leads: dict[str, _Lead]) -> np.ndarray:
    """int16 (lead, time), held to every count and checksum that the file states."""
    first = next(iter(leads.values())).layout
    if any((x.layout.n_bytes, x.layout.starts_at) != (first.n_bytes, first.starts_at) for x in leads.values()):
        raise RecordError(Reason.MALFORMED, "leads of different length or start, expected simultaneous leads")
    samples = np.empty((len(leads), first.n_bytes), np.uint8)
    decoded, crcs = _kernels.base64_blocks(text, np.array([lead.samples for lead in leads.values()], np.int64), samples)
    for (name, lead), n_bytes, crc in zip(leads.items(), decoded, crcs, strict=True):
        if n_bytes < 0:
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"lead {name}: not base64")
        if n_bytes != first.n_bytes:
            raise RecordError(Reason.MALFORMED, f"lead {name}: {n_bytes} bytes of samples, expected {first.n_bytes}")
        if lead.crc32 and crc != _crc32(lead.crc32):
            raise RecordError(Reason.CHECKSUM, f"lead {name}: CRC-32 differs from LeadDataCRC32")
    return samples.view("<i2")


def _crc32(stated: bytes) -> int:
    """The CRC that a decimal number states, signed or not."""
    try:
        return int(stated) % 2**32
    except ValueError:
        raise RecordError(Reason.MALFORMED, "LeadDataCRC32 is not a number") from None


def _acquired_at(text: bytes, test: _Fields) -> datetime | None:
    """Date MM-DD-YYYY and time HH:MM:SS; None where they are not a moment."""
    date, time = _text(text, test, "AcquisitionDate"), _text(text, test, "AcquisitionTime") or "00:00:00"
    try:
        month, day, year = map(int, date.split("-"))
        hour, minute, second = map(int, time.split(":"))
        moment = datetime(year, month, day, hour, minute, second)  # strptime takes ten times as long
    except (ValueError, OverflowError):
        return None
    return moment if year >= FIRST_YEAR else None


def _name(text: bytes, fields: dict[str, _Span], name: str) -> str | None:
    """A free text, in UTF-8 or else Latin-1, whatever the document says of itself."""
    begin, end = fields.get(name, (0, 0))
    try:
        found = text[begin:end].decode("utf-8")
    except UnicodeDecodeError:
        found = text[begin:end].decode("latin-1")
    return unescape(found).strip()[:64] or None


def _number(field: dict[str, str], name: str, default: float) -> float:
    """The number in a field; `default` where it is absent or empty."""
    try:
        number = float(field[name] or default)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise RecordError(Reason.MALFORMED, f"{name} is not a number")
    return number


def _text(text: bytes, fields: _Fields, name: str) -> str:
    """Stripped content of a field; empty where it is absent."""
    span = fields.get(name)
    return text[span[0] : span[1]].decode("latin-1").strip() if span else ""
