"""GE CardioSoft and CASE XML (`CardiologyXML`): decimal numbers with commas, as a strip or a full disclosure."""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import FIRST_YEAR, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

__all__ = ["decode"]

_STRIP = ("SampleRate", "ChannelSampleCountTotal", "Resolution", "WaveformData")
_DISCLOSURE = ("SampleRate", "NumberOfChannels", "Resolution", "LeadOrder", "FullDisclosureData")
_TIME = ("Year", "Month", "Day", "Hour", "Minute", "Second")
_PATHS = (  # nothing of RestingECGMeasurements: its samples, of the same names, are medians
    "CardiologyXML/StripData",
    *(f"CardiologyXML/StripData/{name}" for name in _STRIP),
    "CardiologyXML/FullDisclosure",
    *(f"CardiologyXML/FullDisclosure/{name}" for name in _DISCLOSURE),
    *(f"CardiologyXML/ObservationDateTime/{name}" for name in _TIME),
    "CardiologyXML/ClinicalInfo/DeviceInfo/Desc",
)
_WANTED = _kernels.XmlPaths(list(_PATHS))
_NAMES = tuple([path.rpartition("/")[2] for path in _PATHS])
_UV_PER_UNIT = {"uvperlsb": 1.0, "µvperlsb": 1.0, "\u03bcvperlsb": 1.0, "mvperlsb": 1e3, "nvperlsb": 1e-3}
_ROUGHER = 1.5  # well under what real ECGs are in the wrong order, well over what noise is in either
_MAX_CHANNELS, _MAX_NUMBER_BYTES = 64, 64


class _Section(NamedTuple):
    """A strip, a full disclosure, or what the document says besides."""

    parts: dict[str, xml.Tag]
    """By element name."""
    samples: list[xml.Tag]
    """Its elements of samples that are not empty."""


def decode(text: bytes) -> Record:
    """The strip of a CardioSoft document in an ASCII-compatible encoding, or else its full disclosure.

    Raises:
        RecordError: neither, or anything about it is missing, contradictory or damaged.
    """
    document, strips, disclosures = _outline(xml.tags(text, _WANTED))
    if len(strips or disclosures) != 1:
        found = f"{len(strips)} strips and {len(disclosures)} full disclosures with samples"
        raise RecordError(Reason.NO_RHYTHM, f"{found}, expected one")
    rhythm = (strips or disclosures)[0]
    fs_hz = _rate_hz(*_part(text, rhythm, "SampleRate"))
    leads, counts = _strip(text, rhythm) if strips else _disclosure(text, rhythm, fs_hz)
    return Record(
        format="cardiosoft-xml",
        fs_hz=fs_hz,
        leads=leads,
        counts=counts,
        uv_per_count=(_gain_uv(*_part(text, rhythm, "Resolution")),) * len(leads),
        zero_counts=(0.0,) * len(leads),
        acquired_at=_acquired_at([_part(text, document, name)[1] for name in _TIME]),
        device_model=model_name(xml.free_text(_part(text, document, "Desc")[1])),
    )


def _outline(tags: list[xml.Tag]) -> tuple[_Section, list[_Section], list[_Section]]:
    """What the document says of itself, and its strips and full disclosures that have samples."""
    document = _Section({}, [])
    section = document
    strips: list[_Section] = []
    disclosures: list[_Section] = []
    for tag in tags:
        match _NAMES[tag[0]]:
            case "StripData":
                section = _Section({}, [])
                strips.append(section)
            case "FullDisclosure":
                section = _Section({}, [])
                disclosures.append(section)
            case "WaveformData" | "FullDisclosureData":
                if tag[2] < tag[3]:
                    section.samples.append(tag)
            case name if name in _TIME or name == "Desc":
                document.parts[name] = tag
            case name:
                section.parts[name] = tag
    return document, [one for one in strips if one.samples], [one for one in disclosures if one.samples]


def _strip(text: bytes, strip: _Section) -> tuple[tuple[str, ...], np.ndarray]:
    """The leads that a strip stores, and int32 (lead, time)."""
    rows = _standard(tuple([text[tag:begin] for _, tag, begin, _ in strip.samples]))
    leads = tuple([lead for _, lead in rows])
    counts = xml.integers(text, [strip.samples[row][2:] for row, _ in rows], leads)
    _, stated = _part(text, strip, "ChannelSampleCountTotal")
    if stated and _whole(stated) != counts.shape[1]:
        raise RecordError(Reason.MALFORMED, f"{counts.shape[1]} samples a lead, not as many as stated")
    return leads, counts


