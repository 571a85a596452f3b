"""SCP-ECG (EN 1064, ISO 11073-91064): a record of sections that section 0 points to, mostly Huffman coded.

Of the patient's section only the tags of acquisition date, time and device are looked at.

CRCs: real files keep the record's CRC and each section's right, so a record is taken as intact where its own CRC
holds. Where it does not, for a record may have been edited since (a name blanked), every section that the samples come
from must hold its own; a CRC of 0 states none.
"""

from collections.abc import Sequence
from datetime import datetime
from struct import Struct, iter_unpack

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import scp_beats
from ecgbatch.formats.scp_leads import LeadTable, Streams, has_tables, lead_table, read_streams, streams
from ecgbatch.record import FIRST_YEAR, RATES_HZ, Reason, Record, model_name

__all__ = ["decode", "is_scp"]

_RECORD = Struct("<HI")  # CRC, bytes of the record
_SECTION = Struct("<HHIBB6s")  # CRC, number, bytes, version of the section and of the protocol, reserved
_POINTER = Struct("<HII")  # number, bytes, index from 1
_FIRST_POINTER = _RECORD.size + _SECTION.size
_MAX_POINTERS = 2048  # of 12 sections, and 1012 numbers for manufacturers' own
_PROTOCOL_3 = 30  # from here on, no bimodal compression: its flag is reserved
_DATE, _TIME, _DEVICE, _LAST_TAG = 25, 26, 14, 255
_MODEL = slice(8, 14)  # of the device's tag

_Sections = dict[int, tuple[int, int]]
"""Where each section begins, its header included, and ends."""


def is_scp(raw: bytes) -> bool:
    """Whether it is an SCP-ECG record, by section 0's mark, or where a device leaves that zero, by its header."""
    mark = raw[16:22]
    if mark == b"SCPECG":
        return True
    return mark == bytes(6) and len(raw) == int.from_bytes(raw[2:6], "little") and raw[8:10] == b"\0\0"


def decode(raw: bytes) -> Record:
    """The rhythm of an SCP-ECG record.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    sections = _sections(raw)
    if 6 not in sections:
        raise RecordError(Reason.NO_RHYTHM, "no section 6, the rhythm")
    table = lead_table(_content(raw, sections, 3))
    rhythm = _streams(raw, sections, 6, len(table.rows))
    if not rhythm.nv_per_count:
        raise RecordError(Reason.UNKNOWN_GAIN, "an amplitude value multiplier of 0")
    fs_hz = _rate_hz(rhythm.interval_us)
    tables = _content(raw, sections, 2) if 2 in sections else b""
    counts: np.ndarray
    if table.subtracts_beats or rhythm.is_bimodal:
        beat = _streams(raw, sections, 5, len(table.rows))
        section4 = _content(raw, sections, 4)
        _require_intact(raw, sections, (2, 3, 4, 5, 6))
        counts, nv_per_count = scp_beats.restored(raw, section4, beat=beat, rhythm=rhythm, tables=tables, table=table)
        fs_hz = _rate_hz(beat.interval_us)
    else:
        _require_intact(raw, sections, (2, 3, 6))
        n_samples = _n_samples(table, rhythm, is_raw=not has_tables(tables))
        counts, nv_per_count = read_streams(raw, rhythm, tables, table, n_samples), rhythm.nv_per_count
    acquired_at, device_model = _acquisition(raw, sections)
    return Record(
        format="scp-ecg",
        fs_hz=fs_hz,
        leads=table.leads,
        counts=counts,
        uv_per_count=(nv_per_count / 1000,) * len(table.leads),
        zero_counts=(0.0,) * len(table.leads),
        acquired_at=acquired_at,
        device_model=device_model,
    )


def _sections(raw: bytes) -> _Sections:
    """Sections 1 to 6, where section 0 says that they are."""
    if len(raw) < _FIRST_POINTER:
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, and no end of section 0's header")
    _, n_bytes = _RECORD.unpack_from(raw)
    _, number, n_index, *_ = _SECTION.unpack_from(raw, _RECORD.size)
    if n_bytes > len(raw):
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected {n_bytes}")
    n_pointers = (n_index - _SECTION.size) // _POINTER.size
    if number != 0 or not 1 <= n_pointers <= _MAX_POINTERS or _RECORD.size + n_index > n_bytes:
        raise RecordError(Reason.MALFORMED, f"{n_index} bytes of section {number}, expected the pointers of section 0")
    found: _Sections = {}
    pointers = raw[_FIRST_POINTER : _FIRST_POINTER + n_pointers * _POINTER.size]
    for number, length, index in iter_unpack(_POINTER.format, pointers):
        if 1 <= number <= 6 and length:
            if number in found:
                raise RecordError(Reason.MALFORMED, f"section {number} is pointed to twice")
            if index < 1 or index - 1 + length > n_bytes or length < _SECTION.size:
                raise RecordError(Reason.MALFORMED, f"section {number} does not lie in the record")
            found[number] = (index - 1, index - 1 + length)
    return found


def _span(raw: bytes, sections: _Sections, number: int) -> tuple[int, int]:
    """Begin and end of a section's content."""
    if number not in sections:
        raise RecordError(Reason.MALFORMED, f"no section {number}, which it takes to read the rhythm")
    begin, end = sections[number]
    _, stated, length, *_ = _SECTION.unpack_from(raw, begin)
    if stated != number or not _SECTION.size <= length <= end - begin:
        raise RecordError(Reason.MALFORMED, f"the header of section {number} is not what section 0 points to")
    return begin + _SECTION.size, begin + length


