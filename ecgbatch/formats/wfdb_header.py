"""WFDB headers (`.hea`, header(5) of the WFDB manual): what a record is, and where and how its signals are stored."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, UV_PER_COUNT, Reason, lead_name

__all__ = [
    "ABSENT",
    "FLAC_BITS",
    "NO_NUMBER",
    "Block",
    "Header",
    "Layout",
    "Signal",
    "layout_of",
    "parse",
    "signal_files",
]

ABSENT, NO_NUMBER = 2**63 - 1, -(2**63)
"""Of `Header.initial` and `Header.checksums`."""
FLAC_BITS = {508: 8, 516: 16, 524: 24}
"""Bits of a sample of each format that is a FLAC stream."""

_RECORD_LINE = re.compile(
    r"(?P<name>[^\s/]+)(?P<segments>/\d+)?[ \t]+(?P<n_signals>\d{1,9})"
    r"(?:[ \t]+(?P<fs>[-+.\deE]+)(?:/\S+)?(?:[ \t]+(?P<n_samples>\d{1,15})(?:[ \t]+(?P<start>\S.*))?)?)?\s*",
    re.ASCII,
)
_FORMAT = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?(?::(\d{1,9}))?(?:\+(\d{1,9}))?", re.ASCII)
_GAIN = re.compile(r"([-+.\deE]+)(?:\(([-+\d]+)\))?(?:/(.*))?")
_UV_PER_UNIT = {"mv": 1000.0, "uv": 1.0, "µv": 1.0, "\u03bcv": 1.0, "v": 1e6, "nv": 1e-3}
_INVALID_BITS = {16: 16, 61: 16, 160: 16, 212: 12, 80: 8, 310: 10, 311: 10, 24: 24, 32: 32, **FLAC_BITS}
"""Bits of the most negative sample, which marks a missing one; format 8 has no such mark."""
_MAX_HEADER_BYTES = 2**16  # real ones have one or two kB
_MAX_COUNT = 2**31  # of any sample


class Header(NamedTuple):
    """The lines of a header that are not comments."""

    record: re.Match[str]
    """Groups `segments`, `n_signals`, `fs`, `n_samples` and `start`."""
    files: tuple[str, ...]
    """The file that each run of signal lines names."""
    n_signals: tuple[int, ...]
    """Signal lines in each run."""
    layout: str
    """What the signal lines say besides: a line of format, gain, zero and description each, tabs between."""
    initial: list[int]
    """Initial value of each signal, or `NO_NUMBER`."""
    checksums: list[int]
    """Checksum of each signal modulo 65536, `ABSENT` or `NO_NUMBER`."""


class Signal(NamedTuple):
    """One signal line."""

    format: int
    per_frame: int
    skew: int
    offset: int
    uv_per_count: float
    """0 where no gain in volts is stated that makes sense."""
    zero_count: float
    lead: str | None
    """None for a channel that is not a standard lead."""


class Block(NamedTuple):
    """The signals of one file, which lie in it frame after frame."""

    signals: tuple[Signal, ...]
    first: int
    """Index of its first signal in the record."""
    width: int
    """Samples of a frame."""
    has_leads: bool
    is_plain: bool
    """Whether every signal is a lead that begins with the record and has one sample a frame."""
    invalid_count: int | None
    """The count that marks a missing sample."""

    @property
    def format(self) -> int:
        return self.signals[0].format

    @property
    def offset(self) -> int:
        """Bytes before the first sample."""
        return self.signals[0].offset


class Layout(NamedTuple):
    """All signals of a record, and what follows for its leads, in the header's order."""

    blocks: tuple[Block, ...]
    leads: tuple[str, ...]
    uv_per_count: tuple[float, ...]
    zero_counts: tuple[float, ...]
    per_frame: int
    """Samples of a lead in a frame."""


def parse(raw: bytes) -> Header | None:
    """None where the first line that is no comment is no record line, or the file is far larger than any header."""
    return _parsed(raw) if len(raw) <= _MAX_HEADER_BYTES else None


