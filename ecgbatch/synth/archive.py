"""Whole synthetic archives: a folder tree like a hospital's, in several formats, some files damaged."""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ecgbatch.errors import OutputError, UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record
from ecgbatch.synth.damage import MUSE_DAMAGE, WFDB_DAMAGE, damaged_muse, damaged_record, damaged_wfdb
from ecgbatch.synth.ecg import record
from ecgbatch.synth.muse import muse_xml
from ecgbatch.synth.rhythm import draw_rhythm
from ecgbatch.synth.wfdb import SAMPLE_BITS, wfdb_files

__all__ = ["FORMATS", "Written", "write_archive", "write_truth"]

FORMATS = ("muse-xml", "wfdb")

_PER_FOLDER = 400
_FEW = 1000
"""Up to so many ECGs are written before a pool of processes would have started."""

_SECONDS, _SECONDS_SHARE = (10.0, 12.0, 15.0, 30.0), (0.94, 0.03, 0.02, 0.01)
_MUSE_FS_HZ, _MUSE_FS_SHARE = (500.0, 250.0), (0.75, 0.25)
_MUSE_ENCODINGS, _MUSE_ENCODINGS_SHARE = ("ISO-8859-1", "utf-8", "utf-8-sig", "utf-16"), (0.80, 0.12, 0.04, 0.04)
_WFDB_FS_HZ, _WFDB_FS_SHARE = (500.0, 1000.0, 400.0, 360.0, 100.0), (0.55, 0.10, 0.15, 0.10, 0.10)
_WFDB_FMTS, _WFDB_FMTS_SHARE = (16, 212, 24, 32, 61, 80, 160, 310, 311), (0.72, 0.14, *(0.02,) * 7)
_UV_PER_COUNT = {8: 40.0, 10: 20.0, 12: 5.0, 16: 1.0, 24: 0.5, 32: 0.25}
"""By bits of a sample, so that about 5 mV fit."""


@dataclass(frozen=True, slots=True)
class Written:
    """One ECG of an archive, and what scoring must make of it."""

    record_id: str
    """POSIX path below the archive's folder; of the `.hea` for WFDB."""
    format: str
    rhythm: str
    damage: str | None
    """A key of MUSE_DAMAGE or WFDB_DAMAGE."""
    expected: Reason | None
    """Why it must be rejected; None where it must be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What all ECGs of an archive have in common."""

    n: int
    seed: int
    formats: tuple[str, ...]


