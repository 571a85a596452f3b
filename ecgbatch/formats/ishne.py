"""ISHNE (`ISHNE1.0`): a fixed header, then interleaved 16-bit samples (Badilini et al. 1998)."""

from binascii import crc_hqx
from datetime import datetime
from struct import Struct
from typing import NamedTuple

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.record import FIRST_YEAR, LEADS, RATES_HZ, Reason, Record, model_name

__all__ = ["decode", "starts"]

_ECG, _ANNOTATIONS = b"ISHNE1.0", b"ANN  1.0"
_HEADER_BYTES = 522
_CRC = Struct("<H"), Struct(">H")  # at 8, of everything in the header after it, in an order that is not stated
_PLACES = Struct("<iiii")  # at 10: bytes of the text block, samples a lead, where the text and the ECG begin
_MOMENT = Struct("<3h6x3h")  # at 138: day, month, year, the file's own date, hour, minute, second
_LEADS = Struct("<h12h24x12h")  # at 156: number, codes, qualities, resolutions in nV
_RECORDER = slice(232, 272)
_RATE = Struct("<h")  # at 272
_FAULT = -32768  # the sample of a lead that is off
_FIRST_CODE = 5
"""Of lead I; those of the other standard leads follow in the order of `LEADS`."""


class _Places(NamedTuple):
    n_text_bytes: int
    n_samples: int
    text: int
    ecg: int


def starts(raw: bytes) -> bool:
    """Whether a file begins as ISHNE files do."""
    return raw.startswith((_ECG, _ANNOTATIONS))


def decode(raw: bytes) -> Record:
    """The standard leads of an ISHNE file.

    Raises:
        RecordError: anything about the leads is missing, contradictory or damaged.
    """
    if raw.startswith(_ANNOTATIONS):
        raise RecordError(Reason.NO_RHYTHM, "ISHNE annotations, which lie beside their ECG")
    if len(raw) < _HEADER_BYTES:
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected a header of {_HEADER_BYTES}")
    places = _Places(*_PLACES.unpack_from(raw, 10))
    n_leads, *fields = _LEADS.unpack_from(raw, 156)
    rows = _rows(n_leads, fields[:12])
    frames = _frames(raw, places, n_leads)
    _require_crc(raw, places)
    (fs_hz,) = _RATE.unpack_from(raw, 272)
    if not RATES_HZ[0] <= fs_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, f"a sampling rate of {fs_hz} Hz")
    resolutions_nv = [fields[12 + row] for row in rows]
    if min(resolutions_nv) <= 0:
        raise RecordError(Reason.UNKNOWN_GAIN, f"a lead with a resolution of {min(resolutions_nv)} nV")
    return Record(
        format="ishne",
        fs_hz=float(fs_hz),
        leads=tuple(rows.values()),
        counts=frames.T if list(rows) == list(range(n_leads)) else frames.T[list(rows)],
        uv_per_count=tuple([nv / 1000 for nv in resolutions_nv]),
        zero_counts=(0.0,) * len(rows),
        invalid_count=_FAULT,
        acquired_at=_acquired_at(raw),
        device_model=model_name(raw[_RECORDER].partition(b"\0")[0].decode("latin-1")),
    )


def _rows(n_leads: int, codes: list[int]) -> dict[int, str]:
    """The standard leads by their place among the stored ones."""
    if not 1 <= n_leads <= len(codes):
        raise RecordError(Reason.MALFORMED, f"{n_leads} leads, expected 1 to {len(codes)}")
    places = [code - _FIRST_CODE for code in codes[:n_leads]]
    rows = {row: LEADS[place] for row, place in enumerate(places) if 0 <= place < len(LEADS)}
    leads = list(rows.values())
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no lead has the code of a standard one")
    if twice := [lead for lead in leads if leads.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    return rows


def _frames(raw: bytes, places: _Places, n_leads: int) -> np.ndarray:
    """int16 (time, lead), which lie between the header and the file's or the text's end.

    Their number is that of a lead's; ECGToolkit states that of all leads together.
    """
    if places.ecg < _HEADER_BYTES or places.n_samples < 1:
        raise RecordError(Reason.MALFORMED, f"{places.n_samples} samples at byte {places.ecg}")
    n_values = places.n_samples * n_leads
    if places.n_samples % n_leads == 0 and places.ecg + 2 * places.n_samples in (len(raw), places.text):
        n_values = places.n_samples
    end = places.ecg + 2 * n_values
    if end > len(raw):
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected {end}")
    if end not in (len(raw), places.text):
        raise RecordError(Reason.MALFORMED, f"samples end at byte {end} of {len(raw)}, expected at the end")
    return np.frombuffer(raw, "<i2", n_values, places.ecg).reshape(-1, n_leads)


def _require_crc(raw: bytes, places: _Places) -> None:
    """Hold the header, with its text block or without, to its CRC; 0 is what a writer leaves that keeps none."""
    stated = {order.unpack_from(raw, 8)[0] for order in _CRC}
    crc = crc_hqx(raw[10:_HEADER_BYTES], 0xFFFF)
    text = raw[places.text : places.text + places.n_text_bytes] if places.n_text_bytes > 0 and places.text > 0 else b""
    if not stated & {0, crc, crc_hqx(text, crc)}:
        raise RecordError(Reason.CHECKSUM, "the header's CRC differs from the one stored in it")


def _acquired_at(raw: bytes) -> datetime | None:
    day, month, year, hour, minute, second = _MOMENT.unpack_from(raw, 138)
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return moment if year >= FIRST_YEAR else None
