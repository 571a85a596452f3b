"""Zip and tar archives: files in one file, each of them an entry of its own. Nothing is ever unpacked to disk."""

import gzip
import os
import tarfile
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Protocol, Self

from ecgbatch.errors import RecordError
from ecgbatch.files import require_handles
from ecgbatch.record import MAX_BYTES, Reason

__all__ = ["Container", "Members", "Tar", "Zip", "kind_of", "opened"]

_OPENING = Lock()
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_RATIO = 200
"""What gzip makes of ECG files is 3 to 40 times smaller; a stream beyond this, past `_FREE`, is a bomb."""
_FREE = 2**30
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # LZMA takes what memory a member asks for
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
_MAX_EXTENSION_BYTES = 2**20  # of what a tar says of the next member: its name, mostly
_CUT = (Reason.TRUNCATED, "a tar archive that ends early or is damaged")
_PASSED_BYTES = 256 * 2**20
"""Members that were passed on the way to another one, kept because whoever reads on is about to ask for them."""


class Container(Protocol):
    """An open archive. Members are told apart by their name, a repeated one with `#2`, `#3`, … behind it."""

    stamp: tuple[int, int]
    """Size and modification time in ns of the archive's file when it was opened."""

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """The regular files in it, in stored order; with the content of those that are wanted and can be read.

        Raises:
            RecordError: the archive ends early or is damaged; the members before that were given.
        """
        ...

    def read(self, member: str, missing: Reason) -> bytes:
        """The content of a member; any thread may ask.

        Raises:
            RecordError: `missing` where there is none of that name, or it is damaged, encrypted or too large.
        """
        ...


class Members:
    """The files of one entry in an archive: the same as `archive.Files` of a loose one."""

    __slots__ = ("_container", "_folder", "name")

    def __init__(self, path: str, member: str) -> None:
        folder, slash, self.name = member.rpartition("/")
        self._folder = folder + slash
        self._container = opened(path)

    def read(self, name: str, missing: Reason = Reason.UNREADABLE) -> bytes:
        """The bytes of the member of that name in the entry's folder, as `Container.read` gives them."""
        return self._container.read(self._folder + name, missing)

    def stamp(self, _: Sequence[str]) -> tuple[int, int]:
        """Size and modification of the archive as it was read."""
        return self._container.stamp


def kind_of(path: str) -> str | None:
    """`zip` or `tar` where a file's name and its first bytes both say so, else None."""
    if not path.lower().endswith(_SUFFIXES):
        return None
    try:
        if not Path(path).is_file():  # to open a pipe would wait for ever
            return None
        with Path(path).open("rb") as file:
            head = file.read(512)
    except OSError as err:
        require_handles(err)
        return None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" else None


def opened(path: str) -> Container:
    """The archive at `path` as it is now, kept open for the entries to come.

    Raises:
        RecordError: it cannot be opened, or is none.
    """
    try:
        status = Path(path).stat()
        with _OPENING:  # two threads that ask at once get the same one
            return _opened(path, status.st_size, status.st_mtime_ns)
    except OSError as err:
        require_handles(err)
        raise RecordError(Reason.UNREADABLE, err.strerror or "cannot be opened") from err
    except (zipfile.BadZipFile, ValueError, RuntimeError) as err:  # the last: of a zip version it cannot read
        raise RecordError(Reason.MALFORMED, "a zip archive whose list of members cannot be read") from err


@lru_cache(maxsize=4)
def _opened(path: str, n_bytes: int, modified_ns: int) -> Container:
    match kind_of(path):
        case "zip":
            return Zip(path, (n_bytes, modified_ns))
        case "tar":
            return Tar(path, (n_bytes, modified_ns))
    raise RecordError(Reason.UNKNOWN_FORMAT, "no archive any more")


class Zip:
    """A zip archive; its members are read in any order."""

    def __init__(self, path: str, stamp: tuple[int, int]) -> None:
        self.stamp = stamp
        self._zip = zipfile.ZipFile(path)
        files = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        self._members = dict(zip(_told_apart(info.filename for info in files), files, strict=True))

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for name in self._members:
            content = b""
            if wanted(name):
                with suppress(RecordError):  # it will be a reject with this reason when its turn comes
                    content = self.read(name, Reason.UNREADABLE)
            yield name, content

    def read(self, member: str, missing: Reason) -> bytes:
        info = self._members.get(member)
        if info is None:
            raise RecordError(missing, "no such member")
        if info.flag_bits & 1:
            raise RecordError(Reason.UNREADABLE, "an encrypted member")
        if info.compress_type not in _METHODS:
            raise RecordError(Reason.UNREADABLE, "a member compressed in a way that is not read")
        if info.file_size > MAX_BYTES:
            raise RecordError(Reason.TOO_LARGE, f"{info.file_size} bytes, expected at most {MAX_BYTES}")
        if info.header_offset + info.compress_size > self.stamp[0]:  # before memory is made for it
            raise RecordError(Reason.MALFORMED, f"a member of {info.compress_size} bytes, beyond the archive's end")
        try:
            with self._zip.open(info) as file:
                raw = file.read(MAX_BYTES + 1)
        except zipfile.BadZipFile as err:
            reason = Reason.CHECKSUM if "CRC" in str(err) else Reason.MALFORMED
            raise RecordError(reason, "a member that is not what the archive says of it") from err
        except (zlib.error, EOFError, OSError, RuntimeError, ValueError) as err:
            raise RecordError(Reason.CORRUPT_PAYLOAD, "a member that cannot be unpacked") from err
        if len(raw) != info.file_size:
            raise RecordError(Reason.TRUNCATED, f"a member of {len(raw)} bytes, expected {info.file_size}")
        return raw


