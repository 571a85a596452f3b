"""Records as DICOM 12-lead ECG objects (PS3.3, A.34.3): explicit little endian, rhythm and beat as multiplex groups."""

import struct
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from ecgbatch.record import LEADS, Record
from ecgbatch.synth.ecg import one_beat

__all__ = ["dicom_file"]

_TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_LONG_VR = ("OB", "OW", "SQ")
_ITEM = 0xFFFE, 0xE000
_CODES = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))
"""Of each lead in SCP-ECG's table."""
_PADDING = b"\x00\x80"
"""-32768, which is no sample of `ecg.record`."""


def dicom_file(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The file of a record of int16 counts; the identity in it is plainly made up."""
    number = blake2b(record.counts.tobytes() + patient_id.encode(), digest_size=15).digest()
    uid = f"2.25.{int.from_bytes(number)}"  # PS3.5, B.2
    moment = record.acquired_at
    elements = [
        _element(0x00080005, "CS", "ISO_IR 100"),
        _element(0x00080016, "UI", _TWELVE_LEAD),
        _element(0x00080018, "UI", uid),
        _element(0x0008002A, "DT", f"{moment:%Y%m%d%H%M%S}" if moment else ""),
        _element(0x00080060, "CS", "ECG"),
        _element(0x00080070, "LO", "SYNTH"),
        _element(0x00081090, "LO", record.device_model or ""),
        _element(0x00100010, "PN", "SYNTHÉTIQUE^PERSONNE"),
        _element(0x00100020, "LO", patient_id),
        _element(0x00100030, "DA", "19000101"),
        _element(0x00100040, "CS", "F"),
        _element(0x0020000D, "UI", f"{uid}.1"),
        _element(0x0020000E, "UI", f"{uid}.2"),
        _sequence(
            0x54000100,
            _group(record, record.counts, "RHYTHM"),
            _group(record, one_beat(record), "MEDIAN BEAT"),
        ),
    ]
    return bytes(128) + b"DICM" + _meta(uid) + b"".join(elements)


def _meta(uid: str) -> bytes:
    """The file meta information (PS3.10, 7.1)."""
    elements = (
        _element(0x00020001, "OB", b"\0\1"),
        _element(0x00020002, "UI", _TWELVE_LEAD),
        _element(0x00020003, "UI", uid),
        _element(0x00020010, "UI", _EXPLICIT_LITTLE_ENDIAN),
        _element(0x00020012, "UI", "2.25.1"),
    )
    return _element(0x00020000, "UL", sum(map(len, elements))) + b"".join(elements)


def _group(record: Record, counts: np.ndarray, label: str) -> bytes:
    channels = zip(record.leads, record.uv_per_count, record.zero_counts, strict=True)
    return b"".join(
        [
            _element(0x003A0004, "CS", "ORIGINAL" if label == "RHYTHM" else "DERIVED"),
            _element(0x003A0005, "US", len(counts)),
            _element(0x003A0010, "UL", counts.shape[1]),
            _element(0x003A001A, "DS", f"{record.fs_hz:.10g}"),
            _element(0x003A0020, "SH", label),
            _sequence(0x003A0200, *[_channel(*channel) for channel in channels]),
            _element(0x54001004, "US", 16),
            _element(0x54001006, "CS", "SS"),
            _element(0x5400100A, "OW", _PADDING),
            _element(0x54001010, "OW", counts.T.astype("<i2").tobytes()),
        ]
    )


@lru_cache(maxsize=64)
def _channel(lead: str, uv_per_count: float, zero_count: float) -> bytes:
    return b"".join(
        [
            _sequence(0x003A0208, _code(f"5.6.3-9-{_CODES[lead]}", "SCPECG", "1.3", f"Lead {lead}")),
            _element(0x003A0210, "DS", f"{uv_per_count:.10g}"),
            _sequence(0x003A0211, _code("uV", "UCUM", "1.4", "microvolt")),
            _element(0x003A0212, "DS", "1"),
            _element(0x003A0213, "DS", f"{0.0 - zero_count * uv_per_count:.10g}"),
            _element(0x003A0215, "DS", "0"),
            _element(0x003A021A, "US", 16),
        ]
    )


def _code(value: str, scheme: str, version: str, meaning: str) -> bytes:
    stated = ((0x00080100, "SH", value), (0x00080102, "SH", scheme), (0x00080103, "SH", version))
    return b"".join([_element(*code) for code in stated]) + _element(0x00080104, "LO", meaning)


def _sequence(tag: int, *items: bytes) -> bytes:
    return _element(tag, "SQ", b"".join([struct.pack("<HHI", *_ITEM, len(item)) + item for item in items]))


def _element(tag: int, vr: str, value: str | int | bytes) -> bytes:
    """An element of explicit VR (PS3.5, 7.1.2), its value padded to even length."""
    match value:
        case int():
            content = value.to_bytes(4 if vr == "UL" else 2, "little")
        case str():
            content = value.encode("latin-1")
        case _:
            content = value
    content += (b"\0" if vr in ("UI", "OB", "OW") else b" ") * (len(content) % 2)
    layout = "<HH2s2xI" if vr in _LONG_VR else "<HH2sH"
    return struct.pack(layout, tag >> 16, tag & 0xFFFF, vr.encode(), len(content)) + content
