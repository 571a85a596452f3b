"""Object stores and other places behind a URL: `s3://`, `gs://` and `hdfs://` by Arrow, any other by fsspec."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from time import sleep
from typing import TypeVar

from pyarrow import ArrowException, fs

from ecgbatch.errors import ArchiveError, MissingExtraError, RecordError
from ecgbatch.files import require_handles
from ecgbatch.record import MAX_BYTES, Reason

__all__ = ["POOL", "Remote", "RemoteFiles", "Stamp", "is_url", "reached", "require_plain"]

T = TypeVar("T")

Stamp = tuple[int, int]
"""Size, and modification in ns since 1970 (0 where the place does not say)."""

POOL = ThreadPoolExecutor(32, thread_name_prefix="remote")
"""Requests that are under way at once: a store answers each in tens of milliseconds, and many in parallel."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_PLACE = re.compile(_URL.pattern + "[^/]*")
_SECRET = re.compile(_URL.pattern + r"[^/:[]*:(?!\d*(?:/|$))[^@]*@")
"""A user and a password or key, in which there may be a slash; not a host and its port, with an `@` in what follows."""
_TOKEN = re.compile(r"(?:https?|ftp)://[^/@]+@")
"""A token alone, where it can be nothing else; elsewhere it is a container, an account or a user."""
_ARROW = ("s3", "gs", "gcs", "hdfs")
_PAUSES_S = (0.25, 0.5, 1.0)
"""Between attempts at what failed; the stores' own clients try again too."""


def is_url(path: str) -> bool:
    """Whether a source or an entry's path is a URL."""
    return path[:1] != "/" and _URL.match(path) is not None


class Remote:
    """A bucket, host or the like; what it holds is called by its URL, and that may have any character in it."""

    def __init__(self, base: str) -> None:
        """Reach the place at `base`, a URL up to where its path begins.

        Raises:
            ArchiveError: no such place is known.
            MissingExtraError: it needs fsspec.
        """
        self._base = base
        try:
            scheme = base.partition("://")[0]
            self._files, root = fs.FileSystem.from_uri(base) if scheme in _ARROW else _by_fsspec(base)
        except MissingExtraError:
            raise
        except Exception as err:  # a driver's own, of which there are many
            raise ArchiveError(f"{base}: no place that can be reached: {_line(err)}") from err
        self._root = root.rstrip("/")

    def stamp_of(self, source: str) -> Stamp | None:
        """Size and modification of a source that is a file, None for a folder.

        Raises:
            ArchiveError: there is nothing, or the place does not answer.
        """
        try:
            info = _again(lambda: self._files.get_file_info(self._path(source)))
        except OSError as err:
            raise ArchiveError(f"{source}: cannot be looked at: {_line(err)}") from err
        if info.type == fs.FileType.NotFound:
            raise ArchiveError(f"{source}: no such file or folder")
        return _stamp(info) if info.type == fs.FileType.File else None

    def stamp(self, url: str) -> Stamp | None:
        """Size and modification of a file, None where there is none.

        Raises:
            Exception: the place does not answer; see `_again`.
        """
        info = self._files.get_file_info(self._path(url))
        return _stamp(info) if info.type == fs.FileType.File else None

    def listed(self, folder: str) -> tuple[dict[str, Stamp | None], list[str]]:
        """Names and stamps of what is in a folder, None of what is no file, and names of the folders in it; in order.

        Objects with an empty name between two slashes, which no path reaches, are `/` together.

        Raises:
            ArchiveError: it cannot be listed.
        """
        path = self._path(folder)
        try:
            found = _again(lambda: self._files.get_file_info(fs.FileSelector(path)))
        except OSError as err:
            raise ArchiveError(f"{folder}: cannot be listed: {_line(err)}; nothing was scored") from err
        files: dict[str, Stamp | None] = {}
        folders: list[str] = []
        for info in sorted(found, key=lambda info: info.base_name):
            if info.type == fs.FileType.File:
                files[info.base_name] = _stamp(info)
            elif info.path.rstrip("/") == path:  # Arrow says of a folder that it holds itself where there are such
                files["/"] = None
            elif info.type == fs.FileType.Directory:
                folders.append(info.base_name)
            else:
                files[info.base_name] = None
        return files, folders

    def read(self, url: str, missing: Reason) -> tuple[bytes, Stamp]:
        """The bytes of a file, and its stamp once they were read.

        Raises:
            RecordError: `missing` where there is none, `unreadable` where it cannot be had, or `too-large`.
        """
        try:
            return _again(lambda: self._read(url))
        except FileNotFoundError:
            raise RecordError(missing, "no such file") from None
        except OSError as err:
            raise RecordError(Reason.UNREADABLE, f"not to be had: {_line(err)}") from err

    def _path(self, url: str) -> str:
        return (self._root + url.removeprefix(self._base)).rstrip("/") or "/"

    def _read(self, url: str) -> tuple[bytes, Stamp]:
        stamp = self.stamp(url)
        if stamp is None:
            raise FileNotFoundError(url)
        if stamp[0] > MAX_BYTES:
            raise RecordError(Reason.TOO_LARGE, f"{stamp[0]} bytes, expected at most {MAX_BYTES}")
        with self._files.open_input_stream(self._path(url)) as stream:
            raw = stream.read(MAX_BYTES)
        if len(raw) != stamp[0]:
            raise OSError(f"{len(raw)} of {stamp[0]} bytes")
        return raw, stamp