@lru_cache(maxsize=256)
def _standard(tags: tuple[bytes, ...]) -> list[tuple[int, str]]:
    """The rows among the stored channels that are standard leads, from the start tags of all."""
    if len(tags) > _MAX_CHANNELS:
        raise RecordError(Reason.MALFORMED, f"{len(tags)} channels in a strip")
    return _named([xml.attributes(tag).get("lead", "") for tag in tags])


def _named(channels: list[str]) -> list[tuple[int, str]]:
    rows = [(row, lead) for row, name in enumerate(channels) if (lead := lead_name(name))]
    xml.require_leads([lead for _, lead in rows])
    return rows


def _disclosure(text: bytes, disclosure: _Section, fs_hz: float) -> tuple[tuple[str, ...], np.ndarray]:
    """The leads of a full disclosure, and int32 (lead, time).

    Its one list goes, in the files that are known, through a second of each lead in turn, then through the next second;
    readers of other files found a sample of each lead in turn. No file says which, but in the wrong order samples jump:
    real ECGs are 2.5 times as rough there, at least.
    """
    channels = _part(text, disclosure, "LeadOrder")[1].decode("latin-1").split(",")
    rows = _named(channels)
    leads, stored = tuple([lead for _, lead in rows]), [row for row, _ in rows]
    _, stated = _part(text, disclosure, "NumberOfChannels")
    if stated and _whole(stated) != len(channels):
        raise RecordError(Reason.MALFORMED, f"{len(channels)} leads in LeadOrder, not as many as NumberOfChannels")
    lists = [xml.integers(text, [place[2:]], ["FullDisclosureData"])[0] for place in disclosure.samples]
    samples, n, fs = np.concatenate(lists), len(channels), int(fs_hz)
    if fs != fs_hz or samples.size % (fs * n):
        raise RecordError(Reason.MALFORMED, f"{samples.size} samples, expected whole seconds of {n} leads")
    blocks = samples.reshape(-1, n, fs).transpose(1, 0, 2).reshape(n, -1)[stored]
    interleaved = samples.reshape(-1, n).T[stored]
    return leads, interleaved if _ROUGHER * _roughness(interleaved) < _roughness(blocks) else blocks


def _roughness(counts: np.ndarray) -> int:
    """Sum of all steps from one sample to the next in (lead, time); a lead at a time, for a disclosure may be long."""
    return sum([int(np.abs(np.diff(row.astype(np.int64))).sum()) for row in counts])


@lru_cache(maxsize=256)
def _rate_hz(tag: bytes, content: bytes) -> float:
    rate_hz = _number(content)
    is_hertz = xml.attributes(tag).get("units", "Hz").lower() == "hz"
    if not is_hertz or not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "SampleRate is no sampling rate in Hz")
    return rate_hz


@lru_cache(maxsize=256)
def _gain_uv(tag: bytes, content: bytes) -> float:
    uv_per_count = _number(content) * _UV_PER_UNIT.get(xml.attributes(tag).get("units", "").lower(), 0.0)
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, "Resolution is no number of volts a count")
    return uv_per_count


def _acquired_at(fields: list[bytes]) -> datetime | None:
    """From year, month and day, and from hour, minute and second where they are stated; None if not a moment."""
    try:
        year, month, day = map(int, fields[:3])
        hour, minute, second = [int(field or 0) for field in fields[3:]]
        moment = datetime(year, month, day, hour, minute, second)
    except (ValueError, OverflowError):
        return None
    return moment if year >= FIRST_YEAR else None


def _number(content: bytes) -> float:
    """Not a number where there is none, or one that goes on and on."""
    try:
        return float(content if len(content) <= _MAX_NUMBER_BYTES else "nan")
    except ValueError:
        return float("nan")


def _whole(content: bytes) -> int:
    """The count that an element states; -1 where it states none."""
    return int(content) if content.isdigit() and len(content) < 10 else -1


def _part(text: bytes, section: _Section, name: str) -> tuple[bytes, bytes]:
    """Start tag and stripped content of an element; empty where it is absent."""
    _, tag, begin, end = section.parts.get(name, (0, 0, 0, 0))
    return text[tag:begin], text[begin:end].strip()
