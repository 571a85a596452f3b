"""WFDB records: a text header (`.hea`) and the signal files it names (header(5), signal(5) of the WFDB manual)."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.record import FIRST_YEAR, INVALID, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name

__all__ = ["decode", "is_header", "signal_files"]

_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?P<segments>/\d+)?[ \t]+(?P<n_signals>\d{1,9})"
    r"(?:[ \t]+(?P<fs>[-+.\deE]+)(?:/\S+)?(?:[ \t]+(?P<n_samples>\d{1,15})(?:[ \t]+(?P<start>\S.*))?)?)?\s*"
)
_FORMAT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,9}))?")
_GAIN = re.compile(r"([-+.\deE]+)(?:\(([-+\d]+)\))?(?:/(.*))?")
_UV_PER_UNIT = {"mv": 1000.0, "uv": 1.0, "µv": 1.0, "\u03bcv": 1.0, "v": 1e6, "nv": 1e-3}
_FLAC_BITS = {508: 8, 516: 16, 524: 24}
_INVALID_BITS = {16: 16, 61: 16, 160: 16, 212: 12, 80: 8, 310: 10, 311: 10, 24: 24, 32: 32, **_FLAC_BITS}
"""Bits of the most negative sample, which marks a missing one; format 8 has no such mark."""
_MAX_HEADER_BYTES = 2**20  # real ones have one or two kB
_MAX_COUNT = 2**31  # of any sample
_MAX_SAMPLES = 2**40  # more than any file holds
_MAX_FLAC_SAMPLES = 2**24  # FLAC may pack silence without bound: 64 MiB once decoded


_NO_FIELDS = [""] * 9


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How one signal lies in its file."""

    format: int
    per_frame: int
    skew: int
    offset: int


class _Signal(NamedTuple):
    """What a signal line says that is the same in every record of an archive."""

    encoding: _Encoding
    uv_per_count: float
    """0 where no gain in volts is stated that makes sense."""
    zero_count: float
    lead: str | None
    """None for a channel that is not a standard lead."""


class _Layout(NamedTuple):
    """All signals of a record, and what follows for its leads, in the header's order."""

    signals: tuple[_Signal, ...]
    leads: tuple[str, ...]
    uv_per_count: tuple[float, ...]
    zero_counts: tuple[float, ...]
    per_frame: int


class _Header(NamedTuple):
    """The lines of a header that are not comments."""

    record: re.Match[str]
    signals: list[list[str]]
    """Of each signal line nine fields, empty where absent: file, format, gain, resolution, zero, initial value,
    checksum, block size, description."""


def is_header(raw: bytes) -> bool:
    """Whether the first line that is not a comment is a record line."""
    return _header(raw) is not None


def signal_files(raw: bytes) -> list[str]:
    """Names of the files in the same folder that the header `raw` names."""
    header = _header(raw)
    lines = header.signals if header else ()
    names = dict.fromkeys([fields[0] for fields in lines if _FORMAT.fullmatch(fields[1])])
    return [name for name in names if name != "~" and "/" not in name and "\\" not in name and _may_be_signal(name)]


def decode(raw: bytes, sibling: Callable[[str], bytes]) -> Record:
    """The standard leads of the record that the header `raw` describes.

    Raises:
        RecordError: anything about the leads is missing, contradictory or damaged.
    """
    header = _header(raw)
    if header is None:
        raise RecordError(Reason.MALFORMED, "no record line")
    line = header.record
    if line["segments"]:
        raise RecordError(Reason.NO_RHYTHM, "a multi-segment header; its segments are entries of their own")
    found, stated = len(header.signals), int(line["n_signals"])
    if not found or found != stated:
        reason = Reason.TRUNCATED if found < stated else Reason.MISSING_LEADS
        raise RecordError(reason, f"{found} signal lines, expected {stated}")
    layout = _layout(tuple([(fields[1], fields[2], fields[4], fields[8]) for fields in header.signals]))
    counts, invalid = _counts(header, layout, sibling)
    return Record(
        format="wfdb",
        fs_hz=_rate_hz(line["fs"], layout.per_frame),
        leads=layout.leads,
        counts=counts,
        uv_per_count=layout.uv_per_count,
        zero_counts=layout.zero_counts,
        invalid_count=invalid,
        acquired_at=_acquired_at(line["start"]),
    )


