"""Schiller SEMA XML (root `…SchillerEDI`): decimal numbers with commas, rhythm and averages side by side."""

from functools import lru_cache
from typing import NamedTuple

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

__all__ = ["decode"]

_WAVEDATA = "eventdata/event/wavedata"
_PATHS = {
    "date": "examdescript/startdatetime/date",
    "time": "examdescript/startdatetime/time",
    "model": "examdescript/aquiringdevice/hardware/model",
    "wavedata": _WAVEDATA,
    "type": f"{_WAVEDATA}/type",
    "rate": f"{_WAVEDATA}/resolution/samplerate/value",
    "exponent": f"{_WAVEDATA}/resolution/samplerate/exponent",
    "gain": f"{_WAVEDATA}/resolution/yres/unitperbit",
    "unit": f"{_WAVEDATA}/resolution/yres/units",
    "channel": f"{_WAVEDATA}/channel",
    "name": f"{_WAVEDATA}/channel/name",
    "encoding": f"{_WAVEDATA}/channel/datastype",
    "data": f"{_WAVEDATA}/channel/data",
}
_PARTS = tuple(_PATHS)
_RHYTHMS = ("ECG_RHYTHMS", "ECG_RHYTHM")
_MAX_WORD_BYTES = 256
_UV_PER_UNIT = {"UV": 1.0, "MV": 1e3, "NV": 1e-3, "V": 1e6}

_Places = dict[str, tuple[int, int]]
"""Where the content of each part of the document, a waveform or a channel lies, by its name in `_PATHS`."""


class _Waveform(NamedTuple):
    parts: _Places
    channels: list[_Places]


def decode(text: bytes, root: str) -> Record:
    """The rhythm of a SEMA document in an ASCII-compatible encoding, whose root element is called `root`.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    document, waveforms = _outline(xml.tags(text, _wanted(root)))
    types = [_word(text, waveform.parts, "type") for waveform in waveforms]
    rhythms = [waveform for waveform, kind in zip(waveforms, types, strict=True) if kind in _RHYTHMS]
    if len(rhythms) != 1:
        found = xml.kinds(types, (*_RHYTHMS, "ECG_AVERAGES"))
        raise RecordError(Reason.NO_RHYTHM, f"{len(types)} waveforms ({found}), expected one ECG_RHYTHMS")
    rhythm = rhythms[0]
    named = [(lead_name(_word(text, channel, "name")), channel) for channel in rhythm.channels]
    stored = [(lead, channel) for lead, channel in named if lead]
    leads = tuple([lead for lead, _ in stored])
    xml.require_leads(leads)
    if not {_word(text, channel, "encoding") for _, channel in stored} <= {"COMMASEPARATE", ""}:
        raise RecordError(Reason.MALFORMED, "samples of an unknown datastype, expected COMMASEPARATE")
    return Record(
        format="schiller-xml",
        fs_hz=_rate_hz(_word(text, rhythm.parts, "rate"), _word(text, rhythm.parts, "exponent")),
        leads=leads,
        counts=xml.integers(text, [channel.get("data", (0, 0)) for _, channel in stored], leads),
        uv_per_count=(_gain_uv(_word(text, rhythm.parts, "gain"), _word(text, rhythm.parts, "unit")),) * len(leads),
        zero_counts=(0.0,) * len(leads),
        acquired_at=xml.moment(_word(text, document, "date") + _word(text, document, "time")),
        device_model=model_name(_free_text(text, document, "model")),
    )


@lru_cache(maxsize=16)
def _wanted(root: str) -> _kernels.XmlPaths:
    return _kernels.XmlPaths([f"{root}/{path}" for path in _PATHS.values()])


def _outline(tags: list[xml.Tag]) -> tuple[_Places, list[_Waveform]]:
    """The parts of the document itself, and its waveforms."""
    document: _Places = {}
    waveforms: list[_Waveform] = []
    for path, _, begin, end in tags:
        match _PARTS[path]:
            case "wavedata":
                waveforms.append(_Waveform({}, []))
            case "channel":
                waveforms[-1].channels.append({})
            case "name" | "encoding" | "data" as part:
                waveforms[-1].channels[-1][part] = (begin, end)
            case "date" | "time" | "model" as part:
                document[part] = (begin, end)
            case part:
                waveforms[-1].parts[part] = (begin, end)
    return document, waveforms


@lru_cache(maxsize=256)
def _rate_hz(value: str, exponent: str) -> float:
    """The value itself; what an exponent other than 1 does to it is not known."""
    rate_hz = _number(value) if _number(exponent or "1") == 1 else float("nan")
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "samplerate gives no sampling rate, or has an exponent other than 1")
    return rate_hz


@lru_cache(maxsize=256)
def _gain_uv(number: str, unit: str) -> float:
    uv_per_count = _number(number) * _UV_PER_UNIT.get(unit, 0.0)
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, "unitperbit and units give no gain")
    return uv_per_count


def _number(text: str) -> float:
    """Not a number where there is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _word(text: bytes, parts: _Places, name: str) -> str:
    """Stripped content in capitals; empty where there is none."""
    begin, end = parts.get(name, (0, 0))
    if end - begin > _MAX_WORD_BYTES:
        raise RecordError(Reason.MALFORMED, f"{name} of {end - begin} bytes")
    return xml.free_text(text[begin:end]).upper()


def _free_text(text: bytes, parts: _Places, name: str) -> str:
    begin, end = parts.get(name, (0, 0))
    return xml.free_text(text[begin:end])
