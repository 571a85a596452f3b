"""XML as ECG devices write it: any encoding, no entities, payloads of plain ASCII."""

import re
from html import unescape

from ecgbatch._kernels import XmlPaths, xml_root
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["Row", "Span", "attributes", "free_text", "root_name", "scan", "start_tag", "table", "to_utf8"]

Span = tuple[int, int, int]
"""Index of the path, and where the content begins and ends."""
Row = tuple[bytes, int, int, int]
"""Contents with NUL between, where the row begins, and where its payload begins and ends."""

_ATTRIBUTE = re.compile(r"""\s([^\s=<>"'/]+)\s*=\s*("[^"]*"|'[^']*')""", re.ASCII)
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
    """Name of the root element, whatever the prolog holds.

    Raises:
        RecordError: as of `table`.
    """
    status, stopped_at, name = xml_root(text)
    _require_complete(status, stopped_at, text)
    return name.decode("ascii", "replace")


def scan(text: bytes, paths: XmlPaths) -> list[Span]:
    """Spans as `XmlPaths.scan` finds them in a document.

    Raises:
        RecordError: as of `table`.
    """
    status, stopped_at, spans = paths.scan(text)
    _require_complete(status, stopped_at, text)
    return spans


def start_tag(text: bytes, begin: int) -> bytes:
    """The start tag of the element whose content begins at `begin`; no attribute holds a `<` in XML."""
    return text[max(text.rfind(b"<", 0, begin), 0) : begin]


def attributes(tag: bytes) -> dict[str, str]:
    """Value of each attribute in a start tag, by name, as it is written but for character references."""
    return {name: unescape(value[1:-1]) for name, value in _ATTRIBUTE.findall(free_text(tag))}


def free_text(raw: bytes) -> str:
    """What people wrote, in UTF-8 or else Latin-1, whatever the document says of itself."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def table(text: bytes, paths: XmlPaths, n_columns: int) -> tuple[list[Span], list[Row]]:
    """Spans and rows as `XmlPaths.table` finds them in a document.

    Raises:
        RecordError: the document ends early, is not well-formed, or declares entities.
    """
    status, stopped_at, spans, rows = paths.table(text, n_columns)
    _require_complete(status, stopped_at, text)
    return spans, rows


def _require_complete(status: int, stopped_at: int, text: bytes) -> None:
    if status:
        what = ("ends inside an element", "is not well-formed", "declares entities")[status - 1]
        raise RecordError(_DEFECTS[status - 1], f"XML {what} at byte {stopped_at} of {len(text)}")