class Tar:
    """A tar archive, compressed by gzip or not: a stream, read forwards.

    Entries are asked for in about the order in which they lie in it, so what is passed on the way is kept for a while;
    for one that was passed long ago the archive is read again from its start.
    """

    def __init__(self, path: str, stamp: tuple[int, int]) -> None:
        self.stamp = stamp
        self._path = path
        self._lock = Lock()
        self._stream = self._from_start()
        self._passed: OrderedDict[str, bytes | RecordError] = OrderedDict()
        self._passed_bytes = 0
        self._names: set[str] | None = None
        """Of all members that can be had, once the archive has been read as far as that goes."""
        self._is_cut = False
        """Whether that was not to its end."""

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        for name, content in self._from_start(wanted):
            yield name, content if isinstance(content, bytes) else b""

    def read(self, member: str, missing: Reason) -> bytes:
        with self._lock:
            if self._names is not None and member not in self._names:
                raise RecordError(*(_CUT if self._is_cut else (missing, "no such member")))
            found = self._passed.get(member)
            if found is None:
                found = self._advanced_to(member, missing)
                if _is_shared(member):
                    self._keep(member, found)
            elif not _is_shared(member):
                self._drop(member)
        if isinstance(found, RecordError):
            raise RecordError(found.reason, found.detail)
        return found

    def _advanced_to(self, member: str, missing: Reason) -> bytes | RecordError:
        """The member's content, from here on or else from the start."""
        for stream in (self._stream, self._from_start()):
            self._stream = stream
            try:
                for name, content in stream:
                    if name == member:
                        return content
                    self._keep(name, content)
            except RecordError as defect:
                last = defect
            else:
                last = RecordError(missing, "no such member")
        return last

    def _keep(self, name: str, content: bytes | RecordError) -> None:
        self._drop(name)
        self._passed[name] = content
        self._passed_bytes += _n_bytes(content)
        while self._passed_bytes > _PASSED_BYTES:
            self._drop(next(iter(self._passed)))

    def _drop(self, name: str) -> None:
        self._passed_bytes -= _n_bytes(self._passed.pop(name, b""))

    def _from_start(self, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, bytes | RecordError]]:
        """Each regular file's name, and its content or why there is none."""
        names: set[str] = set()
        try:
            with Path(self._path).open("rb") as file, _plain(file) as plain, _tar(plain) as tar:
                seen: Counter[str] = Counter()
                for info in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep the headers of all
                    if info.isdir():
                        continue
                    name = _numbered(info.name, seen)
                    content = _content(tar, info) if wanted(name) else b""
                    names.add(name)
                    yield name, content
            self._names, self._is_cut = names, False
        except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, RecursionError) as err:
            # tarfile recurses over long names that follow one another
            self._names, self._is_cut = names, True
            raise RecordError(*_CUT) from err
        except OSError as err:  # of the disk: what it says now it may not say again
            require_handles(err)
            raise RecordError(Reason.UNREADABLE, err.strerror or "cannot be read") from err


def _n_bytes(content: bytes | RecordError) -> int:
    return len(content) if isinstance(content, bytes) else 0


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | RecordError:
    if not info.isreg() or info.issparse():
        return RecordError(Reason.UNREADABLE, "a link or special file in an archive, expected the file itself")
    if info.size > MAX_BYTES:
        return RecordError(Reason.TOO_LARGE, f"{info.size} bytes, expected at most {MAX_BYTES}")
    file = tar.extractfile(info)
    assert file is not None  # of a regular file there is one
    raw = file.read()
    if len(raw) != info.size:
        raise tarfile.ReadError("a member ends early")
    return raw


class _Header(tarfile.TarInfo):
    """A header; tarfile itself takes a damaged one for the end of the archive, and reads names of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros that ends a tar
            raise
        except tarfile.HeaderError as err:
            raise tarfile.ReadError("no header where one must be") from err
        if info.type in _EXTENSIONS and info.size > _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"{info.size} bytes of a name")
        return info


class _Bounded:
    """A stream that refuses to be a bomb: neither a single huge read, nor far more bytes out than in."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, n_packed: int) -> None:
        self._stream = stream
        self._left = max(_FREE, n_packed * _RATIO)

    def read(self, n: int) -> bytes:
        if n > MAX_BYTES:
            raise tarfile.ReadError(f"{n} bytes at once")
        raw = self._stream.read(n)
        self._left -= len(raw)
        if self._left < 0:
            raise tarfile.ReadError("a stream that unpacks without end")
        return raw

    def __enter__(self) -> "_Bounded":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _plain(file: BinaryIO) -> _Bounded:
    """The tar stream in a file, whether gzip packed it or not."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return _Bounded(gzip.GzipFile(fileobj=file) if is_packed else file, os.fstat(file.fileno()).st_size)


def _tar(plain: _Bounded) -> tarfile.TarFile:
    return tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header)  # type: ignore[call-overload]  # it only reads


def _told_apart(names: Iterable[str]) -> list[str]:
    seen: Counter[str] = Counter()
    return [_numbered(name, seen) for name in names]


def _numbered(name: str, seen: Counter[str]) -> str:
    """The name as a plan has it, and where it is taken already, with the first free number behind it."""
    name = plain = os.fsencode(name).decode("utf-8", "backslashreplace")
    while name in seen:
        seen[plain] += 1
        name = f"{plain}#{seen[plain]}"
    seen[name] = 1
    return name


def _is_shared(member: str) -> bool:
    """Whether many entries of an archive ask for it."""
    return member.rpartition("/")[2] == "layout.toml"
