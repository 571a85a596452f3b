"""XML as ECG devices write it: any encoding, no entities, payloads of plain ASCII."""

import re
from collections.abc import Sequence
from datetime import datetime
from html import unescape

import numpy as np

from ecgbatch._kernels import XmlPaths, digits, xml_root
from ecgbatch.errors import RecordError
from ecgbatch.record import FIRST_YEAR, LEADS, Reason

__all__ = [
    "Span",
    "TableRow",
    "Tag",
    "attribute_places",
    "attributes",
    "free_text",
    "integers",
    "kinds",
    "moment",
    "require_leads",
    "root_name",
    "table",
    "tags",
    "to_utf8",
]

Span = tuple[int, int, int]
"""Index of the path, and where the content begins and ends."""
TableRow = tuple[bytes, int, int, int]
"""Contents with NUL between, where the row begins, and where its payload begins and ends."""

Tag = tuple[int, int, int, int]
"""Index of the path, where the start tag begins, and where the content begins and ends."""

_ATTRIBUTE = re.compile(rb"""\s++([^\s=<>"'/]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)')""")
_MOMENT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(?:\.\d{1,9})?(?:[+-]\d{2,4})?", re.ASCII)
_START = re.compile(rb"<[^\s<>/]++")
_MAX_ATTRIBUTES = 1024  # real tags have some 10
_MAX_TAG_BYTES = 4096  # of a tag whose attributes are words and numbers
_DEFECTS = (Reason.TRUNCATED, Reason.MALFORMED, Reason.UNSAFE_XML)


def to_utf8(raw: bytes) -> bytes:
    """UTF-16 as UTF-8; every other encoding as it is, for tags and payloads are ASCII in all of them."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace").encode()
    if raw.startswith(b"<\x00"):
        return raw.decode("utf-16-le", "replace").encode()
    if raw.startswith(b"\x00<"):
        return raw.decode("utf-16-be", "replace").encode()
    return raw


def root_name(text: bytes) -> str:
    """Name of the root element without its namespace's prefix, whatever the prolog holds.

    Raises:
        RecordError: as of `table`.
    """
    status, stopped_at, name = xml_root(text)
    _require_complete(status, stopped_at, text)
    return name.decode("ascii", "replace").rpartition(":")[2]


def table(text: bytes, paths: XmlPaths, n_columns: int) -> tuple[list[Span], list[TableRow]]:
    """Spans and rows as `XmlPaths.table` finds them in a document.

    Raises:
        RecordError: the document ends early, is not well-formed, or declares entities.
    """
    status, stopped_at, spans, rows = paths.table(text, n_columns)
    _require_complete(status, stopped_at, text)
    return spans, rows


def tags(text: bytes, paths: XmlPaths) -> list[Tag]:
    """The wanted elements of a document, each with where its start tag begins.

    Raises:
        RecordError: as of `table`.
    """
    status, stopped_at, found = paths.tags(text)
    _require_complete(status, stopped_at, text)
    return found


def attributes(tag: bytes) -> dict[str, str]:
    """The attributes of a short start tag, their references to characters resolved; none of an empty text.

    Raises:
        RecordError: as of `attribute_places`, or the tag is longer than any that holds no payload.
    """
    if len(tag) > _MAX_TAG_BYTES:
        raise RecordError(Reason.MALFORMED, f"a start tag of {len(tag)} bytes")
    places = attribute_places(tag, 0, len(tag)).items() if tag else ()
    return {name.decode("latin-1"): free_text(tag[begin:end]) for name, (begin, end) in places}


def attribute_places(text: bytes, tag: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Where the value of each attribute of the start tag text[tag:end] lies in the text.

    Raises:
        RecordError: something in the tag is no attribute.
    """
    start = _START.match(text, tag, end)
    at = start.end() if start else tag
    places: dict[bytes, tuple[int, int]] = {}
    while found := _ATTRIBUTE.match(text, at, end):
        places[found[1]] = found.span(2 if found[2] is not None else 3)
        at = found.end()
        if len(places) > _MAX_ATTRIBUTES:
            raise RecordError(Reason.MALFORMED, f"a start tag of more than {_MAX_ATTRIBUTES} attributes")
    if text[at:end].strip() not in (b">", b"/>"):
        raise RecordError(Reason.MALFORMED, "a start tag with something that is no attribute")
    return places


def free_text(raw: bytes) -> str:
    """Stripped text in UTF-8 or else Latin-1, whatever the document says of itself."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return unescape(text).strip()


def moment(digits: str) -> datetime | None:
    """YYYYMMDD[HHMM[SS[.f]]][±ZZZZ], the local time of its zone; None where it is no moment of an ECG."""
    found = _MOMENT.fullmatch(digits)
    year, month, day, hour, minute, second = [int(part or 0) for part in found.groups()] if found else [0] * 6
    try:
        return datetime(year, month, day, hour, minute, second) if year >= FIRST_YEAR else None
    except ValueError:
        return None


def integers(text: bytes, places: Sequence[tuple[int, int]], names: Sequence[str]) -> np.ndarray:
    """int32 (place, value) of the decimal numbers that are the content of each place, which `names` call by name.

    Raises:
        RecordError: a place holds anything else, nothing, or not as many as the others.
    """
    out = np.empty(sum([(end - begin) // 2 + 1 for begin, end in places]), np.int32)
    found = digits(text, list(places), out)
    for name, n in zip(names, found, strict=True):
        if n < 0:
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"{name}: samples that are no integers")
        if n != found[0] or n == 0:
            raise RecordError(Reason.MALFORMED, f"{name}: {n} samples, {names[0]}: {found[0]}, expected as many")
    return out[: sum(found)].reshape(len(places), -1)


def kinds(found: Sequence[str], known: Sequence[str]) -> str:
    """What a document calls its waveforms, for a defect's detail: no word that is not known, for it may be a name."""
    said = [kind if kind in known else "of another type" if kind else "without type" for kind in found[:4]]
    return ", ".join(said) or "none"


def require_leads(leads: Sequence[str]) -> None:
    """Hold the standard leads of a record to be there, once each.

    Raises:
        RecordError: there is none, or one twice.
    """
    if not leads:
        raise RecordError(Reason.MISSING_LEADS, "no channel is named as a standard lead")
    if twice := [lead for lead in LEADS if leads.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")


def _require_complete(status: int, stopped_at: int, text: bytes) -> None:
    if status:
        what = ("ends inside an element", "is not well-formed", "declares entities")[status - 1]
        raise RecordError(_DEFECTS[status - 1], f"XML {what} at byte {stopped_at} of {len(text)}")
