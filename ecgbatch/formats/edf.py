"""EDF, EDF+ and BDF: data records of 16 or 24 bits, each signal with its own rate, unit and range (edfplus.info)."""

import re
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.record import FIRST_YEAR, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name

__all__ = ["decode", "starts"]

_EDF, _BDF = b"0       ", b"\xffBIOSEMI"
_FIXED = 256
"""Bytes of the header before its signals, and of the header for each signal."""
_WIDTHS = {"label": 16, "transducer": 80, "unit": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8}
_WIDTHS |= {"digital_max": 8, "prefilter": 80, "per_record": 8, "reserved": 32}
"""The fields of a signal, each one stored for all signals before the next field begins."""
_UV_PER_UNIT = {b"uv": 1.0, b"\xb5v": 1.0, "µv".encode(): 1.0, b"mv": 1000.0, b"v": 1e6, b"nv": 1e-3}
_LABEL = re.compile(r"(?:(?:ECG|EKG|LEAD)[ _-]+)*(\w+)(?:-REF)?", re.IGNORECASE)
_MOST = 2**31  # of anything that is counted
_MAX_SIGNALS = 512  # real files have some 20, the widest brain caps 256
_ANNOTATIONS = (b"EDF Annotations", b"BDF Annotations")
_UNKNOWN_DATE = b"01.01.85"  # what EDF+ has an anonymous file say
_MONTHS = (b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC")


class _Signal(NamedTuple):
    """What the header says of one signal."""

    lead: str | None
    """None for a signal that is not one of the twelve."""
    begin: int
    """Byte of a data record at which its samples begin."""
    per_record: int
    uv_per_count: float
    """Negative where the signal is stored upside down."""
    zero_count: float


class _Layout(NamedTuple):
    """The standard leads among the signals, in stored order."""

    leads: tuple[str, ...]
    begins: list[int]
    per_record: int
    uv_per_count: tuple[float, ...]
    zero_counts: tuple[float, ...]
    upside_down: tuple[int, ...]
    """Rows whose stored polarity is inverse."""
    record_bytes: int
    record_s: float
    fs_hz: float
    annotations: tuple[int, int]
    """Where the first annotation signal lies in a data record, and its bytes; no bytes where there is none."""


def starts(raw: bytes) -> bool:
    """Whether a file begins as EDF and BDF do."""
    return raw.startswith((_EDF, _BDF))


def decode(raw: bytes) -> Record:
    """The standard leads of an EDF, EDF+ or BDF file without gaps.

    Raises:
        RecordError: anything about the leads is missing, contradictory or damaged.
    """
    if len(raw) < _FIXED:
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected a header of {_FIXED} at least")
    is_bdf = raw.startswith(_BDF)
    n_signals, n_records = _integer(raw[252:256], "number of signals"), _integer(raw[236:244], "number of records")
    header = _FIXED * (n_signals + 1)
    if not 1 <= n_signals <= _MAX_SIGNALS or _integer(raw[184:192], "header size") != header:
        raise RecordError(Reason.MALFORMED, f"{n_signals} signals, and a header size that does not fit them")
    if len(raw) < header:
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected a header of {header}")
    layout = _layout(raw[_FIXED:header], raw[244:252], 3 if is_bdf else 2)
    _require_size(len(raw) - header, n_records, layout.record_bytes)
    if raw[192:197] in (b"EDF+D", b"BDF+D"):
        _require_no_gap(raw, header, n_records, layout)
    return Record(
        format="bdf" if is_bdf else "edf",
        fs_hz=layout.fs_hz,
        leads=layout.leads,
        counts=_counts(raw, header, n_records, layout, np.int32 if is_bdf else np.int16),
        uv_per_count=layout.uv_per_count,
        zero_counts=layout.zero_counts,
        acquired_at=_acquired_at(raw),
    )


@lru_cache(maxsize=128)
def _layout(signals: bytes, record_s: bytes, width: int) -> _Layout:
    """From the header's part on the signals; kept, for an archive holds few different ones."""
    stored, annotations, record_bytes = _signals(signals, width)
    found = [signal for signal in stored if signal.lead]
    leads = tuple([str(signal.lead) for signal in found])
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no signal is labelled as a standard lead")
    if twice := [lead for lead in leads if leads.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    if len({signal.per_record for signal in found}) > 1:
        raise RecordError(Reason.MALFORMED, "leads of different rates, expected one rate")
    upside_down = tuple([row for row, signal in enumerate(found) if signal.uv_per_count < 0])
    return _Layout(
        leads,
        [signal.begin for signal in found],
        found[0].per_record,
        tuple([abs(signal.uv_per_count) for signal in found]),
        tuple([-signal.zero_count if signal.uv_per_count < 0 else signal.zero_count for signal in found]),
        upside_down,
        record_bytes,
        _number(record_s),
        _rate_hz(found[0].per_record, _number(record_s)),
        annotations,
    )


def _signals(header: bytes, width: int) -> tuple[list[_Signal], tuple[int, int], int]:
    """All signals, where the first one of annotations lies and its bytes, and the bytes of a data record."""
    n_signals = len(header) // _FIXED
    columns: dict[str, list[bytes]] = {}
    at = 0
    for name, n_bytes in _WIDTHS.items():
        columns[name] = [header[at + i * n_bytes :][:n_bytes].strip() for i in range(n_signals)]
        at += n_signals * n_bytes
    signals: list[_Signal] = []
    annotations = (0, 0)
    begin = 0
    for i in range(n_signals):
        field = {name: column[i] for name, column in columns.items()}
        lead = _lead(field["label"])
        per_record = _integer(field["per_record"], "samples of a data record")
        if per_record < (1 if lead else 0):
            raise RecordError(Reason.MALFORMED, f"{per_record} samples of a signal in a data record")
        gain, zero = _calibration(field, lead) if lead else (0.0, 0.0)
        signals.append(_Signal(lead, begin, per_record, gain, zero))
        if field["label"] in _ANNOTATIONS and not annotations[1]:
            annotations = (begin, width * per_record)
        begin += width * per_record
    return signals, annotations, begin


def _lead(label: bytes) -> str | None:
    """The standard lead of a label: `V1`, `ECG V1`, `EKG aVR`, `ECG II-Ref`; None for any other."""
    found = _LABEL.fullmatch(label.decode("latin-1"))
    return lead_name(found[1]) if found else None


def _calibration(field: dict[str, bytes], lead: str) -> tuple[float, float]:
    """µV a count, and the count of 0 µV: a line through the ends of the physical and the digital range."""
    low, high = _number(field["physical_min"]), _number(field["physical_max"])
    digital_low, digital_high = _number(field["digital_min"]), _number(field["digital_max"])
    uv_per_unit = _UV_PER_UNIT.get(field["unit"].lower(), 0.0)
    span = digital_high - digital_low
    uv_per_count = (high - low) / span * uv_per_unit if span > 0 else 0.0  # 0 or NaN: no gain
    if not UV_PER_COUNT[0] <= abs(uv_per_count) <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: unit and ranges do not give a gain")
    zero_count = digital_low - low * uv_per_unit / uv_per_count
    if not abs(zero_count) < 2**31:
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: 0 µV is beyond any sample")
    return uv_per_count, zero_count


def _require_size(n_bytes: int, n_records: int, record_bytes: int) -> None:
    """Hold the data to the number of data records that the header states."""
    if n_records == -1:
        raise RecordError(Reason.TRUNCATED, "a recording that was never closed: -1 data records")
    if n_records < 1:
        raise RecordError(Reason.MALFORMED, f"{n_records} data records")
    if n_bytes != n_records * record_bytes:
        reason = Reason.TRUNCATED if n_bytes < n_records * record_bytes else Reason.MALFORMED
        raise RecordError(reason, f"{n_bytes} bytes of data, expected {n_records} records of {record_bytes}")


def _require_no_gap(raw: bytes, header: int, n_records: int, layout: _Layout) -> None:
    """Hold each data record of a discontinuous file to begin where the one before it ends."""
    begin, n_bytes = layout.annotations
    onsets = np.empty(n_records)
    _kernels.edf_onsets(raw, header, layout.record_bytes, begin, n_bytes, onsets)
    late_s = onsets - onsets[0] - np.arange(n_records) * layout.record_s
    if np.isnan(late_s).any():
        raise RecordError(Reason.MALFORMED, "a discontinuous file, and a data record without its time")
    if (gaps := np.abs(late_s) > 0.5 / layout.fs_hz).any():
        at_s = float(onsets[gaps.argmax()] - onsets[0])
        raise RecordError(Reason.INVALID_SAMPLES, f"a gap before the data record at {at_s:g} s")


def _rate_hz(per_record: int, record_s: float) -> float:
    rate_hz = per_record / record_s if record_s > 0 else 0.0
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "samples and duration of a data record do not give a sampling rate")
    return rate_hz


def _counts(raw: bytes, header: int, n_records: int, layout: _Layout, count: type[Any]) -> np.ndarray:
    """int16 or int32 (lead, time), every lead with its polarity as it was at the electrodes."""
    counts: np.ndarray = np.empty((len(layout.leads), n_records * layout.per_record), count)
    _kernels.edf_rows(raw, header, layout.record_bytes, layout.begins, layout.per_record, counts)
    if layout.upside_down:
        counts = counts.astype(np.int32)  # -32768 has no negative among int16
        counts[list(layout.upside_down)] *= -1
    return counts


def _acquired_at(raw: bytes) -> datetime | None:
    """EDF+'s start date where it is stated, else the header's date of two-digit years, 1985 to 2084; and its time.

    Of the recording's field nothing else is read: it may name people.
    """
    try:
        if raw[88:98] == b"Startdate ":
            day, name, year = raw[98:109].split(b"-")
            date = int(year), _MONTHS.index(name.upper()) + 1, int(day)
        elif raw[168:176] == _UNKNOWN_DATE:
            return None
        else:
            of_month, month, short = map(int, raw[168:176].split(b"."))
            date = (1900 if short >= 85 else 2000) + short, month, of_month
        hour, minute, second = map(int, raw[176:184].split(b"."))
        moment = datetime(*date, hour, minute, second)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year >= FIRST_YEAR else None


def _integer(field: bytes, what: str) -> int:
    number = _number(field)
    if not number.is_integer() or abs(number) > _MOST:
        raise RecordError(Reason.MALFORMED, f"{what}: not a whole number")
    return int(number)


def _number(field: bytes) -> float:
    """The number in a field; NaN where there is none."""
    try:
        number = float(field)
    except ValueError:
        return float("nan")
    return number if isfinite(number) and b"_" not in field else float("nan")
