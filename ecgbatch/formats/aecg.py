"""HL7 annotated ECG (`AnnotatedECG`, the "FDA XML"): decimal digits, one sequence a lead, in any namespace."""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

__all__ = ["decode"]

_SERIES = "AnnotatedECG/component/series"  # what is derived from it, such as the median beat, lies deeper
_SEQUENCE = f"{_SERIES}/component/sequenceSet/component/sequence"
_PATHS = {
    "time": "AnnotatedECG/effectiveTime",
    "centre": "AnnotatedECG/effectiveTime/center",
    "low": "AnnotatedECG/effectiveTime/low",
    "series": _SERIES,
    "kind": f"{_SERIES}/code",
    "began": f"{_SERIES}/effectiveTime/low",
    "model": f"{_SERIES}/author/seriesAuthor/manufacturedSeriesDevice/manufacturerModelName",
    "set": f"{_SERIES}/component/sequenceSet",
    "sequence": _SEQUENCE,
    "code": f"{_SEQUENCE}/code",
    "increment": f"{_SEQUENCE}/value/increment",
    "origin": f"{_SEQUENCE}/value/origin",
    "scale": f"{_SEQUENCE}/value/scale",
    "digits": f"{_SEQUENCE}/value/digits",
}
_PARTS = tuple(_PATHS)
_WANTED = _kernels.XmlPaths(list(_PATHS.values()))
_LEAD_CODES = ("MDC_ECG_LEAD_", "NOM_ECG_LEAD_")
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "\u03bcs": 1e6}
_UV_PER_UNIT = {"uv": 1.0, "µv": 1.0, "\u03bcv": 1.0, "mv": 1e3, "v": 1e6, "nv": 1e-3}
_MAX_COUNT = 2**31  # of any sample

_Element = dict[str, xml.Tag]
"""The parts of the document, a series or a sequence, by their names in `_PATHS`."""


class _Series(NamedTuple):
    parts: _Element
    sets: list[list[_Element]]
    """The sequences of each set, which are simultaneous."""


class _Channel(NamedTuple):
    """What the tags of a sequence say of its digits."""

    lead: str
    uv_per_count: float
    zero_count: float


def decode(text: bytes) -> Record:
    """The rhythm of an annotated ECG in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    document, all_series = _outline(xml.tags(text, _WANTED))
    series = _rhythm(text, all_series)
    channels: list[_Channel] = []
    places: list[tuple[int, int]] = []
    increment = b""
    for sequence in series.sets[0] if series.sets else []:
        code = _tag(text, sequence, "code")
        if channel := _channel(code, _tag(text, sequence, "origin"), _tag(text, sequence, "scale")):
            channels.append(channel)
            places.append(sequence["digits"][2:] if "digits" in sequence else (0, 0))
        increment = increment or _tag(text, sequence, "increment")
    leads = tuple([channel.lead for channel in channels])
    xml.require_leads(leads)
    return Record(
        format="hl7-aecg",
        fs_hz=_rate_hz(increment),
        leads=leads,
        counts=xml.integers(text, places, leads),
        uv_per_count=tuple([channel.uv_per_count for channel in channels]),
        zero_counts=tuple([channel.zero_count for channel in channels]),
        acquired_at=_acquired_at(text, {**document, **series.parts}),
        device_model=_model(text, series.parts),
    )


def _outline(tags: list[xml.Tag]) -> tuple[_Element, list[_Series]]:
    """The parts of the document itself, and its series."""
    document: _Element = {}
    parts, sequence = document, document
    all_series: list[_Series] = []
    for tag in tags:
        match _PARTS[tag[0]]:
            case "series":
                parts = {}
                all_series.append(_Series(parts, []))
            case "set":
                all_series[-1].sets.append([])
            case "sequence":
                sequence = {}
                all_series[-1].sets[-1].append(sequence)
            case "code" | "increment" | "origin" | "scale" | "digits" as part:
                sequence[part] = tag
            case "time" | "centre" | "low" as part:
                document[part] = tag
            case part:
                parts[part] = tag
    return document, all_series


def _rhythm(text: bytes, all_series: list[_Series]) -> _Series:
    """The series that is coded as rhythm, or the only one where none has a code."""
    kinds = [_kind(_tag(text, series.parts, "kind")) for series in all_series]
    wanted = "RHYTHM" if any(kinds) else ""
    if kinds.count(wanted) != 1:
        found = xml.kinds(kinds, ("RHYTHM", "REPRESENTATIVE_BEAT"))
        raise RecordError(Reason.NO_RHYTHM, f"{len(kinds)} series ({found}), expected one RHYTHM")
    return all_series[kinds.index(wanted)]


@lru_cache(maxsize=256)
def _kind(code: bytes) -> str:
    return xml.attributes(code).get("code", "").upper()


@lru_cache(maxsize=4096)
def _channel(code: bytes, origin: bytes, scale: bytes) -> _Channel | None:
    """From the start tags of a sequence's parts; None for one that is not a standard lead.

    An origin that is not stated is 0, as for every container that has no such field.
    """
    name = xml.attributes(code).get("code", "").upper()
    for stated in _LEAD_CODES:
        name = name.removeprefix(stated)
    lead = lead_name(name)
    if lead is None:
        return None
    uv_per_count = _microvolts(scale)
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: no scale in volts")
    zero_count = 0.0 - _microvolts(origin) / uv_per_count if origin else 0.0
    if not abs(zero_count) <= _MAX_COUNT:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: no origin in volts, or one beyond any sample")
    return _Channel(lead, uv_per_count, zero_count)


def _microvolts(tag: bytes) -> float:
    """The quantity that a tag states with `value` and `unit`; not a number where it does not."""
    stated = xml.attributes(tag)
    try:
        return float(stated["value"]) * _UV_PER_UNIT[stated["unit"].lower()]
    except (ValueError, KeyError):
        return float("nan")


@lru_cache(maxsize=256)
def _rate_hz(increment: bytes) -> float:
    """Samples a second, from the tag that states the time between two."""
    stated = xml.attributes(increment)
    try:
        rate_hz = _PER_SECOND[stated["unit"].lower()] / float(stated["value"])
    except (ValueError, KeyError, ZeroDivisionError):
        rate_hz = 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "no time increment that gives a sampling rate")
    return rate_hz


def _acquired_at(text: bytes, parts: _Element) -> datetime | None:
    """When the series began, or else when the ECG was effective."""
    for name in ("began", "centre", "low", "time"):
        if moment := xml.moment(xml.attributes(_tag(text, parts, name)).get("value", "")):
            return moment
    return None


def _model(text: bytes, parts: _Element) -> str | None:
    _, _, begin, end = parts.get("model", (0, 0, 0, 0))
    return model_name(xml.free_text(text[begin:end]))


def _tag(text: bytes, parts: _Element, name: str) -> bytes:
    """The start tag of a part; empty where it is absent."""
    _, tag, begin, _ = parts.get(name, (0, 0, 0, 0))
    return text[tag:begin]
