"""XML as ECG devices write it: any encoding, no entities, payloads of plain ASCII."""

import re

import numpy as np

from ecgbatch._kernels import XmlPaths
from ecgbatch.errors import RecordError
from ecgbatch.record import Reason

__all__ = ["root_name", "spans", "table", "to_utf8"]

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


def spans(text: bytes, paths: XmlPaths) -> list[tuple[int, int, int]]:
    """(index of the path, begin, end) of every wanted element's content, in document order.

    Raises:
        RecordError: the document ends early, is not well-formed, or declares entities.
    """
    status, stopped_at, found = paths.scan(text)
    _require_complete(status, stopped_at, text)
    return found


def table(text: bytes, paths: XmlPaths, element: tuple[int, int]) -> tuple[list[list[bytes]], np.ndarray]:
    """`XmlPaths.table` of the element whose content is text[slice(*element)]; paths begin with its own name.

    Raises:
        RecordError: as of `spans`.
    """
    begin, end = text.rfind(b"<", 0, element[0]), text.find(b">", element[1]) + 1
    status, stopped_at, rows, places = paths.table(text, begin, end)
    _require_complete(status, stopped_at, text)
    return rows, places


def _require_complete(status: int, stopped_at: int, text: bytes) -> None:
    if status:
        what = ("ends inside an element", "is not well-formed", "declares entities")[status - 1]
        raise RecordError(_DEFECTS[status - 1], f"XML {what} at byte {stopped_at} of {len(text)}")