def signal_files(header: Header) -> Sequence[str]:
    """Names of the files in the same folder that a header names on lines that can be signal lines."""
    stated = zip(header.files, _have_formats(header.layout, header.n_signals), strict=True)
    return tuple(dict.fromkeys([name for name, has_format in stated if has_format and _may_be_signal(name)]))


@lru_cache(maxsize=256)
def layout_of(lines: str, n_signals: tuple[int, ...]) -> Layout:
    """The layout that a header's `layout` and `n_signals` state; kept, for an archive holds few different ones.

    Raises:
        RecordError: a line is not a signal line, the leads are not there or cannot be read together.
    """
    try:
        signals = tuple([_signal(*line.split("\t", 3)) for line in lines.split("\n")])
    except (ValueError, OverflowError) as err:
        raise RecordError(Reason.MALFORMED, "a signal line that is not one") from err
    leads = [signal for signal in signals if signal.lead]
    names = tuple([str(signal.lead) for signal in leads])
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no signal is named as a standard lead")
    if twice := [name for name in LEADS if names.count(name) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    if not all(signal.uv_per_count for signal in leads):
        raise RecordError(Reason.UNKNOWN_GAIN, "a lead without a gain in volts: uncalibrated")
    if len({signal.per_frame for signal in leads}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different rates, expected one rate")
    return Layout(
        tuple([_block(signals[a:b], a) for a, b in pairwise(_starts(n_signals))]),
        names,
        tuple([signal.uv_per_count for signal in leads]),
        tuple([signal.zero_count for signal in leads]),
        leads[0].per_frame,
    )


@lru_cache(maxsize=64)
def _parsed(raw: bytes) -> Header | None:
    """Kept a while, for a header is asked for its files first."""
    line, files, n_signals, layout, initial, checksums = _kernels.wfdb_header(raw)
    record = _RECORD_LINE.fullmatch(_text(line))
    if record is None:
        return None
    if record["segments"]:
        return Header(record, (), (), "", [], [])
    return Header(record, tuple([_text(name) for name in files]), tuple(n_signals), _text(layout), initial, checksums)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _starts(n_signals: Sequence[int]) -> list[int]:
    """Index of each run's first signal, and the number of all."""
    starts = [0]
    for n in n_signals:
        starts.append(starts[-1] + n)
    return starts


@lru_cache(maxsize=256)
def _have_formats(lines: str, n_signals: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether each run has a line with a format where a signal line has it; else the header is some other text."""
    found = [_FORMAT.fullmatch(line.partition("\t")[0]) is not None for line in lines.split("\n")]
    return tuple([any(found[a:b]) for a, b in pairwise(_starts(n_signals))])


def _may_be_signal(name: str) -> bool:
    """Whether a header may own that file: in its own folder, and never another record."""
    return name != "~" and "/" not in name and "\\" not in name and not name.lower().endswith((".hea", ".xml"))


def _signal(layout: str, gain: str, zero: str, description: str) -> Signal:
    found = _FORMAT.fullmatch(layout)
    if not found:
        raise ValueError(layout)
    return Signal(
        int(found[1]),
        int(found[2] or 1),
        int(found[3] or 0),
        int(found[4] or 0),
        *_calibration(gain, int(zero or 0)),
        lead_name(description),
    )


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


def _block(signals: tuple[Signal, ...], first: int) -> Block:
    """The signals of one file.

    Raises:
        RecordError: there are leads among them, and they cannot lie in one file.
    """
    per_frame = [signal.per_frame for signal in signals]
    formats = {signal.format for signal in signals}
    has_leads = any(signal.lead for signal in signals)
    if has_leads and len(formats) > 1:
        raise RecordError(Reason.MALFORMED, "signals of different formats in one file")
    if has_leads and min(per_frame) < 1:
        raise RecordError(Reason.MALFORMED, "a signal without samples in a frame")
    if has_leads and formats & set(FLAC_BITS) and len(set(per_frame)) > 1:
        raise RecordError(Reason.MALFORMED, "FLAC signals of different rates in one file")
    bits = _INVALID_BITS.get(signals[0].format)
    return Block(
        signals,
        first,
        sum(per_frame),
        has_leads,
        all(signal.lead and signal.per_frame == 1 and not signal.skew for signal in signals),
        None if bits is None else -(2 ** (bits - 1)),
    )
