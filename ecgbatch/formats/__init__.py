"""Containers: the bytes of a file to a Record. One module a container; content decides which."""

import re
from collections.abc import Callable, Sequence

from ecgbatch.errors import RecordError
from ecgbatch.formats import csv, edf, ishne, layout, mat, mfer, muse, npy, wfdb, wfdb_header
from ecgbatch.formats.xml import root_name, to_utf8
from ecgbatch.record import Reason, Record

__all__ = ["Sibling", "companions", "decode"]

Sibling = Callable[[str], bytes]
"""Reads the file of that name beside the entry; raises RecordError where there is none."""

_ARRAY_SUFFIXES = (".npy", ".csv", ".mat")
_SIGNAL_SUFFIXES = (".dat", ".xyz")
_XML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[?!A-Za-z]|\xff\xfe<\x00|\xfe\xff\x00<|<\x00|\x00<")


def decode(raw: bytes, name: str, sibling: Sibling) -> Record:  # noqa: PLR0911  # a line a container
    """The ECG in `raw`, the content of a file called `name`.

    Raises:
        RecordError: no known container, or a damaged one.
    """
    if not raw:
        raise RecordError(Reason.EMPTY, "0 bytes")
    if _XML_START.match(raw):
        return _decode_xml(to_utf8(raw))
    if mfer.starts(raw):
        return mfer.decode(raw)
    if ishne.starts(raw):
        return ishne.decode(raw)
    if edf.starts(raw):
        return edf.decode(raw)
    if mat.starts(raw):
        return mat.decode(raw, sibling)
    if npy.starts(raw):
        return npy.decode(raw, sibling)
    if name.lower().endswith(".hea") and (header := wfdb_header.parse(raw)):
        return wfdb.decode(header, sibling)
    if csv.is_table(raw, name):
        return csv.decode(raw, sibling)
    if raw.startswith((b"fLaC", b"\x1e\x00\x00\x00")) or name.lower().endswith(_SIGNAL_SUFFIXES):
        raise RecordError(Reason.ORPHAN_SIGNAL, "a signal file that no WFDB header names, expected a .hea beside it")
    raise RecordError(Reason.UNKNOWN_FORMAT, "no ECG container known by its content")


def companions(raw: bytes, name: str) -> Sequence[str]:
    """Names of the files beside `name` that belong to the same record; only of a `.hea` does `raw` matter.

    They need not exist: an array has a declared layout or is a reject.
    """
    if name.lower().endswith(_ARRAY_SUFFIXES):
        return (layout.FILE,)
    header = wfdb_header.parse(raw) if name.lower().endswith(".hea") else None
    return wfdb_header.signal_files(header) if header else ()


def _decode_xml(text: bytes) -> Record:
    match root_name(text):
        case "RestingECG":
            return muse.decode(text)
        case root:
            detail = f"XML with root element {root[:40]!r}, expected 'RestingECG'"
            raise RecordError(Reason.UNKNOWN_FORMAT, detail)
