"""What lies at a path that `ecgbatch inspect` is asked about."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ecgbatch import archive, container, formats
from ecgbatch.archive import Entry
from ecgbatch.bundle import SHIPPED, ended_in, is_bundle
from ecgbatch.errors import ArchiveError, RecordError
from ecgbatch.feed import batch
from ecgbatch.formats import pack
from ecgbatch.record import Reason, Record, Reject

__all__ = ["kind_of", "record_of"]


def kind_of(path: Path) -> Literal["bundle", "pack", "record", "run"]:
    """What there is to inspect at `path`: any file may be a record.

    So is a file in a container, called `container#member` as `source_path` in the scores calls it.

    Raises:
        ArchiveError: nothing is there, nor is it the name of a shipped bundle; or a folder of something else.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if _member(path):
            return "record"
        if len(path.parts) == 1 and is_bundle(SHIPPED / path):
            return "bundle"
        missing = "a link to a file that is not there" if os.path.islink(path) else "no such file or folder"
        raise ArchiveError(f"{path}: {missing}") from None
    except OSError:
        return "record"  # what may not be looked at cannot be read either: reading it says why
    return _folder_kind(path) if os.path.isdir(path) else "record"


def _folder_kind(folder: Path) -> Literal["bundle", "pack", "run"]:
    if is_bundle(folder) or ended_in(folder):
        return "bundle"
    if pack.is_pack(folder):
        return "pack"
    if not any(os.path.exists(folder / name) for name in ("run.json", "pack.json", pack.PLAN)):
        raise ArchiveError(f"{folder}: a folder, but no run, pack or bundle; expected one of these, or an ECG file")
    return "run"


def record_of(path: Path) -> Record:
    """The ECG in a file.

    Raises:
        RecordError: there is none that can be decoded.
    """
    if found := _member(path):
        outer, member = found
        entry = Entry(path.name, os.path.abspath(outer), *archive.stamp(outer, ()), member)
    elif names := _records_in(path):
        detail = f"a container of {len(names)} records, expected one of them, such as {path}#{names[0]}"
        raise RecordError(Reason.UNKNOWN_FORMAT, detail)
    else:
        belongings = formats.companions(archive.read(str(path)), path.name)
        entry = Entry(path.name, os.path.abspath(path), *archive.stamp(str(path), belongings))
    outcome = batch.read(entry)
    if isinstance(outcome, Reject):
        raise RecordError(outcome.reason, outcome.detail)
    return outcome


def _records_in(path: Path) -> Sequence[str]:
    """What the records in a container are told apart by; of any other file nothing."""
    if container.kind_of(str(path)):
        entries = archive.scan([path], companions=formats.companions, skip=path)
        return [entry.member for entry in entries if entry.member is not None]
    many = formats.records(os.path.abspath(path))
    return many.members() if many else ()


def _member(path: Path) -> tuple[str, str] | None:
    """The container and the member that a path names, if it names one: of a pack, the part that has the member."""
    text = str(path)
    marks = (at for at, letter in enumerate(text) if letter == "#" and os.path.exists(text[:at]))
    at = None if os.path.exists(path) else next(marks, None)
    if at is None:
        return None
    outer, member = text[:at], text[at + 1 :]
    if not os.path.isdir(outer):
        return outer, member
    parts_there = [os.path.join(outer, name) for name in pack.parts_of(outer) or ()]
    return next(((part, member) for part in parts_there if member in _members(part)), None)


def _members(part: str) -> Sequence[str]:
    try:
        opened = formats.records(part)
    except RecordError:
        return ()
    return opened.members() if opened else ()
