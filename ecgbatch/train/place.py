"""The folder that a bundle is written to: a new one or another bundle's, known before a training, never half full.

OUT/.NAME.partial   the bundle, until it is whole
OUT/.NAME.old       the one that it replaces, for the moment of the two renames
OUT/NAME            either of them
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecgbatch import files
from ecgbatch.bundle import is_bundle
from ecgbatch.errors import OutputError, UsageError

__all__ = ["filled", "require", "require_name", "require_writable"]


def require_name(name: str) -> None:
    """Nothing, where a folder in another one can be called so.

    Raises:
        UsageError: it cannot.
    """
    if name in ("", ".", "..") or {"/", "\\"} & {*name}:
        raise UsageError(f"name {name!r}, expected one that a folder can have; give another --name")


def require(folder: Path) -> None:
    """Nothing, where a bundle can be written to that folder: better known before hours are spent.

    Raises:
        OutputError: it is there and is no bundle, or the one that it lies in cannot be written.
    """
    _require_bundle(folder)
    require_writable(folder.parent, name=folder.name)


def require_writable(folder: Path, *, name: str = "probe") -> None:
    """Make a folder where there is none, and see that something of that name can be written in it.

    Raises:
        OutputError: it cannot.
    """
    files.made(folder)
    with files.writing(folder):
        Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder)).rmdir()


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A folder to write a bundle to, which takes its place at the end, and is removed where something goes wrong.

    A bundle that is there makes way; a kill leaves that one whole, or the new one. Of two that are written at once, the
    last one stays.

    Raises:
        OutputError: `folder` is there and is no bundle, or cannot be written.
    """
    require(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    with files.writing(folder), _in_turn(folder.parent):
        try:
            _remove(partial)
            partial.mkdir()
            yield partial
            files.sync_all(partial)
            _take_place(partial, folder)
        finally:
            _remove(partial)


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process writes a bundle in a folder, where the system can tell."""
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks no folder
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _require_bundle(folder: Path) -> None:
    if os.path.lexists(folder) and not is_bundle(folder):
        found = f"{folder}: is there and is no bundle, expected a new folder or a bundle to replace"
        raise OutputError(f"{found}; give another --name or --out")


def _take_place(partial: Path, folder: Path) -> None:
    _require_bundle(folder)  # once more: whoever made it since would lose it
    old = folder.with_name(f".{folder.name}.old")
    _remove(old)  # of a kill
    if os.path.lexists(folder):
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(folder)
        raise
    files.sync(folder.parent)
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one but not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
