"""The beginning of a run: its folder and its plan, new or gone on with."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import Any

from ecgbatch import archive, formats
from ecgbatch.archive import Entry
from ecgbatch.errors import ArchiveError, OutputError
from ecgbatch.plan import Plan
from ecgbatch.remote import is_url, require_plain
from ecgbatch.tally import spaced

__all__ = ["named", "planned", "recorded", "require_sources", "spare_foreign"]

_TOLD_EVERY_S = 10.0


def named(sources: Sequence[Path | str]) -> list[str]:
    """The sources as a plan's settings name them: the same ones wherever the command is called."""
    return [str(source) if is_url(str(source)) else os.path.abspath(source) for source in sources]


def require_sources(sources: Sequence[Path | str]) -> None:
    """Nothing, for sources that are there, or are URLs that can be shown and kept.

    Raises:
        ArchiveError: one is not.
    """
    for source in sources:
        if is_url(str(source)):
            require_plain(str(source))
        elif not os.path.exists(source):
            raise ArchiveError(f"{source}: no such file or folder")


def spare_foreign(folder: Path) -> None:
    """Leave alone a folder that is neither a run nor empty.

    Raises:
        OutputError: it holds something else, or cannot be looked into.
    """
    try:
        found = set(os.listdir(folder)) if os.path.lexists(folder) else set()
    except OSError as err:
        raise OutputError(f"{folder}: cannot be a run folder: {err.strerror}") from err
    if "plan.parquet" not in found and (foreign := found - {".lock", "plan.parquet.partial"}):
        raise OutputError(f"{folder}: holds {min(foreign)!r} and no plan, expected a new folder or a run of ecgbatch")


def recorded(folder: Path, setting: str) -> list[str]:
    """What the run in `folder` was begun with, one of each network; none where there is no run, or it tells nothing.

    Raises:
        OutputError: its plan cannot be read.
    """
    path = folder / "plan.parquet"
    told = Plan.open(path).settings.get(setting) if path.exists() else None
    return str(told).split(", ") if told else []


def planned(
    folder: Path,
    sources: Sequence[Path | str],
    settings: Mapping[str, Any],
    *,
    existed: bool,
    say: Callable[[str], None],
) -> Plan:
    """The plan in `folder` if it is of these settings, else a new one in an empty folder.

    Raises:
        OutputError: the folder holds another run.
        ArchiveError: the sources cannot be listed; a folder that is new is removed again.
    """
    path = folder / "plan.parquet"
    if path.exists():
        plan = Plan.open(path)
        _refuse_another(folder, plan.settings, settings)
        return plan
    try:
        entries = archive.scan(sources, companions=formats.companions, skip=folder)
        first = next(entries, None)
        if first is None:
            raise ArchiveError(f"{_plain(settings['source'])}: holds no file; nothing was planned")
        entries = _told(islice(chain([first], entries), settings["limit"]), say)
        return Plan.write(path, entries, shard_size=settings["shard_size"], settings=settings)
    except BaseException:
        if not existed:
            _unmake(folder)
        raise


def _unmake(folder: Path) -> None:
    """Remove a folder that was made for a run, with what was made in it; what others have put there since stays."""
    with suppress(OSError):  # on NFS, the lock that is held stays until it is let go
        for name in ("plan.parquet", ".lock"):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _told(entries: Iterable[Entry], say: Callable[[str], None]) -> Iterator[Entry]:
    """The same entries; where it takes long to find them, how many there are so far is said now and then."""
    told_at = monotonic()
    for n_found, entry in enumerate(entries):
        if (now := monotonic()) - told_at > _TOLD_EVERY_S:
            told_at = now
            say(f"listing: {spaced(n_found)} entries so far")
        yield entry


def _refuse_another(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    kind, expected = ("pack" if "pack" in of else "run" for of in (before, settings))
    if kind != expected:
        raise OutputError(f"{folder}: holds a {kind}, expected a new folder or a {expected}; use another --out")
    for name, value in before.items():
        if settings.get(name) != value:
            detail = f"{name.replace('_', '-')} {_plain(value)}, not {_plain(settings.get(name))}"
            on = _way_on(str(value), str(settings.get(name))) if name == "precision" else ""
            raise OutputError(f"{folder}: holds a {kind} with {detail}; {on}use another --out for another {kind}")


def _way_on(before: str, now: str) -> str:
    """What to do about another variant; one of int8 is the precision and what its graph's sha256 begins with."""
    asked = before.partition(" ")[0]
    if asked == now.partition(" ")[0]:
        return f"have the {asked} graph of then built again, or "
    return f"go on with --precision {asked}, or "


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
