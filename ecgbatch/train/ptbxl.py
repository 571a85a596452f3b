"""PTB-XL as PhysioNet ships it: `ptbxl_database.csv`, `scp_statements.csv`, and records of 500 Hz in WFDB."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ecgbatch import archive, formats
from ecgbatch.archive import Entry
from ecgbatch.errors import RecordError, UsageError
from ecgbatch.train import labels, statements
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.entries import Entries

__all__ = ["is_ptbxl", "read"]

PROVENANCE = "PTB-XL (Wagner et al., Sci Data 7:154, 2020; PhysioNet), CC BY 4.0; its 500 Hz records, its own folds"
_TABLE = "ptbxl_database.csv"


def is_ptbxl(folder: Path) -> bool:
    """Whether a folder is that of PTB-XL."""
    return (folder / _TABLE).is_file() and (folder / "scp_statements.csv").is_file()


def read(folder: Path) -> Cohort:
    """The cohort, statements and their superclasses for labels; a record that is not there will be a reject.

    Raises:
        UsageError: the table is not PTB-XL's.
    """
    table = labels.read(folder / _TABLE, record_column="filename_hr", label_columns=["scp_codes"])
    if "strat_fold" not in table.groups.columns:
        raise UsageError(f"{_TABLE}: no column strat_fold, expected PTB-XL's table")
    ecgs = Entries(_entries(folder, table.record_ids))
    codes, targets = statements.with_superclasses(table.codes, table.is_positive)
    return Cohort(
        ecgs=ecgs,
        rows=np.arange(len(ecgs)),
        record_ids=np.array(ecgs.record_ids),
        patients=table.patients,
        codes=codes,
        targets=targets,
        folds=table.groups["strat_fold"].to_numpy().astype(np.int64),
        columns=table.groups,
        provenance=PROVENANCE,
        sha256=hashlib.sha256((table.sha256 + ecgs.sha256).encode()).hexdigest(),
    )


def _entries(folder: Path, names: Iterable[str]) -> Iterator[Entry]:
    for name in names:
        path = str((folder / name).absolute()) + ".hea"
        try:
            belongings = formats.companions(archive.read(path), path.rpartition("/")[2])
        except RecordError:
            belongings = ()
        yield Entry(f"{name}.hea", path, *archive.stamp(path, belongings))