class RemoteFiles:
    """The files of one entry behind a URL: the same as `archive.Files` of one on a disk."""

    __slots__ = ("_away", "_folder", "_remote", "_seen", "name")

    def __init__(self, url: str) -> None:
        folder, slash, self.name = url.rpartition("/")
        self._remote = reached(url)
        self._folder = folder + slash
        self._seen: dict[str, Stamp] = {}
        self._away: RecordError | None = None
        """What the place said instead of an answer."""

    def read(self, name: str, missing: Reason = Reason.UNREADABLE) -> bytes:
        """The bytes of the file of that name, as `Remote.read` gives them."""
        try:
            raw, self._seen[name] = self._remote.read(self._folder + name, missing)
        except RecordError as defect:
            self._away = defect if defect.__cause__ else None
            raise
        return raw

    def stamp(self, belongings: Sequence[str]) -> tuple[int | None, int | None]:
        """Total size and latest modification of the entry's file and `belongings`, as they were read.

        Raises:
            RecordError: `unreadable`, for the place does not answer.
        """
        stamps = [self._seen.get(name) or self._stamped(name) for name in (self.name, *belongings)]
        if stamps[0] is None:
            return None, None
        there = [stamp for stamp in stamps if stamp]
        return sum(n_bytes for n_bytes, _ in there), max(modified_ns for _, modified_ns in there)

    def _stamped(self, name: str) -> Stamp | None:
        if self._away:
            raise self._away
        try:
            return _again(lambda: self._remote.stamp(self._folder + name))
        except OSError as err:
            raise RecordError(Reason.UNREADABLE, f"the place does not answer: {_line(err)}") from err


def require_plain(source: str) -> None:
    """Nothing, for a URL that can be shown and kept.

    Raises:
        ArchiveError: it holds credentials or options.
    """
    if _SECRET.match(source) or _TOKEN.match(source) or "?" in source:
        scheme = source.partition("://")[0]
        raise ArchiveError(f"{scheme}://…: credentials or options in the URL, expected them in the environment")


def reached(url: str) -> Remote:
    """The place of a URL, which is kept for others of the same host or bucket.

    Raises:
        ArchiveError: no such place is known.
        MissingExtraError: it needs fsspec.
    """
    found = _PLACE.match(url)
    assert found  # of what `is_url` says so
    return _reached(found[0])


@lru_cache(maxsize=64)
def _reached(base: str) -> Remote:
    return Remote(base)


def _by_fsspec(base: str) -> tuple[fs.FileSystem, str]:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise MissingExtraError(f"{base.partition('://')[0]}://", "remote") from None
    files, root = fsspec.core.url_to_fs(f"{base}/")  # what `file://` alone names is the current folder
    return fs.PyFileSystem(fs.FSSpecHandler(files)), root


def _stamp(info: fs.FileInfo) -> Stamp:
    return info.size or 0, info.mtime_ns or 0


def _again(attempt: Callable[[], T]) -> T:
    """What the attempt gives, made again after a while where the place did not answer.

    Raises:
        OSError: it does not; whatever a driver raises becomes one, for each has errors of its own.
    """
    pauses = iter(_PAUSES_S)
    while True:
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, RecordError):
            raise
        except Exception as err:
            require_handles(err)
            pause_s = next(pauses, None)
            if pause_s is None:
                raise OSError(_line(err)) from err
            sleep(pause_s)


def _line(err: Exception) -> str:
    """Its first line, behind the name of its class where that alone says what kind of error it is."""
    said = (str(err).splitlines() or [""])[0][:200]
    kind = "" if said and isinstance(err, OSError | ArrowException) else type(err).__name__
    return ": ".join(filter(None, (kind, said)))
