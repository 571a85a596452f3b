"""Containers: the bytes of a file to a Record. One module a container; content decides which."""

import re
from collections.abc import Callable, Sequence

from ecgbatch.errors import RecordError
from ecgbatch.formats import muse, scp, wfdb, wfdb_header
from ecgbatch.formats.xml import root_name, to_utf8
from ecgbatch.record import Reason, Record

__all__ = ["Sibling", "companions", "decode"]

Sibling = Callable[[str], bytes]
"""Reads the file of that name beside the entry; raises RecordError where there is none."""

_SIGNAL_SUFFIXES = (".dat", ".xyz")
_XML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<[?!A-Za-z]|\xff\xfe<\x00|\xfe\xff\x00<|<\x00|\x00<")


def decode(raw: bytes, name: str, sibling: Sibling) -> Record:
    """The ECG in `raw`, the content of a file called `name`.

    Raises:
        RecordError: no known container, or a damaged one.
    """
    if not raw:
        raise RecordError(Reason.EMPTY, "0 bytes")
    if scp.is_scp(raw):  # first, for it begins with a CRC, which may be any two bytes: `<a`, say
        return scp.decode(raw)
    if _XML_START.match(raw):
        return _decode_xml(to_utf8(raw))
    if name.lower().endswith(".hea") and (header := wfdb_header.parse(raw)):
        return wfdb.decode(header, sibling)
    if raw.startswith((b"fLaC", b"\x1e\x00\x00\x00")) or name.lower().endswith(_SIGNAL_SUFFIXES):
        raise RecordError(Reason.ORPHAN_SIGNAL, "a signal file that no WFDB header names, expected a .hea beside it")
    raise RecordError(Reason.UNKNOWN_FORMAT, "no ECG container known by its content")


def companions(raw: bytes, name: str) -> Sequence[str]:
    """Names of the files beside `name` that belong to the same record."""
    header = wfdb_header.parse(raw) if name.lower().endswith(".hea") else None
    return wfdb_header.signal_files(header) if header else ()


def _decode_xml(text: bytes) -> Record:
    match root_name(text):
        case "RestingECG":
            return muse.decode(text)
        case root:
            detail = f"XML with root element {root[:40]!r}, expected 'RestingECG'"
            raise RecordError(Reason.UNKNOWN_FORMAT, detail)
