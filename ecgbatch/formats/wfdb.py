"""WFDB records: a header (`.hea`) and the signal files it names (signal(5) of the WFDB manual)."""

import io
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import wfdb_header
from ecgbatch.formats.wfdb_header import Block, Header, Layout
from ecgbatch.record import FIRST_YEAR, INVALID, RATES_HZ, Reason, Record

__all__ = ["decode"]

_MAX_COUNT = 2**31  # of any sample
_MAX_SAMPLES = 2**40  # more than any file holds
_MAX_FLAC_SAMPLES = 2**24  # FLAC may pack silence without bound: 64 MiB once decoded


def decode(header: Header, sibling: Callable[[str], bytes]) -> Record:
    """The standard leads of the record that a header describes; `sibling` gives the files that it names.

    Raises:
        RecordError: anything about the leads is missing, contradictory or damaged.
    """
    _, segments, n_signals, fs, n_samples, start = header.record.groups()
    if segments:
        raise RecordError(Reason.NO_RHYTHM, "a multi-segment header; its segments are entries of their own")
    found, stated = len(header.checksums), int(n_signals)
    if not found or found != stated:
        reason = Reason.TRUNCATED if found < stated else Reason.MISSING_LEADS
        raise RecordError(reason, f"{found} signal lines, expected {stated}")
    layout = wfdb_header.layout_of(header.layout, header.n_signals)
    counts, invalid = _counts(header, layout, int(n_samples or 0), sibling)
    return Record(
        format="wfdb",
        fs_hz=_rate_hz(fs, layout.per_frame),
        leads=layout.leads,
        counts=counts,
        uv_per_count=layout.uv_per_count,
        zero_counts=layout.zero_counts,
        invalid_count=invalid,
        acquired_at=_acquired_at(start),
    )


def _rate_hz(field: str | None, per_frame: int) -> float:
    try:
        rate_hz = float(field or "") * per_frame
    except ValueError:
        rate_hz = 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "the record line does not give a sampling rate")
    return rate_hz


def _counts(
    header: Header, layout: Layout, n_frames: int, sibling: Callable[[str], bytes]
) -> tuple[np.ndarray, int | None]:
    """int16 or int32 (lead, time) in the header's order, and the count that marks a missing sample."""
    if len(set(header.files)) != len(header.files):
        raise RecordError(Reason.MALFORMED, "signals of one file stand apart, expected them together")
    parts: list[np.ndarray] = []
    marks: list[int | None] = []
    for file, block in zip(header.files, layout.blocks, strict=True):
        if block.has_leads:
            channels = _channels(_frames(file, block, header, n_frames, sibling), block, header)
            parts.extend(channels)
            marks.extend([block.invalid_count] * len(channels))
    n_samples = min([part.shape[1] for part in parts])
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


def _frames(file: str, block: Block, header: Header, n_frames: int, sibling: Callable[[str], bytes]) -> np.ndarray:
    """int16 or int32 (frame, sample of a frame) of one signal file."""
    if "/" in file or "\\" in file or file in ("~", ".."):
        raise RecordError(Reason.MALFORMED, "a signal file outside of its header's folder")
    data = sibling(file)
    format_, offset = block.format, block.offset
    if format_ in wfdb_header.FLAC_BITS:
        return _flac(data, block, n_frames)
    n = n_frames * block.width or _whole_samples(format_, len(data) - offset, block.width)
    needed = _kernels.wfdb_bytes(format_, min(n, _MAX_SAMPLES))
    if not n:
        raise RecordError(Reason.TRUNCATED, "a signal file without samples")
    if not needed:
        raise RecordError(Reason.MALFORMED, f"signal format {format_} is not one of WFDB's")
    if offset + needed > len(data):
        raise RecordError(Reason.TRUNCATED, f"a signal file of {len(data)} bytes, expected {offset + needed}")
    if format_ == 16:
        return np.frombuffer(data, "<i2", n, offset).reshape(-1, block.width)
    counts = np.empty(n, np.int32)
    _kernels.wfdb_unpack(format_, data, offset, counts)
    frames = counts.reshape(-1, block.width)
    return _integrate(frames, header.initial[block.first :][: len(block.signals)]) if format_ == 8 else frames