def _may_be_signal(name: str) -> bool:
    """Whether a header may own that file: never another record."""
    return not name.lower().endswith((".hea", ".xml"))


def _header(raw: bytes) -> _Header | None:
    """None where the first line is no record line, or the file is far larger than any header."""
    return _parsed(raw) if len(raw) <= _MAX_HEADER_BYTES else None


@lru_cache(maxsize=64)
def _parsed(raw: bytes) -> _Header | None:
    """Kept a while, for a header is asked for its files first."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = text.replace("\r", "\n")  # splitlines() would end a line at a form feed too
    lines = [line for line in text.split("\n") if line and line[0] != "#" and line.strip()]
    record = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if record is None:
        return None
    signals = [] if record["segments"] else lines[1 : 1 + int(record["n_signals"])]
    return _Header(record, [_nine(line.split(None, 8)) for line in signals])


def _nine(fields: list[str]) -> list[str]:
    return fields if len(fields) == 9 else (fields + _NO_FIELDS)[:9]


def _rate_hz(field: str | None, per_frame: int) -> float:
    try:
        rate_hz = float(field or "") * per_frame
    except ValueError:
        rate_hz = 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "the record line does not give a sampling rate")
    return rate_hz


@lru_cache(maxsize=1024)
def _layout(lines: tuple[tuple[str, str, str, str], ...]) -> _Layout:
    """From format, gain, zero and description of every signal; kept, for an archive holds few different ones."""
    try:
        signals = tuple(
            [
                _Signal(_encoding(layout), *_calibration(gain, int(zero or 0)), lead_name(description))
                for layout, gain, zero, description in lines
            ]
        )
    except (ValueError, OverflowError) as err:
        raise RecordError(Reason.MALFORMED, "a signal line that is not one") from err
    leads = [signal for signal in signals if signal.lead]
    names = tuple([str(signal.lead) for signal in leads])
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no signal is named as a standard lead")
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    if not all(signal.uv_per_count for signal in leads):
        raise RecordError(Reason.UNKNOWN_GAIN, "a lead without a gain in volts: uncalibrated")
    if len({signal.encoding.per_frame for signal in leads}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different rates, expected one rate")
    return _Layout(
        signals,
        names,
        tuple([signal.uv_per_count for signal in leads]),
        tuple([signal.zero_count for signal in leads]),
        leads[0].encoding.per_frame,
    )


def _encoding(field: str) -> _Encoding:
    found = _FORMAT.fullmatch(field)
    if not found:
        raise ValueError(field)
    return _Encoding(int(found[1]), int(found[2] or 1), int(found[3] or 0), int(found[4] or 0))


def _calibration(field: str, adc_zero: int) -> tuple[float, float]:
    """µV a count, 0 where none is stated that makes sense, and the count of 0 µV.

    The baseline is the ADC's zero unless stated.
    """
    found = _GAIN.fullmatch(field or "0")
    if not found:
        raise ValueError(field)
    gain = float(found[1])
    uv_per_unit = _UV_PER_UNIT.get((found[3] or "mV").strip().lower(), 0.0)
    uv_per_count = uv_per_unit / gain if gain > 0 else 0.0
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        uv_per_count = 0.0
    zero_count = float(found[2] if found[2] is not None else adc_zero)
    if abs(zero_count) > _MAX_COUNT:
        raise ValueError(field)
    return uv_per_count, zero_count


def _counts(header: _Header, layout: _Layout, sibling: Callable[[str], bytes]) -> tuple[np.ndarray, int | None]:
    """int16 or int32 (lead, time) in the header's order, and the count that marks a missing sample."""
    groups = [(file, len(list(lines))) for file, lines in groupby(header.signals, key=itemgetter(0))]
    if len(dict(groups)) != len(groups):
        raise RecordError(Reason.MALFORMED, "signals of one file stand apart, expected them together")
    n_frames = int(header.record["n_samples"] or 0)
    parts: list[np.ndarray] = []
    marks: list[int | None] = []
    first = 0
    for file, n_signals in groups:
        here = slice(first, first + n_signals)
        first += n_signals
        signals, lines = layout.signals[here], header.signals[here]
        if any(signal.lead for signal in signals):
            frames = _frames(file, signals, lines, n_frames, sibling)
            channels = _channels(frames, signals, lines)
            parts.extend(channels)
            marks.extend([_mark(signals[0].encoding.format)] * len(channels))
    n_samples = min(part.shape[1] for part in parts)
    if n_samples < 1:
        raise RecordError(Reason.TRUNCATED, "a lead without samples")
    if len(parts) == 1:
        return parts[0], marks[0]
    if len(set(marks)) == 1 and len({part.dtype for part in parts}) == 1:
        return np.concatenate([part[:, :n_samples] for part in parts]), marks[0]
    unified = [part[:, :n_samples].astype(np.int32) for part in parts]
    for part, mark in zip(unified, marks, strict=True):
        if mark is not None:
            part[part == mark] = INVALID
    return np.concatenate(unified), INVALID


