"""What a model is trained on: tables of ECGs, PTB-XL, or any archive beside a table of labels."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ecgbatch import archive, formats, remote
from ecgbatch.errors import UsageError
from ecgbatch.record import Record, Reject
from ecgbatch.train import ptbxl, statements, table
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.entries import Entries
from ecgbatch.train.labels import Labels
from ecgbatch.train.table import Table

__all__ = ["ecgs_of", "read"]


def read(sources: Sequence[str | Path], *, labels: Labels | None = None, columns: Sequence[str] = ()) -> Cohort:
    """The cohort of all sources; `columns` are the label columns of a table, all that can be by default.

    With `labels`, sources are whatever `score` reads, found by `record_id`. Without, each is a table or PTB-XL; a label
    that one of them does not have is unknown for its records.

    Raises:
        UsageError: a source has no labels, or there is nothing to train on.
        ArchiveError: a source cannot be listed.
    """
    if labels is not None:
        return _beside([str(source) for source in sources], labels)
    return joined([_alone(str(source), columns) for source in sources])


def joined(cohorts: Sequence[Cohort]) -> Cohort:
    """All records of all cohorts, whose patients are different ones; folds where every cohort has some."""
    if len(cohorts) == 1:
        return cohorts[0]
    codes = tuple(dict.fromkeys(code for cohort in cohorts for code in cohort.codes))
    ends = np.cumsum([0, *(len(cohort.ecgs.block) for cohort in cohorts)])
    folds = [cohort.folds for cohort in cohorts if cohort.folds is not None]
    return Cohort(
        ecgs=_Several(cohorts, ends),
        rows=np.concatenate([cohort.rows + start for cohort, start in zip(cohorts, ends, strict=False)]),
        record_ids=np.concatenate([_prefixed(at, cohort.record_ids) for at, cohort in enumerate(cohorts)]),
        patients=np.concatenate([_prefixed(at, cohort.patients) for at, cohort in enumerate(cohorts)]),
        codes=codes,
        targets=np.concatenate([_widened(cohort, codes) for cohort in cohorts]),
        folds=np.concatenate(folds) if len(folds) == len(cohorts) else None,
        columns=_columns(cohorts),
        provenance="; ".join(cohort.provenance for cohort in cohorts),
        sha256=hashlib.sha256("".join(cohort.sha256 for cohort in cohorts).encode()).hexdigest(),
    )


class _Several:
    """ECGs of several cohorts, one after the other."""

    def __init__(self, cohorts: Sequence[Cohort], ends: np.ndarray) -> None:
        self._parts = [cohort.ecgs for cohort in cohorts]
        self._ends = ends
        n_blocks = np.cumsum([0, *(int(part.block[-1]) + 1 for part in self._parts)])
        self.block = np.concatenate([part.block + n for part, n in zip(self._parts, n_blocks, strict=False)])

    def read(self, at: np.ndarray) -> Iterator[Record | Reject]:
        for part, start, end in zip(self._parts, self._ends, self._ends[1:], strict=False):
            if len(own := at[(start <= at) & (at < end)]):
                yield from part.read(own - start)


def _prefixed(at: int, names: np.ndarray) -> np.ndarray:
    return np.char.add(f"{at}/", names)


def _widened(cohort: Cohort, codes: Sequence[str]) -> np.ndarray:
    """Its targets, with unknown ones for the labels that it does not have."""
    targets = np.full((len(cohort), len(codes)), np.nan, np.float32)
    targets[:, [codes.index(code) for code in cohort.codes]] = cohort.targets
    return targets


def _columns(cohorts: Sequence[Cohort]) -> pl.DataFrame:
    """Whatever any of them knows, unknown for the others."""
    each = [cohort.columns if cohort.columns.width else pl.DataFrame(height=len(cohort)) for cohort in cohorts]
    marked = [columns.with_row_index("row in its cohort") for columns in each]
    return pl.concat(marked, how="diagonal_relaxed").drop("row in its cohort")


def _alone(source: str, columns: Sequence[str]) -> Cohort:
    """The cohort of a source that brings its labels along."""
    if not remote.is_url(source) and ptbxl.is_ptbxl(Path(source)):
        return ptbxl.read(Path(source))
    if not remote.is_url(source) and table.is_table(Path(source)):
        return table.read(Path(source), columns=columns)
    if not remote.is_url(source) and not Path(source).exists():
        raise UsageError(f"{source}: no such file or folder")
    raise UsageError(f"{source}: no labels of its own, expected a table of ECGs or PTB-XL; give --labels TABLE")


def _beside(sources: Sequence[str], labels: Labels) -> Cohort:
    """The records that a table has labels for."""
    ecgs = ecgs_of(sources)
    found = _rows(ecgs, labels)
    rows = np.flatnonzero(found >= 0)
    if not len(rows):
        first = "".join(f"; the first of them is {name!r}, expected it or its path" for name in ecgs.record_ids[:1])
        raise UsageError(f"none of {len(found)} ECGs has labels{first} in the table")
    codes, targets = statements.with_superclasses(labels.codes, labels.is_positive)
    return Cohort(
        ecgs=ecgs,
        rows=rows,
        record_ids=np.array(ecgs.record_ids)[rows],
        patients=labels.patients[found[rows]],
        codes=codes,
        targets=targets[found[rows]],
        folds=None,
        columns=labels.groups[found[rows]],
        provenance="not stated",
        sha256=hashlib.sha256((labels.sha256 + ecgs.sha256).encode()).hexdigest(),
        left_out={
            "without labels": len(found) - len(rows),
            "labels without an ECG": len(labels.record_ids) - len(rows),
        },
    )


def ecgs_of(sources: Sequence[str]) -> Entries | Table:
    """The ECGs of a table, or of whatever `score` reads, whether or not anything else is known of them.

    Raises:
        ArchiveError: a source cannot be listed.
    """
    if len(sources) == 1 and not remote.is_url(sources[0]) and table.is_table(Path(sources[0])):
        return Table(Path(sources[0]))
    return Entries(archive.scan(sources, companions=formats.companions, skip=Path("/dev/null")))


def _rows(ecgs: Entries | Table, labels: Labels) -> np.ndarray:
    """The row of labels of each ECG, -1 for none: int (ecg,); one in a container is known by its name there too."""
    rows = labels.rows_of(pl.DataFrame({"record_id": ecgs.record_ids, "source_path": ecgs.source_paths}))
    if isinstance(ecgs, Entries):
        members = pl.DataFrame({"at": np.arange(len(ecgs)), "record_id": ecgs.members, "source_path": ecgs.members})
        members = members.filter(pl.col("record_id") != "", pl.Series(rows < 0))
        rows[members["at"].to_numpy()] = labels.rows_of(members)
    return rows