def _whole_samples(format_: int, n_bytes: int, width: int) -> int:
    """Samples of whole frames in so many bytes, for a header that does not say how many there are."""
    per_1000 = _kernels.wfdb_bytes(format_, 12_000)
    return n_bytes * 12_000 // per_1000 // width * width if per_1000 and n_bytes > 0 else 0


def _integrate(differences: np.ndarray, initial: Sequence[int]) -> np.ndarray:
    """Format 8 stores first differences; the header's initial values precede them."""
    if differences.shape[1] != len(initial):
        raise RecordError(Reason.MALFORMED, "format 8 with several samples a frame")
    if any(abs(value) > _MAX_COUNT for value in initial):
        raise RecordError(Reason.MALFORMED, "an initial value that is no number, or beyond any sample")
    return (np.array(initial) + np.cumsum(differences, axis=0, dtype=np.int64)).astype(np.int32)


def _flac(data: bytes, block: Block, n_frames: int) -> np.ndarray:
    """(frame, sample of a frame): FLAC holds one channel a signal, at the signal's own rate."""
    import soundfile

    n_signals, per_frame = len(block.signals), block.signals[0].per_frame
    try:
        with soundfile.SoundFile(io.BytesIO(data[block.offset :])) as flac:
            n = n_frames * per_frame or flac.frames
            if flac.channels != n_signals or n > flac.frames or n * n_signals > _MAX_FLAC_SAMPLES:
                raise RecordError(
                    Reason.TRUNCATED,
                    f"FLAC of {flac.frames} samples, {flac.channels} channels, expected {n}, {n_signals}",
                )
            n -= n % per_frame
            samples = flac.read(n, dtype="int32", always_2d=True)
    except (soundfile.SoundFileError, ValueError) as err:
        raise RecordError(Reason.CORRUPT_PAYLOAD, "not a readable FLAC stream") from err
    if len(samples) != n:
        raise RecordError(Reason.TRUNCATED, f"FLAC ends after {len(samples)} samples, expected {n}")
    frames = samples.reshape(-1, per_frame, n_signals).transpose(0, 2, 1)
    return np.ascontiguousarray(frames).reshape(len(frames), -1) >> (32 - wfdb_header.FLAC_BITS[block.format])


def _channels(frames: np.ndarray, block: Block, header: Header) -> list[np.ndarray]:
    """The leads' counts, each (1, time); all of them (lead, time) where every signal is a plain lead, as mostly."""
    checksums = header.checksums[block.first :][: len(block.signals)]
    is_int16 = frames.dtype == np.int16
    sums = _kernels.frame_sums(frames) if is_int16 else (frames.sum(axis=0, dtype=np.int64) % 65536).tolist()
    if block.is_plain and (sums == checksums or checksums == [wfdb_header.ABSENT] * len(sums)):
        return [frames.T]
    found: list[np.ndarray] = []
    column = 0
    for signal, checksum in zip(block.signals, checksums, strict=True):
        n = signal.per_frame
        if signal.lead:
            _require_sum(signal.lead, sum(sums[column : column + n]), checksum)
            found.append(frames[signal.skew :, column : column + n].reshape(1, -1))
        column += n
    return found


def _require_sum(lead: str, total: int, checksum: int) -> None:
    """Hold a lead to the checksum that its line states, if it does."""
    if checksum == wfdb_header.NO_NUMBER:
        raise RecordError(Reason.MALFORMED, f"lead {lead}: a checksum that is not a number")
    if checksum != wfdb_header.ABSENT and (checksum - total) % 65536:
        raise RecordError(Reason.CHECKSUM, f"lead {lead}: the samples' sum differs from the header's")


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
