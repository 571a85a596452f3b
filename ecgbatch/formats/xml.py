"""XML as ECG devices write it: any encoding, no entities, payloads of plain ASCII."""

import re

from ecgbatch._kernels import XmlPaths
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["Span", "root_name", "table", "to_utf8"]

Span = tuple[int, int, int]

_TO_ROOT = re.compile(
    # Atomic: what has matched is not tried again in another way, so the time is linear in the text.
    rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)*+<([A-Za-z_][^\s/>]*)[\s/>]",
    re.DOTALL,
)
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


def root_name(text: bytes) -> str | None:
    """Name of the root element, as far as the first 4 KiB show one."""
    found = _TO_ROOT.match(text[:4096])
    return found[1].decode("ascii", "replace") if found else None


def table(text: bytes, paths: XmlPaths, n_columns: int) -> tuple[list[Span], list[list[bytes]], list[Span]]:
    """Spans, rows and their places as `XmlPaths.table` finds them in a document.

    Raises:
        RecordError: the document ends early, is not well-formed, or declares entities.
    """
    status, stopped_at, spans, rows, places = paths.table(text, n_columns)
    if status:
        what = ("ends inside an element", "is not well-formed", "declares entities")[status - 1]
        raise RecordError(_DEFECTS[status - 1], f"XML {what} at byte {stopped_at} of {len(text)}")
    return spans, rows, places
