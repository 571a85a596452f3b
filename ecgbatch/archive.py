"""Archives: where the entries are, and their bytes."""

import codecs
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ecgbatch import _kernels, container, formats, manifest, remote
from ecgbatch.errors import ArchiveError, RecordError
from ecgbatch.files import cause, require_handles
from ecgbatch.formats import csv, pack, wfdb_header
from ecgbatch.record import MAX_BYTES, Reason

__all__ = ["Companions", "Entry", "Files", "read", "scan", "stamp"]

_ENCODING = sys.getfilesystemencoding()

_ALONE = (".hea", ".xml", ".dcm", ".scp", ".zip", ".tar", ".gz", ".tgz", ".h5", ".hdf5", ".parquet")
"""Entries by themselves, whatever header names them: no signal file of WFDB is called so."""
_CONTAINERS = (".edf", ".bdf", ".rec", ".ecg", ".mwf", ".mfer", ".npy", ".csv", ".mat")
"""Entries by themselves too, unless a header says where in them the samples begin, as the CinC challenges' do."""

_HEAD_BYTES = 2**16  # more than the names of any columns
_OFFSET = re.compile(r"[\dx:]+\+0*[1-9]")

Companions = Callable[[bytes, str], Sequence[str]]
"""Given a file's content and name: names of the files beside it that belong to the same record.

While a source is listed, only a `.hea` is read for it; any other file is asked about by its name, with no content.
"""


class _Header(NamedTuple):
    """What a `.hea` says of the files beside it."""

    belongings: Sequence[str]
    """Those that it names."""
    owned: Sequence[str]
    """Those of them that are no entries of their own."""


class Entry(NamedTuple):  # which is pickled faster than a dataclass
    """One ECG to score, as the plan knows it."""

    record_id: str
    path: str
    n_bytes: int | None
    """Of all files of the record; None where they cannot be looked at."""
    modified_ns: int | None
    """The latest modification of any of them."""
    member: str | None = None
    """Its name in the archive at `path`, whose size and modification the two above are; None for a loose file."""

    @property
    def source_path(self) -> str:
        """Where the ECG is, for a person."""
        return self.path if self.member is None else f"{self.path}#{self.member}"


def scan(sources: Sequence[Path | str], *, companions: Companions, skip: Path) -> Iterator[Entry]:
    """Every entry of folders, manifests, single files and URLs, in a fixed order; `skip` is a folder to leave out.

    Nothing is left out in silence: a file that is no ECG is an entry too, and will be a reject.

    Raises:
        ArchiveError: a source is missing, a folder cannot be listed, a manifest makes no sense.
    """
    for index, source in enumerate(sources):
        prefix = f"{index}/" if len(sources) > 1 else ""
        entries = _behind if remote.is_url(str(source)) else partial(_near, skip=skip)
        try:
            for entry in entries(str(source), companions):
                yield entry._replace(record_id=prefix + entry.record_id) if prefix else entry
        except (OSError, pa.ArrowException, RecordError) as err:  # of a disk or a place that fails meanwhile
            raise ArchiveError(f"{source}: cannot be listed: {cause(err)}; nothing was scored") from err


class Files:
    """The files of one entry: reads them, and remembers the size and time of each as it was read."""

    __slots__ = ("_folder", "_seen", "name")

    def __init__(self, path: str) -> None:
        folder, slash, self.name = path.rpartition("/")
        self._folder = folder + slash
        self._seen: dict[str, tuple[int, int]] = {}

    def read(self, name: str, missing: Reason = Reason.UNREADABLE) -> bytes:
        """The bytes of the file of that name, as `read` gives them."""
        raw, self._seen[name] = _read(self._folder + name, missing)
        return raw

    def stamp(self, belongings: Sequence[str]) -> tuple[int | None, int | None]:
        """Total size and latest modification of the entry's file and `belongings`, as they were read.

        Those that were not read are looked at now; (None, None) where the entry's own file is not to be had.
        """
        own = self._seen.get(self.name) or _stamped(self._folder + self.name)
        if own is None:
            return None, None
        n_bytes, modified_ns = own
        for name in belongings:
            if other := self._seen.get(name) or _stamped(self._folder + name):
                n_bytes += other[0]
                modified_ns = max(modified_ns, other[1])
        return n_bytes, modified_ns


def read(path: str, missing: Reason = Reason.UNREADABLE) -> bytes:
    """The bytes of a regular file.

    Raises:
        RecordError: `missing` where there is no such file, `unreadable`, or `too-large`.
    """
    return _read(path, missing)[0]


def stamp(path: str, belongings: Sequence[str]) -> tuple[int | None, int | None]:
    """`Files.stamp` of files that were not read."""
    return Files(path).stamp(belongings)