def _content(raw: bytes, sections: _Sections, number: int) -> bytes:
    begin, end = _span(raw, sections, number)
    return raw[begin:end]


def _streams(raw: bytes, sections: _Sections, number: int, n_leads: int) -> Streams:
    protocol = raw[sections[number][0] + 9] if number in sections else 0
    return streams(raw, *_span(raw, sections, number), n_leads, has_bimodal=number == 6 and protocol < _PROTOCOL_3)


def _require_intact(raw: bytes, sections: _Sections, numbers: Sequence[int]) -> None:
    """Hold the record to its CRC, or else each of these sections to its own."""
    crc, n_bytes = _RECORD.unpack_from(raw)
    if crc == _kernels.crc16(raw, 2, n_bytes):
        return
    for number in numbers:
        if number in sections:
            begin, end = sections[number]
            stated = int.from_bytes(raw[begin : begin + 2], "little")
            if stated not in (0, _kernels.crc16(raw, begin + 2, end)):
                raise RecordError(Reason.CHECKSUM, f"neither the record nor section {number} has its CRC")


def _rate_hz(interval_us: int) -> float:
    """The whole number of Hz that an interval stands for: it is rounded to 1 µs, so 1667 is 600 Hz."""
    exact = 1e6 / interval_us if interval_us else 0.0
    if not RATES_HZ[0] <= exact <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, f"a sample every {interval_us} µs is not a sampling rate")
    whole = round(exact)
    return float(whole) if round(1e6 / whole) == interval_us else exact


def _n_samples(table: LeadTable, rhythm: Streams, *, is_raw: bool) -> list[int]:
    """Of each stored lead; where one counts from 0, plain samples show whether `last` does so too."""
    found: list[int] = []
    for first, last, n_bytes in zip(table.first, table.last, rhythm.n_bytes, strict=True):
        counts_from_0 = first == 0 and is_raw and 2 * (last + 1) % 65536 == n_bytes
        found.append(max(last - max(first, 1) + 1, 0) + counts_from_0)
    return found


def _acquisition(raw: bytes, sections: _Sections) -> tuple[datetime | None, str | None]:
    """When and by what model of device, from section 1; no other tag is looked at."""
    if 1 not in sections:
        return None, None
    at, end = sections[1]
    at += _SECTION.size
    tags: dict[int, bytes] = {}
    while at + 3 <= end and (tag := raw[at]) != _LAST_TAG:
        length = raw[at + 1] | raw[at + 2] << 8
        at += 3 + length
        if tag in (_DATE, _TIME, _DEVICE) and at <= end:
            tags[tag] = raw[at - length : at]
    model = tags.get(_DEVICE, b"")[_MODEL].partition(b"\0")[0].decode("latin-1")
    return _moment(tags.get(_DATE, b""), tags.get(_TIME, bytes(3))), model_name(model)


def _moment(date: bytes, time: bytes) -> datetime | None:
    """Year, month, day and hour, minute, second; None where they are not a moment."""
    if len(date) < 4 or len(time) < 3:
        return None
    year = date[0] | date[1] << 8
    try:
        return datetime(year, date[2], date[3], time[0], time[1], time[2]) if year >= FIRST_YEAR else None
    except ValueError:
        return None
