"""DICOM files (PS3.10): with or without preamble, in any transfer syntax, down to the wanted elements' values."""

import re
import zlib
from math import isfinite
from struct import Struct
from typing import NamedTuple

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["ITEM", "DataSet", "Element", "data_set", "elements", "is_dicom", "number", "text"]

ITEM = 0xFFFEE000
"""The tag of a sequence's item."""

_PREAMBLE = 128
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_STANDARD = "1.2.840.10008.1.2"
"""Prefix of all transfer syntaxes of DICOM itself: besides the two above, all are little endian."""
_NO_PREAMBLE = re.compile(
    rb"\x02\x00[\x00-\x02\x10]\x00(?:UL\x04\x00|OB\x00\x00|UI.\x00)"
    rb"|\x08\x00(?:\x00\x00UL\x04\x00|\x05\x00CS.\x00|\x08\x00CS.\x00|\x12\x00DA\x08\x00|[\x16\x18]\x00UI.\x00)"
    rb"|\x08\x00\x00\x00\x04\x00\x00\x00....\x08\x00"
    rb"|\x08\x00[\x05\x08\x16\x18]\x00[\x02-\x40]\x00\x00\x00[A-Z0-9][A-Z0-9._ \\\0]",
    re.DOTALL,
)
"""The first element of group 2, or of group 8 with VR or without, as long as any writer makes it."""
_NO_PREAMBLE_BIG = re.compile(
    rb"\x00\x08\x00(?:\x00UL\x00\x04|\x05CS\x00.|\x08CS\x00.|\x12DA\x00\x08|[\x16\x18]UI\x00.)", re.DOTALL
)
_LONG_VR = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_SHORT, _LONG = Struct("<H"), Struct("<I")
_MAX_INFLATED = 2**24  # deflated silence is a thousandth of its size
_DEFECTS = (Reason.TRUNCATED, Reason.MALFORMED)


class DataSet(NamedTuple):
    """Bytes that hold elements from `begin` on."""

    data: bytes
    begin: int
    explicit_vr: bool
    big_endian: bool


class Element(NamedTuple):
    """What is wanted, and where its value lies in the data."""

    name: str
    begin: int
    end: int


def is_dicom(raw: bytes) -> bool:
    """Whether a file begins as DICOM's do, with the preamble or, as some archives keep them, without."""
    return raw[_PREAMBLE : _PREAMBLE + 4] == b"DICM" or bool(_NO_PREAMBLE.match(raw) or _NO_PREAMBLE_BIG.match(raw))


def data_set(raw: bytes) -> DataSet:
    """The data set of a file, inflated where it is deflated.

    Whether it has VRs is seen from its first element, for files contradict their own transfer syntax.

    Raises:
        RecordError: it ends early, or is in a transfer syntax that is not DICOM's.
    """
    begin = _PREAMBLE + 4 if raw[_PREAMBLE : _PREAMBLE + 4] == b"DICM" else 0
    syntax, begin = _meta(raw, begin)
    if not syntax.startswith(_STANDARD):
        raise RecordError(Reason.UNKNOWN_FORMAT, f"DICOM of transfer syntax {syntax}, expected one of DICOM's own")
    if syntax == _DEFLATED:
        raw, begin = _inflated(raw[begin:]), 0
    if len(raw) - begin < 8:
        raise RecordError(Reason.TRUNCATED, f"DICOM without a data set: {len(raw)} bytes")
    big_endian = syntax == _BIG_ENDIAN or (begin == 0 and _NO_PREAMBLE_BIG.match(raw) is not None)
    vr = raw[begin + 4 : begin + 6]
    return DataSet(raw, begin, big_endian or (vr.isalpha() and vr.isupper()), big_endian)


def elements(found: DataSet, paths: _kernels.DicomPaths, names: tuple[str, ...]) -> list[Element]:
    """The elements at `paths`, each with its name, in the order of the data.

    Raises:
        RecordError: the data end early, or are no elements.
    """
    status, stopped_at, spans = paths.scan(*found)
    if status:
        what = ("ends inside an element", "is not a series of elements")[status - 1]
        raise RecordError(_DEFECTS[status - 1], f"DICOM {what} at byte {stopped_at} of {len(found.data)}")
    return [Element(names[path], begin, end) for path, begin, end in spans]


def text(data: bytes, span: tuple[int, int]) -> str:
    """A value without its padding, in UTF-8 or else Latin-1, whatever the file says of itself."""
    value = data[span[0] : span[1]].strip(b" \0")
    try:
        return value.decode("utf-8").strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def number(decimal: str, default: float) -> float:
    """The number that a decimal string states, `default` where it is empty, NaN where it is none."""
    try:
        value = float(decimal or default)
    except ValueError:
        return float("nan")
    return value if isfinite(value) else float("nan")


def _meta(raw: bytes, at: int) -> tuple[str, int]:
    """Transfer syntax of the file meta information, DICOM's default where there is none, and where that ends."""
    syntax = _STANDARD
    while raw[at : at + 2] == b"\x02\x00":
        is_long = raw[at + 4 : at + 6] in _LONG_VR
        begin = at + (12 if is_long else 8)
        if begin > len(raw):
            raise RecordError(Reason.TRUNCATED, "DICOM ends inside its file meta information")
        end = begin + (_LONG.unpack_from(raw, at + 8) if is_long else _SHORT.unpack_from(raw, at + 6))[0]
        if end > len(raw):
            raise RecordError(Reason.TRUNCATED, "DICOM ends inside its file meta information")
        if raw[at + 2 : at + 4] == b"\x10\x00":
            syntax = text(raw, (begin, end))
            if len(syntax) > 64 or not re.fullmatch(r"[0-2](?:\.\d+){2,}", syntax, re.ASCII):
                raise RecordError(Reason.MALFORMED, "DICOM with a transfer syntax that is no UID")
        at = end
    return syntax, at


def _inflated(deflated: bytes) -> bytes:
    """A data set of the deflated transfer syntax: a stream without zlib's header (PS3.5, A.5)."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(deflated, _MAX_INFLATED)
    except zlib.error as err:
        raise RecordError(Reason.CORRUPT_PAYLOAD, "DICOM whose data set is not a deflated stream") from err
    if stream.eof:
        return inflated
    if len(inflated) >= _MAX_INFLATED:
        raise RecordError(Reason.TOO_LARGE, f"DICOM inflates beyond {_MAX_INFLATED} bytes")
    raise RecordError(Reason.TRUNCATED, f"DICOM ends inside its deflated data set of {len(deflated)} bytes")