def _read(path: str, missing: Reason) -> tuple[bytes, tuple[int, int]]:
    """The bytes of a regular file, and its size and modification once they were read."""
    try:
        name = path.encode(_ENCODING, "surrogateescape")  # os.fsencode without its checks: this is a hot path
    except UnicodeEncodeError:
        raise RecordError(missing, "no file can have this name here") from None
    if b"\0" in name:
        raise RecordError(missing, "no file can have this name")
    error, raw, n_bytes, modified_ns = _kernels.read_file(name, MAX_BYTES)
    if raw is not None:
        return raw, (n_bytes, modified_ns)
    if error == errno.ENOENT:
        raise RecordError(missing, "no such file")
    if error:
        require_handles(OSError(error, path))
        raise RecordError(Reason.UNREADABLE, os.strerror(error))
    if n_bytes < 0:
        raise RecordError(Reason.UNREADABLE, "not a regular file")
    raise RecordError(Reason.TOO_LARGE, f"{n_bytes} bytes, expected at most {MAX_BYTES}")


def _stamped(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _near(source: str, companions: Companions, *, skip: Path) -> Iterator[Entry]:
    """The entries of a source on a disk, those in files that hold many among them."""
    for record_id, path, belongings in _told_apart(_listed(Path(source), companions, skip)):
        if container.kind_of(path):
            yield from _members(record_id, path, companions)
        elif many := _many(path):
            names = many.members()
            yield from (Entry(f"{record_id}#{name}", path, *many.stamp, name) for name in names)
            if not names and not isinstance(many, pack.Part):  # of a pack, what was no ECG has its row there
                yield Entry(record_id, path, *many.stamp)
        else:
            yield Entry(record_id, path, *stamp(path, belongings))


def _told_apart(
    listed: Iterator[tuple[str, str, Sequence[str]]],
) -> Iterator[tuple[str, str, Sequence[str]]]:
    """The same; a file called as a member of a container beside it is, such as `a.zip#b.xml`, has `./` in its id."""
    for record_id, path, belongings in listed:
        ends = [at for at, letter in enumerate(path) if letter == "#"] if "#" in path else ()
        if any(container.kind_of(path[:end]) or _many(path[:end]) for end in ends):
            yield f"/.{record_id}" if record_id.startswith("/") else f"./{record_id}", path, belongings
        else:
            yield record_id, path, belongings


def _listed(source: Path, companions: Companions, skip: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(record_id, path, names of the other files of the record) of one source."""
    if os.path.isdir(source):
        yield from _walk(source, companions, skip)
    elif not os.path.exists(source):
        raise ArchiveError(f"{source}: no such file or folder")
    elif _is_manifest(source):
        for record_id, path in manifest.listed(source):
            yield record_id, path, _belongings(Files(path), companions)
    else:
        yield source.name, os.path.abspath(source), _belongings(Files(str(source)), companions)


def _walk(root: Path, companions: Companions, skip: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Depth first, names in order; a folder reached twice, through links that loop, is listed once.

    Of a pack, its parts are listed and nothing else; of a run, nothing.

    Raises:
        ArchiveError: a folder cannot be listed, or the first one is a run.
    """
    top = os.path.abspath(root)
    seen = {_identity(str(skip))}
    folders = [""]
    while folders:
        relative = folders.pop()
        folder = os.path.join(top, relative)
        identity = _identity(folder)
        if identity in seen:
            continue
        seen.add(identity)
        files, inner = _list_folder(folder)
        plan = os.path.join(folder, pack.PLAN)
        has_plan = pack.PLAN in files and os.path.isfile(plan)  # to open a pipe would wait for ever
        if has_plan and (parts := pack.parts_of(folder)) is not None:
            yield from ((relative + name, os.path.join(folder, name), ()) for name in parts)
            continue
        if has_plan and ("run.json" in files or "scores" in inner) and _is_plan(plan):
            if not relative:
                raise ArchiveError(f"{root}: a run of ecgbatch, expected the ECGs it was made of, or others")
            continue
        folders.extend(f"{relative}{name}/" for name in reversed(inner))
        headers = {name: _header(Files(f"{folder}/{name}"), companions) for name in files if _is_header(name)}
        for name, belongings in _owners(files, headers, companions):
            yield relative + name, os.path.join(folder, name), belongings


def _is_plan(path: str) -> bool:
    """Whether a Parquet file is a plan of a run or pack."""
    try:
        settings = json.loads((pq.read_metadata(path).metadata or {})[b"ecgbatch"])
    except (OSError, ValueError, KeyError, RecursionError, pa.ArrowException):
        return False
    return isinstance(settings, dict) and "shard_size" in settings


def _owners(
    files: Sequence[str], headers: Mapping[str, _Header], companions: Companions
) -> Iterator[tuple[str, Sequence[str]]]:
    """The files of a folder that belong to no other, and those that belong to them."""
    signals = {name for header in headers.values() for name in header.owned}
    others = {name: companions(b"", name) for name in files if name not in signals and name not in headers}
    owned = signals | {name for names in others.values() for name in names}
    for name in files:
        if name in headers or name not in owned:  # a header stays an entry, whatever names it
            yield name, headers[name].belongings if name in headers else others[name]


def _behind(source: str, companions: Companions) -> Iterator[Entry]:
    """The entries behind a URL, as `_walk` lists those of a folder."""
    remote.require_plain(source)
    scheme, _, rest = source.partition("://")
    top = f"{scheme}://{rest.rstrip('/')}"
    place = remote.reached(top)
    own = place.stamp_of(top)
    if own:
        one = remote.RemoteFiles(top)
        yield Entry(one.name, top, *one.stamp(_belongings(one, companions)))
        return
    folders = [""]
    while folders:
        relative = folders.pop()
        files, inner = place.listed(f"{top}/{relative}")
        folders.extend(f"{relative}{name}/" for name in reversed(inner))
        names = [name for name in files if _is_header(name)]
        there = (remote.RemoteFiles(f"{top}/{relative}{name}") for name in names)
        headers = remote.POOL.map(lambda header: _header(header, companions), there)
        for name, belongings in _owners(list(files), dict(zip(names, headers, strict=True)), companions):
            stamps = [stamp for other in (name, *belongings) if (stamp := files.get(other))]
            stamped = (sum(n for n, _ in stamps), max(at for _, at in stamps)) if files[name] else (None, None)
            yield Entry(relative + name, f"{top}/{relative}{name}", *stamped)


def _members(record_id: str, path: str, companions: Companions) -> Iterator[Entry]:
    """An entry for each record in an archive; for the archive itself too where it is empty, or cannot be read whole."""
    names: list[str] = []
    owned: set[str] = set()
    is_whole = True
    stamped = stamp(path, ())
    try:
        archive = container.opened(path)
        stamped = archive.stamp
        for name, header in archive.members(_is_header):
            names.append(name)
            folder, slash, own = name.rpartition("/")
            names_owned = _told(header, own, companions).owned if _is_header(own) else companions(b"", own)
            owned.update([folder + slash + other for other in names_owned])
    except RecordError:
        is_whole = False
    for name in names:
        if name not in owned:
            yield Entry(f"{record_id}#{name}", path, *stamped, name)
    if not names or not is_whole:
        yield Entry(record_id, path, *stamped)


def _many(path: str) -> formats.Records | None:
    """The file where it holds many records that can be read."""
    try:
        return formats.records(path)
    except RecordError:
        return None  # it will be a reject with this reason when its turn comes


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the folders in a folder."""
    files: list[str] = []
    inner: list[str] = []
    try:
        with os.scandir(folder) as items:
            for item in items:
                (inner if _is_folder(item) else files).append(item.name)
    except OSError as err:
        raise ArchiveError(f"{folder}: cannot be listed: {err.strerror}; nothing was scored") from err
    return sorted(files), sorted(inner)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_header(name: str) -> bool:
    return name.lower().endswith(".hea")


def _belongings(files: Files | remote.RemoteFiles, companions: Companions) -> Sequence[str]:
    """Names of the files that belong to the entry whose `files` these are."""
    return _header(files, companions).belongings if _is_header(files.name) else companions(b"", files.name)


def _header(files: Files | remote.RemoteFiles, companions: Companions) -> _Header:
    try:
        return _told(files.read(files.name), files.name, companions)
    except RecordError:
        return _Header((), ())  # it will be a reject with this reason when its turn comes


def _told(raw: bytes, name: str, companions: Companions) -> _Header:
    """What the content of a header says."""
    named = companions(raw, name)
    owned = [other for other in named if not other.lower().endswith(_ALONE)]
    if any(other.lower().endswith(_CONTAINERS) for other in owned):
        begun = _begun_within(raw)
        owned = [other for other in owned if other in begun or not other.lower().endswith(_CONTAINERS)]
    return _Header(named, owned)


def _begun_within(raw: bytes) -> set[str]:
    """The files of which a header says how many bytes precede the samples."""
    if (header := wfdb_header.parse(raw)) is None:
        return set()
    lines = iter(header.layout.split("\n"))
    runs = [(name, list(islice(lines, n))) for name, n in zip(header.files, header.n_signals, strict=True)]
    return {name for name, stated in runs if any(_OFFSET.match(line) for line in stated)}


def _is_manifest(source: Path) -> bool:
    """Whether a table is to be one of paths: it is a Parquet file and no pack, or a `.csv` and no ECG."""
    if not os.path.isfile(source):  # to open a pipe would wait for ever
        return False
    if source.suffix.lower() == ".parquet":
        return not _many(os.path.abspath(source))
    if source.suffix.lower() != ".csv":
        return False
    with suppress(OSError), source.open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8)
        columns = [name.strip(b' "\r') for name in head.partition(b"\n")[0].split(b",")]
        return b"path" in columns or not csv.is_table(head, source.name)  # paths may be numbers
    return True
