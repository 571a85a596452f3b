"""Containers: the bytes of a file to a Record. One module a container; content decides which."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ecgbatch.errors import RecordError
from ecgbatch.files import require_handles
from ecgbatch.formats import (
    aecg,
    cardiosoft,
    csv,
    dicom,
    edf,
    ishne,
    layout,
    mat,
    mfer,
    mortara,
    muse,
    npy,
    pack,
    philips,
    schiller,
    scp,
    wfdb,
    wfdb_header,
)
from ecgbatch.formats.dicom_file import is_dicom
from ecgbatch.formats.xml import root_name, to_utf8
from ecgbatch.record import Reason, Record

__all__ = ["Records", "Sibling", "companions", "decode", "records"]

Sibling = Callable[[str], bytes]
"""Reads the file of that name beside the entry; raises RecordError where there is none."""

_ARRAY_SUFFIXES = (".npy", ".csv", ".mat")
_SIGNAL_SUFFIXES = (".dat", ".xyz")
_MAX_ROOT_BYTES = 256
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ARCHIVES, _GZIP = (b"PK\x03\x04", b"PK\x05\x06"), b"\x1f\x8b"
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z._:-]{,39}")  # others may be a person's, or a number of theirs
_MARK = rb"(?:\xef\xbb\xbf|\xc3\xaf\xc2\xbb\xc2\xbf|\?)*"  # of UTF-8, or what re-saving has made of it
_FILLING = b"\0\x1a"  # of a block's rest, as some archives leave it, and DOS's mark of the end
_XML_START = re.compile(rb"(%s)\s*<[?!A-Za-z]|\xff\xfe<\x00|\xfe\xff\x00<|<\x00|\x00<" % _MARK)


class Records(Protocol):
    """An open file of many records."""

    stamp: tuple[int, int]
    """Size and modification time in ns when it was opened."""
    has_checksums: bool
    """Whether each record has a checksum, so that none can be another one since."""

    def members(self) -> Sequence[str]:
        """What its records are told apart by, in stored order."""
        ...

    def record(self, member: str) -> Record:
        """One of them; any thread may ask.

        Raises:
            RecordError: it cannot be read.
        """
        ...


def records(path: str) -> Records | None:
    """The file at `path` where its name and content say that it holds many records, else None.

    Raises:
        RecordError: it cannot be opened, or not be read.
    """
    if path.endswith(".parquet"):
        return pack.opened(path)
    if not path.lower().endswith((".h5", ".hdf5")):
        return None
    try:
        if not Path(path).is_file():
            return None
        with Path(path).open("rb") as file:
            is_hdf5 = file.read(len(_HDF5)) == _HDF5
    except OSError as err:
        require_handles(err)
        raise RecordError(Reason.UNREADABLE, err.strerror or "cannot be opened") from err
    if not is_hdf5:
        return None
    from ecgbatch.formats import code15

    return code15.opened(path)


def decode(raw: bytes, name: str, sibling: Sibling) -> Record:  # noqa: PLR0911, PLR0912  # a line a container
    """The ECG in `raw`, the content of a file called `name`.

    Raises:
        RecordError: no known container, or a damaged one.
    """
    if not raw:
        raise RecordError(Reason.EMPTY, "0 bytes")
    if scp.is_scp(raw):  # first, for it begins with a CRC, which may be any two bytes: `<a`, say
        return scp.decode(raw)
    if start := _XML_START.match(raw):
        return _decode_xml(to_utf8(raw[start.end(1) :] if start[1] else raw).rstrip(_FILLING))
    if is_dicom(raw):
        return dicom.decode(raw)
    if ishne.starts(raw):
        return ishne.decode(raw)
    if edf.starts(raw):
        return edf.decode(raw)
    if mfer.starts(raw, name):
        return mfer.decode(raw)
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
    if raw.startswith(_HDF5):
        raise RecordError(Reason.UNKNOWN_FORMAT, "HDF5 that is not in CODE-15's layout, or not named .h5 or .hdf5")
    if raw.startswith(_GZIP):
        raise RecordError(
            Reason.MALFORMED, "gzip data, expected a whole tar archive called .tar.gz or .tgz; unpack others"
        )
    if raw.startswith(_ARCHIVES):
        raise RecordError(
            Reason.MALFORMED, "an archive that is empty, damaged, inside another one, or not named as one"
        )
    if mat.is_later(raw):
        raise RecordError(Reason.UNKNOWN_FORMAT, "MATLAB 7.3, which is not read; save it as version 7")
    if name.lower().endswith(".csv"):
        raise RecordError(Reason.UNKNOWN_FORMAT, "no table of numbers, nor one under a single line of names")
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
        case root if len(root) > _MAX_ROOT_BYTES:  # its prefix would become part of every path
            raise RecordError(Reason.UNKNOWN_FORMAT, f"XML with a root element of {len(root)} bytes, of no known ECG")
        case "RestingECG":
            return muse.decode(text)
        case "restingecgdata":
            return philips.decode(text)
        case "AnnotatedECG":
            return aecg.decode(text)
        case "CardiologyXML":
            return cardiosoft.decode(text)
        case root if root.endswith("SchillerEDI"):
            return schiller.decode(text, root)
        case "ECG":
            return mortara.decode(text)
        case root:
            said = f"root element {root!r}" if _PLAIN_NAME.fullmatch(root) else "a root element that is not quoted"
            raise RecordError(Reason.UNKNOWN_FORMAT, f"XML with {said}, of no known ECG")
