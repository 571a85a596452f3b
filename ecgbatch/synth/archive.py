"""Whole synthetic archives: a folder tree like a hospital's, in several containers, some files damaged, some packed."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ecgbatch.cores import n_cores
from ecgbatch.errors import UsageError
from ecgbatch.files import writing
from ecgbatch.record import Reason
from ecgbatch.synth.code15 import write_code15
from ecgbatch.synth.damage import DAMAGE
from ecgbatch.synth.files import FORMATS, Visit, draw_exam, draw_files
from ecgbatch.synth.packs import write_tar_gz, write_zip
from ecgbatch.synth.rhythm import draw_rhythm

__all__ = ["Written", "write_archive", "write_truth"]

_PER_FOLDER = 400
_FEW = 1000
"""Up to so many ECGs are written before a pool of processes would have started."""
_PACKS = (".zip", ".tar.gz", ".hdf5")
"""What a folder may be packed as, by turns."""


@dataclass(frozen=True, slots=True)
class Written:
    """One ECG of an archive, and what scoring must make of it."""

    record_id: str
    """POSIX path below the archive's folder; of the `.hea` for WFDB, and after a `#` what it is called in a pack."""
    format: str
    rhythm: str
    damage: str | None
    """A key of DAMAGE[format]."""
    expected: Reason | None
    """Why it must be rejected; None where it must be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What all ECGs of an archive have in common."""

    n: int
    seed: int
    formats: tuple[str, ...]
    packed: float

    @property
    def per_folder(self) -> int:
        """At most 400 ECGs, and more than one folder however small the archive."""
        return min(_PER_FOLDER, max(1, self.n // 24))

    @property
    def n_folders(self) -> int:
        return -(-self.n // self.per_folder)

    def folder(self, number: int) -> range:
        """The ECGs in it."""
        first = number * self.per_folder
        return range(first, min(first + self.per_folder, self.n))

    def pack(self, number: int) -> str | None:
        """What a folder is packed as: every so many-th is."""
        before, now = int(number * self.packed), int((number + 1) * self.packed)
        return _PACKS[before % len(_PACKS)] if now > before else None

    def format_of(self, index: int) -> str:
        """The container of an ECG."""
        if self.pack(index // self.per_folder) == ".hdf5":
            return "hdf5-code15"
        return self.formats[index % len(self.formats)]


def write_archive(
    folder: Path,
    n: int,
    *,
    seed: int = 0,
    formats: Sequence[str] = ("muse-xml", "wfdb"),
    damaged: float = 0.0,
    packed: float = 0.0,
    workers: int | None = None,
) -> list[Written]:
    """Write `n` ECGs below `folder`, the share `damaged` of them defective; what each one is, in order.

    The share `packed` of the folders become one file each, by turns a .zip and a .tar.gz of the same files, and an
    .hdf5 in CODE-15's layout. The bytes follow from the other arguments. `workers` processes write (None: one a core,
    or this one alone for a small archive); more than one needs an importable main module, as `multiprocessing` does.

    Raises:
        UsageError: an unknown format, a number out of range, a folder that holds something.
        OutputError: the folder cannot be written.
    """
    plan = _Plan(n=n, seed=seed, formats=tuple(formats), packed=packed)
    _check(plan, damaged, workers)
    kinds = _draw_damage(plan, damaged)
    of_folder = [[kinds[index] for index in plan.folder(number)] for number in range(plan.n_folders)]
    write = partial(_write, folder, plan)
    if workers is None:
        workers = 1 if n <= _FEW else n_cores()
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: not empty, expected a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        if workers == 1:
            return list(chain.from_iterable(map(write, range(plan.n_folders), of_folder)))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # safe beside others' threads
            return list(chain.from_iterable(pool.map(write, range(plan.n_folders), of_folder)))


def write_truth(path: Path, archive: Sequence[Written]) -> None:
    """The same as CSV, one row an ECG, empty cells for None."""
    with writing(path), path.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines)
        rows.writerow(field.name for field in fields(Written))
        rows.writerows(map(astuple, archive))


def _check(plan: _Plan, damaged: float, workers: int | None) -> None:
    if not plan.formats or not set(plan.formats) <= set(FORMATS):
        raise UsageError(f"formats {', '.join(plan.formats) or 'none'}, expected some of {', '.join(FORMATS)}")
    if plan.n < 1 or not 0 <= damaged <= 1 or (workers is not None and workers < 1):
        raise UsageError(f"{plan.n} ECGs, {damaged} of them damaged, {workers} workers, expected n >= 1, 0 to 1, >= 1")
    if not 0 <= plan.packed <= 1:
        raise UsageError(f"{plan.packed} of the folders packed, expected 0 to 1")
    if plan.seed < 0:
        raise UsageError(f"seed {plan.seed}, expected at least 0")


def _draw_damage(plan: _Plan, damaged: float) -> list[str | None]:
    """Which ECG has which damage: a drawn set of exact size, in which the kinds of each format take turns."""
    kinds: list[str | None] = [None] * plan.n
    turn = dict.fromkeys(DAMAGE, 0)
    drawn = np.random.Generator(np.random.PCG64([plan.seed, plan.n])).permutation(plan.n)
    for index in drawn[: round(plan.n * damaged)].tolist():
        format_ = plan.format_of(index)
        known = list(DAMAGE[format_])
        kinds[index] = known[turn[format_] % len(known)]
        turn[format_] += 1
    return kinds


def _write(root: Path, plan: _Plan, number: int, kinds: Sequence[str | None]) -> list[Written]:
    """Write folder `number`, or the pack in its place; everything follows from the plan and the kinds of damage."""
    place, pack = _place(number), plan.pack(number)
    path = root / f"{place}{pack or ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = zip(plan.folder(number), kinds, strict=True)
    if pack == ".hdf5":
        exams = [(index, kind, *_draw_visit(plan, index)) for index, kind in drawn]
        write_code15(path, [draw_exam(rng, visit, kind) for _, kind, rng, visit in exams])
        return [
            _written(plan, index, f"{place}.hdf5#{row}", visit, kind)
            for row, (index, kind, _, visit) in enumerate(exams)
        ]
    written: list[Written] = []
    files = _files(plan, drawn, f"{place}{pack}#" if pack else f"{place}/", written)
    match pack:
        case ".zip":
            write_zip(path, files)
        case ".tar.gz":
            write_tar_gz(path, files)
        case _:
            path.mkdir(exist_ok=True)
            for name, content in files:
                (path / name).write_bytes(content)
    return written


def _files(
    plan: _Plan, drawn: Iterable[tuple[int, str | None]], prefix: str, written: list[Written]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a folder; what it is of is added to `written`."""
    for index, kind in drawn:
        rng, visit = _draw_visit(plan, index)
        files = draw_files(rng, plan.format_of(index), visit, kind)
        written.append(_written(plan, index, f"{prefix}{next(iter(files))}", visit, kind))
        yield from files.items()


def _draw_visit(plan: _Plan, index: int) -> tuple[np.random.Generator, Visit]:
    """An ECG's own random numbers, and what they say of it first."""
    rng = np.random.Generator(np.random.PCG64([plan.seed, plan.n, index]))
    _, year, month = _place(index // plan.per_folder).split("/")
    visit = Visit(
        name=f"{index:07d}",
        patient_id=f"SYNTH-{index:07d}",
        rhythm=draw_rhythm(rng),
        year=int(year),
        month=int(month),
    )
    return rng, visit


def _written(plan: _Plan, index: int, record_id: str, visit: Visit, kind: str | None) -> Written:
    format_ = plan.format_of(index)
    return Written(record_id, format_, visit.rhythm, kind, DAMAGE[format_][kind] if kind else None)


def _place(number: int) -> str:
    """`site/year/month` of a folder."""
    site, month = divmod(number, 120)
    return f"site{site + 1}/{2015 + month // 12}/{month % 12 + 1:02d}"
