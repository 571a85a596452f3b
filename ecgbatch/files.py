"""Files: written whole or not at all, and known by their hash."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecgbatch.errors import FeedError, OutputError

__all__ = [
    "beside",
    "cause",
    "made",
    "partial_of",
    "replaced",
    "require_handles",
    "sha256",
    "sync",
    "sync_all",
    "writing",
]

_SPENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_WRITERS = ("polars", "pyarrow", "safetensors")
"""Libraries that tell of a full disk by errors of their own; not all of them are installed, so none is imported."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` at the end, and is removed where something goes wrong.

    On the disk itself: a kill or a power failure leaves the file that was there, if any, or the new one.
    """
    partial = partial_of(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        with suppress(OSError):  # as a rule: it has taken its place
            partial.unlink()


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder to fill, for the caller to sync and rename to `folder`; removed at the end if it still is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)  # others may use it too
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_of(path: Path) -> Path:
    """The name of a file until it is whole."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def writing(path: Path, *, advice: str = "") -> Iterator[None]:
    """Have what goes wrong while a file or folder is written be one line, which may end with what to do.

    Raises:
        OutputError: the disk is full or not writable.
    """
    try:
        yield
    except Exception as err:
        if not isinstance(err, OSError) and type(err).__module__.partition(".")[0] not in _WRITERS:
            raise
        raise OutputError(f"{path}: cannot be written: {cause(err)}{advice}") from err


def made(folder: Path) -> None:
    """Make a folder where there is none.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{folder}: cannot be made: {cause(err)}") from err


def cause(err: Exception) -> str:
    """The system's own words where it has some; Polars and safetensors wrap them into text."""
    if found := re.search(r"\(os error (\d+)\)", str(err)):
        return os.strerror(int(found[1]))
    return (isinstance(err, OSError) and err.strerror) or (str(err).splitlines() or [type(err).__name__])[0]


def require_handles(err: Exception) -> None:
    """Nothing, for what goes wrong with one file, and not with all that would be opened now.

    Raises:
        FeedError: the system has no more files or memory; this file may be good.
    """
    if isinstance(err, OSError) and err.errno in _SPENT:
        raise FeedError(f"no more files can be opened: {os.strerror(err.errno)}; take fewer --workers") from err


def sync(path: Path) -> None:
    """Have a file or folder on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Have a folder and the files in it on the disk itself."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sha256(path: Path) -> str:
    """Of what a file holds, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