def _frames(
    file: str,
    signals: Sequence[_Signal],
    lines: Sequence[list[str]],
    n_frames: int,
    sibling: Callable[[str], bytes],
) -> np.ndarray:
    """int16 or int32 (frame, sample of a frame) of one signal file."""
    first = signals[0].encoding
    if len({signal.encoding.format for signal in signals}) > 1:
        raise RecordError(Reason.MALFORMED, "signals of different formats in one file")
    if "/" in file or "\\" in file or file in ("~", ".."):
        raise RecordError(Reason.MALFORMED, "a signal file outside of its header's folder")
    data = sibling(file)
    per_frame = [signal.encoding.per_frame for signal in signals]
    width = sum(per_frame)
    if min(per_frame) < 1:
        raise RecordError(Reason.MALFORMED, "a signal without samples in a frame")
    if first.format in _FLAC_BITS:
        if len(set(per_frame)) > 1:
            raise RecordError(Reason.MALFORMED, "FLAC signals of different rates in one file")
        return _flac(data, first, n_frames, len(signals))
    n = n_frames * width or _whole_samples(first.format, len(data) - first.offset, width)
    needed = _kernels.wfdb_bytes(first.format, min(n, _MAX_SAMPLES))
    if not n:
        raise RecordError(Reason.TRUNCATED, "a signal file without samples")
    if not needed:
        raise RecordError(Reason.MALFORMED, f"signal format {first.format} is not one of WFDB's")
    if first.offset + needed > len(data):
        raise RecordError(Reason.TRUNCATED, f"a signal file of {len(data)} bytes, expected {first.offset + needed}")
    if first.format == 16:
        return np.frombuffer(data, "<i2", n, first.offset).reshape(-1, width)
    counts = np.empty(n, np.int32)
    _kernels.wfdb_unpack(first.format, data, first.offset, counts)
    frames = counts.reshape(-1, width)
    return _integrate(frames, lines) if first.format == 8 else frames


def _whole_samples(format_: int, n_bytes: int, width: int) -> int:
    """Samples of whole frames in so many bytes, for a header that does not say how many there are."""
    per_1000 = _kernels.wfdb_bytes(format_, 12_000)
    return n_bytes * 12_000 // per_1000 // width * width if per_1000 and n_bytes > 0 else 0


