"""MFER (ISO 22077-1): definitions, each a tag, a length and a value, and the samples that they describe."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.record import FIRST_YEAR, RATES_HZ, UV_PER_COUNT, Reason, Record, model_name

__all__ = ["decode", "starts"]

_SUFFIXES = (".mwf", ".mfer", ".mfr")
_PADDING = re.compile(rb"\0*")
_BYTE_ORDER, _CHANNELS, _SEQUENCES, _KIND, _COMPRESSION = 0x01, 0x05, 0x06, 0x08, 0x0E
_BLOCK, _LEAD, _TYPE, _INTERVAL, _RESOLUTION, _OFFSET, _MISSING = 0x04, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x12
_DEVICE, _SAMPLES, _CHANNEL, _PREAMBLE, _GROUP, _END, _TIME = 0x17, 0x1E, 0x3F, 0x40, 0x67, 0x80, 0x85
_OF_CHANNELS = (_BLOCK, _LEAD, _TYPE, _INTERVAL, _RESOLUTION, _OFFSET, _MISSING)
"""What may be defined for one channel; the others are of the file."""
_KINDS = (1, 2, 4, 20, 21)  # standard 12-lead, long-term and stress ECG, monitoring: all with the lead codes below
_LEADS = {1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6"}
_LEADS |= {61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
_TYPES = {0: "i2", 1: "u2", 2: "i4", 3: "u1", 4: "u2", 5: "i1", 6: "u4", 7: "f4", 8: "f8"}
_LEAD_TYPES = ("i2", "u2", "i4", "u1", "i1")
_MAX_DEFINITIONS = 4096  # of a file; a 12-lead ECG takes some 60

_Fields = dict[int, bytes]


class _Item(NamedTuple):
    tag: int
    channel: int | None
    begin: int
    end: int
    """Of its value in the file."""


class _Channel(NamedTuple):
    """One channel of the frame: its samples in a sequence, and what they mean."""

    lead: str | None
    type: str
    n_samples: int
    fs_hz: float
    uv_per_count: float
    missing: int | None

    @property
    def n_bytes(self) -> int:
        return self.n_samples * np.dtype(self.type).itemsize


@dataclass(slots=True)
class _Frame:
    """The definitions in force, and the samples that they describe."""

    little: bool = False
    file: _Fields = field(default_factory=dict)
    channels: dict[int, _Fields] = field(default_factory=dict)
    samples: _Item | None = None

    def integer(self, value: bytes, *, signed: bool = False) -> int:
        if len(value) > 4:
            raise RecordError(Reason.MALFORMED, f"a number of {len(value)} bytes, expected at most 4")
        return int.from_bytes(value, "little" if self.little else "big", signed=signed)

    def count(self, tag: int, default: int) -> int:
        return self.integer(self.file[tag]) if self.file.get(tag) else default


def starts(raw: bytes, name: str) -> bool:
    """Whether a file begins with MFER's preamble, or is called as MFER is and begins with another definition of it."""
    has_preamble = raw[:1] == b"\x40" and raw[2:5] == b"MFR"
    return has_preamble or (name.lower().endswith(_SUFFIXES) and raw[0] < _PREAMBLE)


def decode(raw: bytes) -> Record:
    """The standard leads of the one ECG in an MFER file.

    Raises:
        RecordError: anything about the leads is missing, contradictory or damaged, or is stored in a way not read.
    """
    frame = _frame(raw)
    kind = frame.integer(frame.file.get(_KIND, b"")[:2])  # a free text may follow
    if kind not in _KINDS:
        raise RecordError(Reason.NO_RHYTHM, f"waveform of type {kind}, expected an ECG")
    if any(frame.file.get(_COMPRESSION, b"")):
        raise RecordError(Reason.UNKNOWN_FORMAT, "compressed MFER, which is not read")
    n_channels = frame.count(_CHANNELS, 1)
    if not 1 <= n_channels <= 256:
        raise RecordError(Reason.MALFORMED, f"{n_channels} channels")
    if frame.channels and max(frame.channels) >= n_channels:
        raise RecordError(Reason.MALFORMED, f"channel {max(frame.channels)} of {n_channels} is defined")
    channels = [_channel(frame, channel) for channel in range(n_channels)]
    leads = _leads(channels)
    first = leads[0]
    return Record(
        format="mfer",
        fs_hz=first.fs_hz,
        leads=tuple([str(channel.lead) for channel in leads]),
        counts=_counts(raw, frame, channels),
        uv_per_count=tuple([channel.uv_per_count for channel in leads]),
        zero_counts=(0.0,) * len(leads),
        invalid_count=first.missing,
        acquired_at=_acquired_at(frame),
        device_model=_device_model(frame.file.get(_DEVICE, b"")),
    )


