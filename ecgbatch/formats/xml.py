"""XML as ECG devices write it: any encoding, no entities, payloads of plain ASCII."""

from ecgbatch._kernels import XmlPaths, xml_root
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["Row", "Span", "root_name", "table", "to_utf8"]

Span = tuple[int, int, int]
"""Index of the path, and where the content begins and ends."""
Row = tuple[bytes, int, int, int]
"""Contents with NUL between, where the row begins, and where its payload begins and ends."""

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