def _integrate(differences: np.ndarray, lines: Sequence[list[str]]) -> np.ndarray:
    """Format 8 stores first differences; the header's initial value, the ADC's zero unless stated, precedes them."""
    if differences.shape[1] != len(lines):
        raise RecordError(Reason.MALFORMED, "format 8 with several samples a frame")
    try:
        initial = np.array([int(fields[5] or fields[4] or 0) for fields in lines], np.int64)
    except (ValueError, OverflowError) as err:
        raise RecordError(Reason.MALFORMED, "an initial value that is not a number") from err
    if np.abs(initial).max() > _MAX_COUNT:
        raise RecordError(Reason.MALFORMED, "an initial value beyond any sample")
    return (initial + np.cumsum(differences, axis=0, dtype=np.int64)).astype(np.int32)


def _flac(data: bytes, encoding: _Encoding, n_frames: int, n_signals: int) -> np.ndarray:
    """(frame, sample of a frame): FLAC holds one channel a signal, at the signal's own rate."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data[encoding.offset :])) as flac:
            n = n_frames * encoding.per_frame or flac.frames
            if flac.channels != n_signals or n > flac.frames or n * n_signals > _MAX_FLAC_SAMPLES:
                raise RecordError(
                    Reason.TRUNCATED,
                    f"FLAC of {flac.frames} samples, {flac.channels} channels, expected {n}, {n_signals}",
                )
            n -= n % encoding.per_frame
            samples = flac.read(n, dtype="int32", always_2d=True)
    except (soundfile.SoundFileError, ValueError) as err:
        raise RecordError(Reason.CORRUPT_PAYLOAD, "not a readable FLAC stream") from err
    if len(samples) != n:
        raise RecordError(Reason.TRUNCATED, f"FLAC ends after {len(samples)} samples, expected {n}")
    frames = samples.reshape(-1, encoding.per_frame, n_signals).transpose(0, 2, 1)
    return np.ascontiguousarray(frames).reshape(len(frames), -1) >> (32 - _FLAC_BITS[encoding.format])


def _channels(frames: np.ndarray, signals: Sequence[_Signal], lines: Sequence[list[str]]) -> list[np.ndarray]:
    """The leads' counts, each (1, time); all of them (lead, time) where every signal is a plain lead, as mostly."""
    sums = _kernels.frame_sums(frames) if frames.dtype == np.int16 else frames.sum(axis=0, dtype=np.int64).tolist()
    if len(sums) == len(signals) and all(map(_is_plain, signals)) and not any(map(_is_other, lines, sums)):
        return [frames.T]
    found: list[np.ndarray] = []
    column = 0
    for (encoding, _, _, lead), fields in zip(signals, lines, strict=True):
        n = encoding.per_frame
        if lead and _is_other(fields, sum(sums[column : column + n])):
            raise RecordError(Reason.CHECKSUM, f"lead {lead}: the samples' sum differs from the header's")
        if lead:
            found.append(frames[encoding.skew :, column : column + n].reshape(1, -1))
        column += n
    return found


def _is_plain(signal: _Signal) -> bool:
    return signal.lead is not None and not signal.encoding.skew


def _is_other(fields: list[str], total: int) -> bool:
    """Whether a line states a checksum, modulo 65536 and often as a signed number, that is not that of the total."""
    try:
        return bool(fields[6]) and (int(fields[6]) - total) % 65536 != 0
    except ValueError as err:
        raise RecordError(Reason.MALFORMED, "a checksum that is not a number") from err


def _mark(format_: int) -> int | None:
    bits = _INVALID_BITS.get(format_)
    return None if bits is None else -(2 ** (bits - 1))


def _acquired_at(field: str | None) -> datetime | None:
    """Base time and date, `HH:MM:SS[.fff] DD/MM/YYYY`; a time alone is no moment."""
    try:
        time, date = (field or "").split()[:2]
        hour, minute, second = time.split(":")
        day, month, year = map(int, date.split("/"))
        whole, _, fraction = second.partition(".")
        microsecond = int(f"{fraction:0<6.6}")
        moment = datetime(year, month, day, int(hour), int(minute), int(whole), microsecond)
    except (ValueError, OverflowError):
        return None
    return moment if year >= FIRST_YEAR else None