def _items(raw: bytes, at: int, end: int) -> Iterator[_Item]:
    """The definitions in raw[at:end] up to its end or the end mark."""
    for _ in range(_MAX_DEFINITIONS):
        at = _PADDING.match(raw, at, end).end()  # type: ignore[union-attr]  # it matches nothing as well
        if at >= end:
            return
        tag, channel = raw[at], None
        at += 1
        if tag == _END:
            yield _Item(tag, None, at, at)
            return
        if tag == _CHANNEL:
            if at >= end or raw[at] > 0x7F:
                raise RecordError(Reason.MALFORMED if at < end else Reason.TRUNCATED, f"no channel at byte {at}")
            channel = raw[at]
            at += 1
        n_bytes, at = _length(raw, at, end)
        if n_bytes > end - at:
            raise RecordError(Reason.TRUNCATED, f"{n_bytes} bytes of tag {tag:#04x}, expected at byte {at} of {end}")
        yield _Item(tag, channel, at, at + n_bytes)
        at += n_bytes
    raise RecordError(Reason.MALFORMED, f"more than {_MAX_DEFINITIONS} definitions")


def _length(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A length of one byte, or of as many as its first one says, and where the value begins."""
    first = raw[at] if at < end else 0
    n_more = first & 0x7F if first > 0x7F else 0
    if at + 1 + n_more > end:
        raise RecordError(Reason.TRUNCATED, f"a length is cut off at byte {end}")
    if first <= 0x7F:
        return first, at + 1
    if not 1 <= n_more <= 4:
        raise RecordError(Reason.MALFORMED, f"no definite length at byte {at}")
    return int.from_bytes(raw[at + 1 : at + 1 + n_more], "big"), at + 1 + n_more


def _frame(raw: bytes) -> _Frame:
    """The only frame of the file, but for those behind it that are called no ECG, as the dominant beat is.

    Of what is about a patient, not even the bytes are taken out of it.
    """
    frame = _Frame()
    is_complete = False
    kind = _KINDS[0]
    for item in _items(raw, 0, len(raw)):
        if item.tag == _END:
            is_complete = True
        elif item.tag == _SAMPLES:
            if frame.samples and kind in _KINDS:
                raise RecordError(Reason.NO_RHYTHM, "several frames of samples, expected one")
            frame.samples = frame.samples or item
        elif item.tag == _GROUP:
            raise RecordError(Reason.UNKNOWN_FORMAT, "grouped MFER definitions, which are not read")
        elif frame.samples is None:
            _define(frame, raw, item)
        elif item.tag == _KIND:
            kind = frame.integer(raw[item.begin : item.end][:2])
    if frame.samples is None:
        raise RecordError(Reason.NO_RHYTHM if is_complete else Reason.TRUNCATED, "no samples")
    return frame


def _define(frame: _Frame, raw: bytes, item: _Item) -> None:
    """Put a definition in force, for the file or for one channel."""
    value = raw[item.begin : item.end] if item.tag < _PREAMBLE or item.tag == _TIME else b""
    if item.channel is not None:
        inner = list(_items(value, 0, len(value)))
        fields = {part.tag: value[part.begin : part.end] for part in inner if part.tag in _OF_CHANNELS}
        frame.channels.setdefault(item.channel, {}).update(fields)
    elif item.tag == _BYTE_ORDER:
        if frame.channels or frame.file.keys() - {_DEVICE}:
            raise RecordError(Reason.MALFORMED, "the byte order follows what it applies to")
        if value not in (b"\0", b"\1"):
            raise RecordError(Reason.MALFORMED, "a byte order that is none")
        frame.little = value == b"\1"
    elif item.tag in (*_OF_CHANNELS, _CHANNELS):
        if frame.channels:
            raise RecordError(Reason.MALFORMED, f"tag {item.tag:#04x} of the file follows those of channels")
        frame.file[item.tag] = value
    elif item.tag in (_SEQUENCES, _KIND, _COMPRESSION, _DEVICE, _TIME):
        frame.file[item.tag] = value


def _channel(frame: _Frame, channel: int) -> _Channel:
    """What is in force for a channel: its own definitions, or else the file's."""
    fields = frame.file | frame.channels.get(channel, {})
    code = frame.integer(fields.get(_LEAD, b"")[:2])  # a free text may follow
    kind = _TYPES.get(frame.integer(fields.get(_TYPE) or b"\0"))
    if kind is None:
        raise RecordError(Reason.UNKNOWN_FORMAT, f"channel {channel}: a data type that is not read")
    n_samples = frame.integer(fields.get(_BLOCK) or b"\1")
    lead = _LEADS.get(code)
    if lead is None:
        return _Channel(None, kind, n_samples, 0.0, 0.0, None)
    if kind not in _LEAD_TYPES:
        raise RecordError(Reason.UNKNOWN_FORMAT, f"lead {lead}: samples of type {kind}, which are not read")
    if any(fields.get(_OFFSET, b"")):
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: an offset, which is not read")
    missing = fields.get(_MISSING)
    return _Channel(
        lead,
        kind,
        n_samples,
        _rate_hz(frame, fields.get(_INTERVAL, b"")),
        _gain_uv(frame, fields.get(_RESOLUTION, b""), lead),
        frame.integer(missing, signed=kind[0] == "i") if missing else None,
    )


def _rate_hz(frame: _Frame, value: bytes) -> float:
    """From a unit (Hz or s), a power of ten and a number. MFER's default of 1 ms is no statement of the file."""
    number = _scaled(frame, value)
    rate_hz = number if value[:1] == b"\0" else 1 / number if value[:1] == b"\1" and number > 0 else 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "the sampling interval does not give a sampling rate")
    return rate_hz


