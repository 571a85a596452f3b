"""GE MUSE XML (`RestingECG`): base64 int16, one block a lead, each with its CRC-32."""

from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import FIRST_YEAR, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

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
_MAX_DECLARED_BYTES = 2**16  # of the fields of all leads, some 100 a lead

_Span = tuple[int, int]
_Fields = dict[str, _Span]
"""Where the content of each field lies in the text, by element name."""


class _Layout(NamedTuple):
    """What a lead's fields say of its samples."""

    lead: str
    uv_per_count: float
    zero_count: float
    n_bytes: int
    starts_at: str


class _Rhythm(NamedTuple):
    """The standard leads among the stored ones, in stored order."""

    rows: tuple[int, ...]
    """Index of each among the stored ones."""
    leads: tuple[str, ...]
    uv_per_count: tuple[float, ...]
    zero_counts: tuple[float, ...]
    n_bytes: int
    """Of each lead's samples."""


def decode(text: bytes) -> Record:
    """The rhythm of a MUSE document in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    spans, rows = xml.table(text, _PATHS, len(_LEAD))
    waveforms, test = _outline(spans)
    rhythm = _rhythm_of(text, waveforms)
    begin, end = rhythm[""]
    stored = [(row[0].rpartition(b"\0"), row[2:]) for row in rows if begin <= row[1] < end]
    layout = _rhythm(tuple([declared for (declared, _, _), _ in stored]))
    leads = [stored[row] for row in layout.rows]
    return Record(
        format="muse-xml",
        fs_hz=_rate_hz(text, rhythm),
        leads=layout.leads,
        counts=_counts(text, layout, [place for _, place in leads], [crc32 for (_, _, crc32), _ in leads]),
        uv_per_count=layout.uv_per_count,
        zero_counts=layout.zero_counts,
        acquired_at=_acquired_at(text, test),
        device_model=model_name(xml.free_text(text[slice(*test.get("AcquisitionDevice", (0, 0)))])),
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


def _rhythm_of(text: bytes, waveforms: list[_Fields]) -> _Fields:
    """The waveform that is called rhythm, or the only one where it has no type, as some hospitals' exports have it."""
    types = [_text(text, waveform, "WaveformType").upper() for waveform in waveforms]
    wanted = "RHYTHM" if any(types) else ""
    if types.count(wanted) != 1:
        found = xml.kinds(types, ("RHYTHM", "MEDIAN"))
        raise RecordError(Reason.NO_RHYTHM, f"{len(types)} waveforms ({found}), expected one Rhythm")
    return waveforms[types.index(wanted)]


@lru_cache(maxsize=1024)
def _rhythm(stored: tuple[bytes, ...]) -> _Rhythm:
    """From the content of every stored lead's `_DECLARED` fields; kept, for an archive holds few different ones.

    Extra leads are left alone.
    """
    if (n_bytes := sum(map(len, stored))) > _MAX_DECLARED_BYTES:
        raise RecordError(Reason.MALFORMED, f"{n_bytes} bytes that describe {len(stored)} leads")
    layouts = {row: layout for row, layout in enumerate(map(_layout, stored)) if layout}
    leads = tuple([layout.lead for layout in layouts.values()])
    xml.require_leads(leads)
    if len({(layout.n_bytes, layout.starts_at) for layout in layouts.values()}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different length or start, expected simultaneous leads")
    return _Rhythm(
        tuple(layouts),
        leads,
        tuple([layout.uv_per_count for layout in layouts.values()]),
        tuple([layout.zero_count for layout in layouts.values()]),
        next(iter(layouts.values())).n_bytes,
    )


def _layout(declared: bytes) -> _Layout | None:
    """A lead's layout from the content of its `_DECLARED` fields, None for a lead that is not one of the twelve."""
    contents = declared.decode("latin-1").split("\0")
    if len(contents) != len(_DECLARED):
        raise RecordError(Reason.MALFORMED, "a NUL among a lead's fields")
    field = {name: content.strip() for name, content in zip(_DECLARED, contents, strict=True)}
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


def _counts(text: bytes, layout: _Rhythm, places: list[_Span], checksums: list[bytes]) -> np.ndarray:
    """int16 (lead, time) of the base64 at each place, held to every count and checksum that the file states."""
    expected = layout.n_bytes
    n_characters = min([end - begin for begin, end in places])
    if expected > n_characters * 3 // 4:
        detail = f"{expected} bytes a lead declared, and only {n_characters} characters of base64 in one of them"
        raise RecordError(Reason.MALFORMED, detail)
    samples = np.empty((len(places), expected), np.uint8)
    found = _kernels.base64_blocks(text, places, samples)
    for lead, (n_bytes, crc), stated in zip(layout.leads, found, checksums, strict=True):
        if n_bytes < 0:
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"lead {lead}: not base64")
        if n_bytes != expected:
            raise RecordError(Reason.MALFORMED, f"lead {lead}: {n_bytes} bytes of samples, expected {expected}")
        if stated.strip() and crc != _crc32(stated):
            raise RecordError(Reason.CHECKSUM, f"lead {lead}: CRC-32 differs from LeadDataCRC32")
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