def write_archive(
    folder: Path,
    n: int,
    *,
    seed: int = 0,
    formats: Sequence[str] = FORMATS,
    damaged: float = 0.0,
    workers: int | None = None,
) -> list[Written]:
    """Write `n` ECGs below `folder`, the share `damaged` of them defective; what each one is, in order.

    The bytes follow from `seed`, `n`, `formats` and `damaged`. `workers` processes write (None: one a core, or this
    one alone for a small archive); more than one needs an importable main module, as `multiprocessing` does.

    Raises:
        UsageError: an unknown format, a number out of range, a folder that holds something.
        OutputError: the folder cannot be written.
    """
    _check(n, seed, formats, damaged, workers)
    kinds = _draw_damage(n, seed, formats, damaged)
    write = partial(_write, folder, _Plan(n=n, seed=seed, formats=tuple(formats)))
    if workers is None:
        workers = 1 if n <= _FEW else len(os.sched_getaffinity(0))
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: not empty, expected a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        if workers == 1:
            return [write(index, kind) for index, kind in enumerate(kinds)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # safe beside others' threads
            return list(pool.map(write, range(n), kinds, chunksize=100))
    except OSError as err:
        raise OutputError(f"{folder}: cannot be written: {err.strerror}") from err


def write_truth(path: Path, archive: Sequence[Written]) -> None:
    """The same as CSV, one row an ECG, empty cells for None."""
    try:
        with path.open("w", newline="", encoding="utf-8") as lines:
            rows = csv.writer(lines)
            rows.writerow(field.name for field in fields(Written))
            rows.writerows(map(astuple, archive))
    except OSError as err:
        raise OutputError(f"{path}: cannot be written: {err.strerror}") from err


def _check(n: int, seed: int, formats: Sequence[str], damaged: float, workers: int | None) -> None:
    if not formats or not set(formats) <= set(FORMATS):
        raise UsageError(f"formats {', '.join(formats) or 'none'}, expected some of {', '.join(FORMATS)}")
    if n < 1 or not 0 <= damaged <= 1 or (workers is not None and workers < 1):
        raise UsageError(f"{n} ECGs, {damaged} of them damaged, {workers} workers, expected n >= 1, 0 to 1, >= 1")
    if seed < 0:
        raise UsageError(f"seed {seed}, expected at least 0")


def _draw_damage(n: int, seed: int, formats: Sequence[str], damaged: float) -> list[str | None]:
    """Which ECG has which damage: a drawn set of exact size, in which the kinds of each format take turns."""
    kinds: list[str | None] = [None] * n
    turn = dict.fromkeys(formats, 0)
    for index in np.random.Generator(np.random.PCG64([seed, n])).permutation(n)[: round(n * damaged)].tolist():
        format_ = formats[index % len(formats)]
        known = list(MUSE_DAMAGE if format_ == "muse-xml" else WFDB_DAMAGE)
        kinds[index] = known[turn[format_] % len(known)]
        turn[format_] += 1
    return kinds


def _write(folder: Path, plan: _Plan, index: int, kind: str | None) -> Written:
    """Write ECG `index`; everything about it follows from the plan, the index and its damage."""
    rng = np.random.Generator(np.random.PCG64([plan.seed, plan.n, index]))
    rhythm = draw_rhythm(rng)
    stem = f"{_subfolder(index, plan.n)}/{index:07d}"
    format_ = plan.formats[index % len(plan.formats)]
    make, reasons = (_muse, MUSE_DAMAGE) if format_ == "muse-xml" else (_wfdb, WFDB_DAMAGE)
    files = make(rng, stem, index, rhythm, kind)
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Written(next(iter(files)), format_, rhythm, kind, reasons[kind] if kind else None)


def _subfolder(index: int, n: int) -> str:
    """`site/year/month`: at most 400 ECGs in each, and more than one folder however small the archive."""
    folder = index // min(_PER_FOLDER, max(1, n // 24))
    site, month = divmod(folder, 120)
    return f"site{site + 1}/{2015 + month // 12}/{month % 12 + 1:02d}"


def _draw_record(
    rng: np.random.Generator, stem: str, rhythm: str, *, fs_hz: float, uv_per_count: float, twelve: float
) -> Record:
    """An ECG of the month that its folder is named for; `twelve` is the share of devices that store all leads."""
    made = record(
        seed=int(rng.integers(2**62)),
        rhythm=rhythm,
        fs_hz=fs_hz,
        seconds=float(rng.choice(_SECONDS, p=_SECONDS_SHARE)),
        leads=LEADS if rng.random() < twelve else INDEPENDENT_LEADS,
        uv_per_count=uv_per_count,
    )
    assert made.acquired_at is not None
    year, month = stem.split("/")[1:3]
    day = min(made.acquired_at.day, 28)
    return replace(made, acquired_at=made.acquired_at.replace(year=int(year), month=int(month), day=day))


def _muse(rng: np.random.Generator, stem: str, index: int, rhythm: str, kind: str | None) -> dict[str, bytes]:
    fs_hz = float(rng.choice(_MUSE_FS_HZ, p=_MUSE_FS_SHARE))
    made = _draw_record(rng, stem, rhythm, fs_hz=fs_hz, uv_per_count=4.88, twelve=0.15)
    encoding = str(rng.choice(_MUSE_ENCODINGS, p=_MUSE_ENCODINGS_SHARE))
    patient_id = f"SYNTH-{index:07d}"
    if kind is None:
        return {f"{stem}.xml": muse_xml(made, encoding=encoding, patient_id=patient_id)}
    document = muse_xml(damaged_record(made, kind), patient_id=patient_id)
    return {f"{stem}.xml": damaged_muse(document, kind, rng)}


def _wfdb(rng: np.random.Generator, stem: str, index: int, rhythm: str, kind: str | None) -> dict[str, bytes]:
    fs_hz = float(rng.choice(_WFDB_FS_HZ, p=_WFDB_FS_SHARE))
    fmt = int(rng.choice(_WFDB_FMTS, p=_WFDB_FMTS_SHARE))
    fmt = fmt if kind is None else 16
    uv_per_count = _UV_PER_COUNT[SAMPLE_BITS[fmt]]
    made = _draw_record(rng, stem, rhythm, fs_hz=fs_hz, uv_per_count=uv_per_count, twelve=0.5)
    container = "mat" if fmt == 16 and rng.random() < 0.25 else "dat"
    parent, _, name = stem.rpartition("/")
    half = 2 ** (SAMPLE_BITS[fmt] - 1) - 1
    made = damaged_record(replace(made, counts=made.counts.clip(-half, half)), kind or "")
    files = wfdb_files(made, name, fmt=fmt, container=container, patient_id=f"SYNTH-{index:07d}")
    return {f"{parent}/{file}": content for file, content in damaged_wfdb(files, kind or "", rng).items()}
