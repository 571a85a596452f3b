"""The cache of engines: each in a folder of its own, whole or not at all, trusted only where all its facts still hold.

    CACHE/<model>-<precision>-<device>-…-<key>/engine.json  files, facts, what was measured, and a sha256 of it all
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
from time import sleep, time
from typing import Any

from ecgbatch.errors import EngineError
from ecgbatch.files import beside, sha256, sync, sync_all
from ecgbatch.parity import Parity, require

__all__ = ["Kept", "Profile", "folder", "keep", "kept", "key", "require_writable"]

_IDENTITY = ("model", "precision", "device")
"""The facts that say what an engine is of; the others say for what and by what it was built."""
_TOLD_APART_BY = ("graph", "labels")
"""And, where there are such, the graph that the bundle ships and its labels, calibration among them: two bundles of one
network that differ in these have an engine each."""
_FACTS = "engine.json"
_ABANDONED_S = 86400.0
_LOOKS = 5
"""How often one looks for an engine that another process may be replacing, and how long one waits in between."""
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How an engine runs fastest on this machine, as `build` has measured it."""

    batch: int
    n_streams: int
    ecg_per_s: float
    ecg_per_s_fp32: float
    """Of the engine in fp32, in the same minute."""
    n_cores: int
    """How many it was measured on; on others the engine is the same, and its batch and streams may not be the best."""

    def __post_init__(self) -> None:
        numbers = (self.batch, self.n_streams, self.n_cores)
        if not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ValueError(f"batch, streams and cores {numbers}, expected whole numbers from 1 up")
        if not all(isinstance(rate, int | float) and rate > 0 for rate in (self.ecg_per_s, self.ecg_per_s_fp32)):
            raise ValueError(f"{self.ecg_per_s} and {self.ecg_per_s_fp32} ECG/s, expected rates above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An engine in the cache whose facts and files have been checked."""

    folder: Path
    facts: Mapping[str, str]
    files: Mapping[str, str]
    """sha256 by name."""
    told: Mapping[str, Any]
    """What its builder has measured: parity, profile, rates."""
    parity: Parity
    profile: Profile | None
    """None on a GPU, whose engines hold theirs."""

    def path(self, name: str) -> Path:
        """Where a file of it lies."""
        return self.folder / name


def folder() -> Path:
    """`$ECGBATCH_CACHE`, or the platform's place for caches.

    Raises:
        EngineError: the variable names something that is no folder, or there is no such place.
    """
    named = os.environ.get("ECGBATCH_CACHE")
    try:
        place = _of_platform() / "ecgbatch" if named is None else Path(named).absolute()
        if named == "" or (place.exists() and not place.is_dir()):
            raise EngineError(f"ECGBATCH_CACHE {named!r}: no folder, expected one, or none yet")
    except RuntimeError as err:  # of Path.home
        raise EngineError(f"engine cache: {err}, expected a home folder; set ECGBATCH_CACHE to a folder") from err
    except OSError as err:
        raise _unreadable(place, err) from err
    return place


def _unreadable(place: Path, err: OSError) -> EngineError:
    return EngineError(f"engine cache {place}: cannot be read: {err.strerror}; set ECGBATCH_CACHE to another folder")


def require_writable() -> None:
    """Nothing, where an engine can be kept: better known before minutes are spent.

    Raises:
        EngineError: the cache cannot be written.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".probe.", dir=place)).rmdir()
    except OSError as err:
        raise _unwritable(place, err) from err


def _unwritable(place: Path, err: OSError) -> EngineError:
    return EngineError(f"engine cache {place}: cannot be written: {err.strerror}; set ECGBATCH_CACHE to another folder")


def key(facts: Mapping[str, Any]) -> str:
    """Sha256 that changes with any fact."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def keep(facts: Mapping[str, str], write: Callable[[Path], object], told: Mapping[str, Any]) -> Kept:
    """The engine whose files `write` puts into the folder it is given; another one of the same facts is replaced.

    `told` holds the `parity` of the engine and, of one on a CPU, its `profile`, as mappings; and what else there is.

    Nobody ever sees half of it: it is written beside its place, synced, and renamed. Of two that are built at once the
    last one stays.

    Raises:
        EngineError: the cache cannot be written.
    """
    place = folder() / _name(facts)
    try:
        _sweep_out(place)
        with beside(place) as partial:
            write(partial)
            files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
            content = {"facts": dict(facts), "files": files, "told": dict(told)}
            text = json.dumps({**content, "sha256": key(content)}, indent=2)
            (partial / _FACTS).write_text(f"{text}\n", "utf-8")
            sync_all(partial)
            _take_place(partial, place)
    except OSError as err:
        raise _unwritable(place.parent, err) from err
    return _kept(place, json.loads(text))


def kept(facts: Mapping[str, str], *, name: str = "MODEL") -> Kept | None:
    """The engine of these facts, None where there is none of this model, precision and device.

    `name` is what the command line calls the model, for the remedy.

    Raises:
        EngineError: there is one, but it was built for or by something else, is not as it was written, or is not within
            its limits.
    """
    for look in range(_LOOKS):
        is_last = look == _LOOKS - 1
        try:
            found = _looked(facts, name)
        except EngineError:
            if is_last:
                raise
        else:
            if found is not None or is_last or not _is_replaced(facts):
                return found
        sleep(_PAUSE_S)
    raise AssertionError("the last look returns or raises")


def _looked(facts: Mapping[str, str], name: str) -> Kept | None:
    place = folder() / _name(facts)
    if os.path.lexists(place):
        return _checked(place, facts, name)
    others = [each for each in _listed() if each.startswith(f"{_prefix(facts)}-")]
    if others:
        _checked(place.with_name(max(others)), facts, name)  # names what differs
    return None


def _is_replaced(facts: Mapping[str, str]) -> bool:
    """Whether another process is replacing the engine of these facts, has just done so, or was killed meanwhile."""
    name = _name(facts)
    return any(each.startswith(_aside(name)) for each in _listed()) or os.path.lexists(folder() / name)


def _listed() -> list[str]:
    try:
        return [path.name for path in folder().iterdir()]
    except FileNotFoundError:
        return []
    except OSError as err:
        raise _unreadable(folder(), err) from err


def _checked(place: Path, facts: Mapping[str, str], name: str) -> Kept:
    where, again = f"engine {place.name}", _remedy(place, facts, name)
    try:
        content = json.loads((place / _FACTS).read_text("utf-8"))
        whole, found, files = content.pop("sha256"), content["facts"], content["files"]
        differing = sorted(fact for fact in {*facts, *found} if facts.get(fact) != found.get(fact))
        if differing:
            fact = differing[0]
            if None in (facts.get(fact), found.get(fact)):
                raise EngineError(f"{where}: built by another version of ecgbatch; {again}")
            raise EngineError(f"{where}: built with {fact} {found.get(fact)}, expected {facts.get(fact)}; {again}")
        wrong = [_FACTS] if key(content) != whole else []
        wrong += [each for each, digest in files.items() if sha256(place / each) != digest]
        wrong += sorted({path.name for path in place.iterdir()} - {*files, _FACTS})
        if wrong:
            raise EngineError(f"{where}: {wrong[0]} is not the file that was built, expected it unaltered; {again}")
        kept = _kept(place, content)
        require(kept.parity, facts["precision"], where=where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise EngineError(f"{where}: cannot be read ({err}), expected a whole engine; {again}") from err
    return kept


def _kept(place: Path, content: Mapping[str, Any]) -> Kept:
    told = content["told"]
    parity, profile = told["parity"], told.get("profile")
    return Kept(
        folder=place,
        facts=content["facts"],
        files=content["files"],
        told=told,
        parity=Parity(**parity),
        profile=None if profile is None else Profile(**profile),
    )


def _remedy(place: Path, facts: Mapping[str, str], name: str) -> str:
    of_int8 = " [--calibrate SOURCE]" if facts["precision"] == "int8" else ""
    command = f"ecgbatch build {name} --device {facts['device']} --precision {facts['precision']}{of_int8}"
    return f"build it again with `{command}`, or delete {place}"


def _take_place(partial: Path, place: Path) -> None:
    """Rename a folder over another: a reader finds the old, none for a moment, or the new one, never a mixture."""
    aside: list[Path] = []
    try:
        while True:
            try:
                partial.rename(place)
            except OSError as err:
                if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    for old in aside[-1:]:
                        old.rename(place)
                    raise
                aside.append(Path(tempfile.mkdtemp(prefix=_aside(place.name), dir=place.parent)))
                with suppress(FileNotFoundError):  # the other builder was faster
                    place.rename(aside[-1])  # onto an empty folder
            else:
                sync(place.parent)
                return
    finally:
        for old in aside:
            shutil.rmtree(old, ignore_errors=True)


def _aside(name: str) -> str:
    """What the name begins with of an engine that makes way for another one."""
    return f".{name}.old."


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
    others = "".join(f"-{facts[name][:8]}" for name in _TOLD_APART_BY if name in facts)
    return f"{model[:16]}-{precision}-{device.replace(':', '')}{others}"


def _of_platform() -> Path:
    match sys.platform:
        case "win32":
            return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        case "darwin":
            return Path.home() / "Library" / "Caches"
        case _:
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