def _gain_uv(frame: _Frame, value: bytes, lead: str) -> float:
    uv_per_count = _scaled(frame, value) * 1e6 if value[:1] == b"\0" else 0.0  # volts
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: the sampling resolution does not give a gain")
    return uv_per_count


def _scaled(frame: _Frame, value: bytes) -> float:
    """The number in a value of unit, power of ten and number; 0 where it is none."""
    if not 3 <= len(value) <= 6:
        return 0.0
    exponent = int.from_bytes(value[1:2], "big", signed=True)
    return float(f"{frame.integer(value[2:], signed=True)}e{exponent}")  # as exact as a float can be


def _leads(channels: list[_Channel]) -> list[_Channel]:
    """The standard leads, which are of one rate and type."""
    leads = [channel for channel in channels if channel.lead]
    names = [channel.lead for channel in leads]
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no channel has the code of a standard lead")
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    if len({(channel.type, channel.n_samples, channel.fs_hz, channel.missing) for channel in leads}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different rates or types, expected one")
    return leads


def _counts(raw: bytes, frame: _Frame, channels: list[_Channel]) -> np.ndarray:
    """int16 or int32 (lead, time): sequence after sequence, in each of them channel after channel, a block of each."""
    assert frame.samples
    n_bytes = sum([channel.n_bytes for channel in channels])
    found = frame.samples.end - frame.samples.begin
    n_sequences = frame.count(_SEQUENCES, found // n_bytes if n_bytes else 0)
    if found < n_sequences * n_bytes:
        raise RecordError(Reason.TRUNCATED, f"{found} bytes of samples, expected {n_sequences * n_bytes}")
    if found != n_sequences * n_bytes or not found:
        raise RecordError(Reason.MALFORMED, f"{found} bytes of samples, expected {n_sequences} times {n_bytes}")
    sequences = np.frombuffer(raw, np.uint8, found, frame.samples.begin).reshape(n_sequences, n_bytes)
    rows: list[np.ndarray] = []
    begin = 0
    for channel in channels:
        if channel.lead:
            stored = np.dtype(channel.type).newbyteorder("<" if frame.little else ">")
            block = np.ascontiguousarray(sequences[:, begin : begin + channel.n_bytes]).view(stored)
            rows.append(block.reshape(-1).astype(np.int16 if channel.type == "i2" else np.int32))
        begin += channel.n_bytes
    if not rows[0].size:
        raise RecordError(Reason.MALFORMED, "leads without samples")
    return np.stack(rows)


def _acquired_at(frame: _Frame) -> datetime | None:
    """Year, month, day, hour, minute and second of when it was measured."""
    value = frame.file.get(_TIME, b"")
    try:
        moment = datetime(frame.integer(value[:2]), *value[2:7])
    except (ValueError, TypeError):
        return None
    return moment if moment.year >= FIRST_YEAR and len(value) >= 7 else None


def _device_model(value: bytes) -> str | None:
    """The second part of manufacturer^model^version^serial number."""
    parts = value.split(b"\0")[0].split(b"^")
    return model_name(parts[1].decode("ascii", "replace")) if len(parts) > 1 else None
