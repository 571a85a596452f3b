"""The cache of engines: each in a folder of its own, whole or not at all, trusted only where all its facts still hold.

    CACHE/<model>-<precision>-<device>-<key>/engine.json    facts, files and their sha256, parity, profile
                                             model.onnx …   the files

The folder is named for the model that the engine is of, so that one that was built for another machine or by another
version of a library is found, and refused by name, instead of being passed over.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from ecgbatch.errors import EngineError
from ecgbatch.plan import sync

__all__ = ["Kept", "folder", "keep", "kept", "key"]

_IDENTITY = ("model", "precision", "device")
"""The facts that say what an engine is of; the others say for what and by what it was built."""
_FACTS = "engine.json"
_ABANDONED_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An engine in the cache whose facts and files have been checked."""

    folder: Path
    facts: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 by name."""
    told: Mapping[str, Any]
    """What its builder has measured: parity, profile, rates."""

    def path(self, name: str) -> Path:
        """Where a file of it lies."""
        return self.folder / name


def folder() -> Path:
    """`$ECGBATCH_CACHE`, or the platform's place for caches.

    Raises:
        EngineError: the variable names something that is no folder.
    """
    named = os.environ.get("ECGBATCH_CACHE")
    if named is None:
        return _of_platform() / "ecgbatch"
    place = Path(named)
    if not named or (place.exists() and not place.is_dir()):
        raise EngineError(f"ECGBATCH_CACHE {named!r}: no folder, expected one, or none yet")
    return place


def key(facts: Mapping[str, str]) -> str:
    """Sha256 that changes with any fact."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def keep(facts: Mapping[str, str], write: Callable[[Path], object], told: Mapping[str, Any]) -> Kept:
    """The engine whose files `write` puts into the folder it is given; another one of the same facts is replaced.

    Nobody ever sees half of it: it is written beside its place, synced, and renamed. Of two that are built at once the
    last one stays.

    Raises:
        EngineError: the cache cannot be written.
    """
    place = folder() / _name(facts)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep_out(place)
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            write(partial)
            files = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
            content = {"facts": dict(facts), "files": files, "told": dict(told)}
            (partial / _FACTS).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
            for path in (*partial.iterdir(), partial):
                sync(path)
            partial.chmod(0o755)
            _take_place(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as err:
        raise EngineError(f"engine cache {place.parent}: cannot be written: {err.strerror}") from err
    return Kept(folder=place, facts=dict(facts), files=files, told=dict(told))


def kept(facts: Mapping[str, str]) -> Kept | None:
    """The engine of these facts, None where there is none of this model, precision and device.

    Raises:
        EngineError: there is one, but it was built for or by something else, or is not as it was written.
    """
    place = folder() / _name(facts)
    if os.path.lexists(place):
        return _checked(place, facts)
    others = sorted(folder().glob(f"{_prefix(facts)}-*"))
    if others:
        _checked(others[-1], facts)  # names what differs
    return None


def _checked(place: Path, facts: Mapping[str, str]) -> Kept:
    where = f"engine {place.name}"
    again = "build it again with `ecgbatch build`"
    try:
        content = json.loads((place / _FACTS).read_text("utf-8"))
        found, files, told = content["facts"], content["files"], content["told"]
        differing = sorted(name for name in {*facts, *found} if facts.get(name) != found.get(name))
        if differing:
            name = differing[0]
            raise EngineError(f"{where}: built with {name} {found.get(name)}, expected {facts.get(name)}; {again}")
        wrong = [name for name, sha256 in files.items() if _sha256(place / name) != sha256]
        wrong += sorted({path.name for path in place.iterdir()} - {*files, _FACTS})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EngineError(f"{where}: cannot be read ({err}), expected a whole engine; {again}") from err
    if wrong:
        raise EngineError(f"{where}: {wrong[0]} is not the file that was built, expected it unaltered; {again}")
    return Kept(folder=place, facts=found, files=files, told=told)


def _take_place(partial: Path, place: Path) -> None:
    """Rename a folder over another: a reader finds the old, none for a moment, or the new one, never a mixture."""
    while True:
        try:
            partial.rename(place)
        except OSError as err:
            if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            old = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
            try:
                place.rename(old)  # onto an empty folder
            except FileNotFoundError:
                pass  # the other builder was faster
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            sync(place.parent)
            return


def _sweep_out(place: Path) -> None:
    """Remove what killed builders of this engine left; one that is a day old is nobody's any more."""
    for left in place.parent.glob(f".{place.name}.*"):
        with suppress(OSError):
            if time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left)


def _name(facts: Mapping[str, str]) -> str:
    return f"{_prefix(facts)}-{key(facts)[:16]}"


def _prefix(facts: Mapping[str, str]) -> str:
    model, precision, device = (facts[name] for name in _IDENTITY)
    return f"{model[:16]}-{precision}-{device.replace(':', '')}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_platform() -> Path:
    match sys.platform:
        case "win32":
            return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        case "darwin":
            return Path.home() / "Library" / "Caches"
        case _:
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
