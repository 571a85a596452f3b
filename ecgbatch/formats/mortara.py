"""Mortara ELI Link XML (root `ECG`): an element a lead, all of it in attributes, base64 int16 among them."""

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

__all__ = ["decode"]

_WANTED = _kernels.XmlPaths(["ECG", "ECG/SOURCE", "ECG/CHANNEL"])  # a TYPICAL_CYCLE_CHANNEL is the median beat
_ROOT, _SOURCE, _CHANNEL = range(3)
_STATED = (b"NAME", b"SAMPLE_FREQ", b"UNITS_PER_MV", b"OFFSET", b"DURATION", b"BITS", b"FORMAT", b"ENCODING")
_MAX_WORD_BYTES = 64
_MAX_REFERENCES = 2**16  # a line break for every 76 characters takes some 5 000 in all leads
_MAX_COUNT = 2**31  # of any sample

_Place = tuple[int, int]
_Places = dict[bytes, _Place]
"""Where the value of each attribute lies."""


class _Channel(NamedTuple):
    """What a channel's attributes say of its samples."""

    lead: str
    fs_hz: float
    uv_per_count: float
    zero_count: float
    n_samples: int
    """-1 where it is not stated."""


def decode(text: bytes) -> Record:
    """The rhythm of an ELI document in an ASCII-compatible encoding.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    elements = [(path, xml.attribute_places(text, tag, begin)) for path, tag, begin, _ in xml.tags(text, _WANTED)]
    found = [places for path, places in elements if path == _CHANNEL]
    if not found:
        raise RecordError(Reason.UNKNOWN_FORMAT, "XML with root element 'ECG', of no known ECG: no CHANNEL in it")
    named = [(_channel(tuple([_word(text, places, name) for name in _STATED])), places) for places in found]
    stored = [(channel, places.get(b"DATA", (0, 0))) for channel, places in named if channel]
    channels = [channel for channel, _ in stored]
    leads = tuple([channel.lead for channel in channels])
    xml.require_leads(leads)
    if len({channel.fs_hz for channel in channels}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different rates, expected one rate")
    return Record(
        format="mortara-xml",
        fs_hz=channels[0].fs_hz,
        leads=leads,
        counts=_counts(text, channels, [place for _, place in stored]),
        uv_per_count=tuple([channel.uv_per_count for channel in channels]),
        zero_counts=tuple([channel.zero_count for channel in channels]),
        acquired_at=xml.moment(_first(text, elements, _ROOT, b"ACQUISITION_TIME")),
        device_model=model_name(_first(text, elements, _SOURCE, b"MODEL")),
    )


@lru_cache(maxsize=1024)
def _channel(stated: tuple[str, ...]) -> _Channel | None:
    """From the attributes in `_STATED`; None for a channel that is not a standard lead.

    A channel that does not say so holds signed 16-bit integers in base64, as all do that are known.
    """
    name, rate, per_mv, offset, duration, bits, form, encoding = stated
    lead = lead_name(name)
    if lead is None:
        return None
    if (bits or "16", form.upper() or "SIGNED", encoding.upper() or "BASE64") != ("16", "SIGNED", "BASE64"):
        raise RecordError(Reason.MALFORMED, f"lead {lead}: expected BITS 16, FORMAT SIGNED and ENCODING BASE64")
    fs_hz, units_per_mv, zero_count = _number(rate), _number(per_mv), 0.0 - _number(offset or "0")
    if not RATES_HZ[0] <= fs_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, f"lead {lead}: SAMPLE_FREQ is no sampling rate")
    if not 1000 / UV_PER_COUNT[1] <= units_per_mv <= 1000 / UV_PER_COUNT[0]:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: UNITS_PER_MV gives no gain")
    if not abs(zero_count) <= _MAX_COUNT:
        raise RecordError(Reason.MALFORMED, f"lead {lead}: OFFSET is no count")
    if duration and not (duration.isascii() and duration.isdigit()):
        raise RecordError(Reason.MALFORMED, f"lead {lead}: DURATION is no number of samples")
    return _Channel(lead, fs_hz, 1000 / units_per_mv, zero_count, int(duration or -1))


def _counts(text: bytes, channels: list[_Channel], places: list[_Place]) -> np.ndarray:
    """int16 (lead, time) of the base64 at each place."""
    text, places = _resolved(text, places)
    room = min([end - begin for begin, end in places]) * 3 // 4  # leads of one length have no more bytes
    samples = np.empty((len(places), room - room % 2), np.uint8)
    found = _kernels.base64_blocks(text, places, samples)
    n = found[0][0]
    for channel, (n_bytes, _) in zip(channels, found, strict=True):
        if n_bytes < 0:
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"lead {channel.lead}: not base64")
        if n_bytes != n or n % 2 or n == 0 or channel.n_samples not in (n // 2, -1):
            stated = "" if channel.n_samples < 0 else f", {channel.n_samples} samples stated"
            detail = f"lead {channel.lead}: {n_bytes} bytes of samples, lead {channels[0].lead}: {n}{stated}"
            raise RecordError(Reason.MALFORMED, detail)
    return samples[:, :n].view("<i2")


def _resolved(text: bytes, places: list[_Place]) -> tuple[bytes, list[_Place]]:
    """The same contents without references to characters, as line breaks in an attribute may be written."""
    n_references = sum([text.count(b"&", begin, end) for begin, end in places])
    if not n_references:
        return text, places
    if n_references > _MAX_REFERENCES:
        raise RecordError(Reason.MALFORMED, f"{n_references} references to characters in the samples")
    contents = [xml.free_text(text[begin:end]).encode() for begin, end in places]
    return b"".join(contents), list(pairwise([0, *accumulate(map(len, contents))]))


def _number(text: str) -> float:
    """Not a number where there is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _first(text: bytes, elements: list[tuple[int, _Places]], wanted: int, name: bytes) -> str:
    """An attribute of the first element of a kind; empty where it is absent."""
    begin, end = next((places.get(name, (0, 0)) for path, places in elements if path == wanted), (0, 0))
    return xml.free_text(text[begin:end])


def _word(text: bytes, places: _Places, name: bytes) -> str:
    """A short attribute; empty where it is absent."""
    begin, end = places.get(name, (0, 0))
    if end - begin > _MAX_WORD_BYTES:
        raise RecordError(Reason.MALFORMED, f"{name.decode()} of {end - begin} bytes")
    return xml.free_text(text[begin:end])
