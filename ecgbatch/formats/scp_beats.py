"""SCP-ECG's high compression: a reference beat that was subtracted, and a rest that was decimated between the QRS.

Undone as decoders of EN 1064's annex C agree to: each decimated value stands in the middle of the samples that it
replaced, those between two such middles are interpolated, and the reference beat is added where it was subtracted.
The three-sample smoothing that some decoders add is left out.
"""

from math import gcd
from struct import Struct
from typing import NamedTuple

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.formats.scp_leads import LeadTable, Streams, read_streams
from ecgbatch.record import INVALID, Reason

__all__ = ["restored"]

_HEADER = Struct("<HHH")
_ZONE = np.dtype([("type", "<u2"), ("first", "<u4"), ("fiducial", "<u4"), ("last", "<u4")])
_PROTECTED = np.dtype([("first", "<u4"), ("last", "<u4")])
_MOST_DECIMATION = 8
_MOST_SAMPLES = 2**20  # half an hour: no resting ECG is longer, and its samples may be of few bits


class _Beats(NamedTuple):
    """The content of section 4; samples count from 1."""

    length_ms: int
    fiducial: int
    """Sample of the reference beat that lies on a QRS complex's own fiducial."""
    zones: np.ndarray
    """Where the reference beat was subtracted, if the type is 0."""
    protected: np.ndarray | None
    """Where nothing was decimated."""


def restored(
    raw: bytes, section4: bytes, *, beat: Streams, rhythm: Streams, tables: bytes, table: LeadTable
) -> tuple[np.ndarray, int]:
    """int32 (lead, time) of the rhythm at the reference beat's rate, and nV a count.

    Raises:
        RecordError: what it takes to restore the rhythm is missing or contradicts itself.
    """
    beats = _beats(section4)
    first, last = max(table.span[0], 1), table.span[1]
    n_time, n_leads = last - first + 1, len(table.rows)
    if not beat.nv_per_count or not beat.interval_us:
        raise RecordError(Reason.MALFORMED, "a reference beat without gain or rate")
    if n_time > _MOST_SAMPLES or {*zip(table.first, table.last, strict=True)} != {table.span}:
        raise RecordError(Reason.MALFORMED, "stored leads of different length or start, or longer than a resting ECG")
    nv_per_count = gcd(beat.nv_per_count, rhythm.nv_per_count)
    factor = _decimation(beat, rhythm)
    positions = _positions(beats, first, last, factor) if factor > 1 else np.arange(n_time)
    n_stored = int(positions[-1]) + 1
    stored = read_streams(raw, rhythm, tables, table, [n_stored] * n_leads)
    every = np.arange(n_stored)
    signal = np.stack([np.interp(positions, every, row) for row in stored]) * (rhythm.nv_per_count // nv_per_count)
    if table.subtracts_beats:
        n_beat = round(beats.length_ms * 1000 / beat.interval_us)
        shape = read_streams(raw, beat, tables, table, [n_beat] * n_leads)
        _add(signal, first, shape.astype(np.float64) * (beat.nv_per_count // nv_per_count), beats)
    if np.abs(signal).max() >= -INVALID:
        raise RecordError(Reason.MALFORMED, "a rhythm and a reference beat beyond all sums")
    return np.rint(signal).astype(np.int32), nv_per_count


def _beats(section: bytes) -> _Beats:
    if len(section) < _HEADER.size:
        raise RecordError(Reason.MALFORMED, "section 4 ends before its first QRS complex")
    length_ms, fiducial, n = _HEADER.unpack_from(section)
    at = _HEADER.size + n * _ZONE.itemsize
    if len(section) < at:
        raise RecordError(Reason.MALFORMED, f"section 4 ends before its {n} QRS complexes")
    has_protected = len(section) >= at + n * _PROTECTED.itemsize
    return _Beats(
        length_ms,
        fiducial,
        np.frombuffer(section, _ZONE, n, _HEADER.size),
        np.frombuffer(section, _PROTECTED, n, at) if has_protected else None,
    )


def _decimation(beat: Streams, rhythm: Streams) -> int:
    """How many samples of the reference beat's rate one of the rhythm's stands for."""
    factor = round(rhythm.interval_us / beat.interval_us)
    if abs(factor * beat.interval_us - rhythm.interval_us) > factor:  # intervals are rounded to 1 µs
        factor = 0
    if not 1 <= factor <= (_MOST_DECIMATION if rhythm.is_bimodal else 1):
        detail = f"a rhythm of {rhythm.interval_us} µs a sample and a reference beat of {beat.interval_us} µs"
        raise RecordError(Reason.MALFORMED, detail)
    return factor


def _positions(beats: _Beats, first: int, last: int, factor: int) -> np.ndarray:
    """Of each sample from first to last, its place among the stored ones, between two of them for most.

    Whole groups of `factor` samples outside of protected zones were replaced by one; all others are stored.
    """
    if beats.protected is None:
        raise RecordError(Reason.MALFORMED, "section 4 does not say where the rhythm was not decimated")
    parts: list[np.ndarray] = []
    n_stored, at = 0, first
    zones = [(max(a, first), min(b, last)) for a, b in beats.protected.tolist() if 0 < a <= b]
    for begin, end in [*[zone for zone in zones if zone[0] <= zone[1]], (last + 1, last)]:
        if begin < at:
            raise RecordError(Reason.MALFORMED, "protected zones of section 4 overlap")
        groups, rest = divmod(begin - at, factor)
        middle = (np.arange(groups * factor) - factor // 2) / factor
        parts.append(n_stored + middle.clip(0, max(groups - 1, 0)))
        n_stored += groups
        n_whole = rest + end - begin + 1
        parts.append(n_stored + np.arange(n_whole, dtype=np.float64))
        n_stored, at = n_stored + n_whole, end + 1
    return np.concatenate(parts)


def _add(signal: np.ndarray, first: int, beat: np.ndarray, beats: _Beats) -> None:
    """Add the beat (lead, time) wherever it was subtracted; `first` is the number of the signal's first sample."""
    zones = beats.zones[beats.zones["type"] == 0].tolist()
    n_time, n_beat = signal.shape[1], beat.shape[1]
    if not zones:
        raise RecordError(Reason.MALFORMED, "a reference beat was subtracted, and section 4 does not say where")
    if sum(max(min(end, first + n_time) - begin, 0) for _, begin, _, end in zones) > 2 * n_time:
        raise RecordError(Reason.MALFORMED, "subtraction zones of section 4 overlap")
    for _, begin, fiducial, end in zones:
        to_beat = first + beats.fiducial - 1 - fiducial  # from an index of the signal to one of the beat
        a = max(begin - first, 0, -to_beat)
        b = min(end - first + 1, n_time, n_beat - to_beat)
        if a < b:
            signal[:, a:b] += beat[:, a + to_beat : b + to_beat]
