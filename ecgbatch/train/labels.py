"""A table of labels: what is known of the ECGs of an archive, a row an ECG, as CSV or Parquet.

    record_id,patient_id,AFIB,LBBB,age,sex          record_id,scp_codes
    2019/a17.xml,p1,1,0,63,female                   2019/a17.xml,"{'AFIB': 100.0, 'LVH': 50.0}"
    2019/a18.xml,p2,0,,71,male                      2019/a18.xml,NORM;SR

Labels are columns of 0 and 1, true and false, empty where it is not known; or one column of the codes that hold: a
list, or text separated by `;`, `,` or spaces, or a list or dictionary in JSON or Python. A code that is not listed is
a negative, whatever the likelihood of those that are listed; an empty cell is unknown, `[]` is none of them. A cell of
NA, NaN, null or None is empty. All other columns tell subgroups.
"""

import ast
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecgbatch import files
from ecgbatch.errors import UsageError
from ecgbatch.train.columns import CODES, NO_LABELS, PATIENT, RECORD, told

__all__ = ["Labels", "columns_of", "filled", "labelled", "patients_of", "read", "record_ids_of"]

_TRUTH = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}
_EMPTY = ("", "na", "n/a", "nan", "null", "none", "<na>")
"""What an empty cell is written as by R, by pandas, and by programs that write its text."""
_LONGEST = 20_000
"""Characters of a cell of codes; more is no list of codes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """What is known of each record, in the order of the file."""

    record_ids: tuple[str, ...]
    """As the file names them: record_id of a run, or a path."""
    patients: np.ndarray
    """str (record,); a record without a patient is its own."""
    n_without_patient: int
    codes: tuple[str, ...]
    is_positive: np.ndarray
    """float32 (record, label): 1, 0, or NaN where it is not known."""
    groups: pl.DataFrame
    """All other columns that are no lists, beside the record's own, a row a record."""
    folder: str
    """Where relative paths of the file begin; absolute."""
    sha256: str
    """Of the file."""
    is_listed: bool = False
    """Whether one column lists all codes that hold, so that what is not listed is known to be absent."""

    def __post_init__(self) -> None:
        assert self.is_positive.shape == (len(self.record_ids), len(self.codes))
        assert len(self.patients) == self.groups.height == len(self.record_ids)

    def rows_of(self, entries: pl.DataFrame) -> np.ndarray:
        """The row of each entry of a run here, -1 where it has none: int (entry,).

        Names are compared with the entries' record_id, then with their source_path, absolute or from the file's
        folder, then with both where `.hea` is left off.

        Raises:
            UsageError: two rows of the file are one entry.
        """
        paths = [os.path.normpath(os.path.join(self.folder, name)) for name in self.record_ids]  # noqa: PTH118
        left = pl.DataFrame({"row": np.arange(len(paths)), "name": self.record_ids, "path": paths})
        rows = np.full(entries.height, -1)
        for ending in ("^", r"\.hea$"):
            for column, key in (("record_id", "name"), ("source_path", "name"), ("source_path", "path")):
                names = entries.select(pl.col(column).str.replace(ending, "").alias(key)).with_row_index("entry")
                found = names.join(left, on=key, maintain_order="left").unique("row", keep="first", maintain_order=True)
                at = found["entry"].to_numpy()
                if (rows[at] >= 0).any() or found["entry"].is_duplicated().any():
                    raise UsageError("labels: two rows are one record of the run, expected one")
                rows[at] = found["row"]
                left = left.filter(~pl.col("row").is_in(found["row"].implode()))
        return rows


def read(
    path: Path,
    *,
    record_column: str | None = None,
    patient_column: str | None = None,
    label_columns: Sequence[str] = (),
    known_codes: Collection[str] = (),
    may_lack_labels: bool = False,
) -> Labels:
    """The labels of a file, `.parquet` or CSV.

    Without `label_columns`, the labels are one column of codes if there is one, else all columns of 0 and 1; where the
    table `may_lack_labels`, also none. A column whose name is among `known_codes` must be one of these.

    Raises:
        UsageError: it is no table of labels; the message says why, and quotes no cell.
    """
    frame = _table(path)
    named = [name for name in (record_column, patient_column, *label_columns) if name is not None]
    if missing := [name for name in named if name not in frame.columns]:
        is_headed = any(name in frame.columns for name in (*RECORD, PATIENT, *CODES))
        doubt = "" if is_headed else "; is the first row one of names?"
        raise UsageError(f"{path}: no column {missing[0]!r} among its {told(frame.columns)}{doubt}")
    record_column = record_column or next((name for name in RECORD if name in frame.columns), None)
    if record_column is None:
        is_parted = len(frame.columns) == 1 and any(mark in frame.columns[0] for mark in ";\t|")
        way = "it has one column, expected commas between several" if is_parted else "name one with --record-column"
        raise UsageError(f"{path}: no column {' or '.join(map(repr, RECORD))}; {way}")
    record_ids = record_ids_of(path, frame[record_column])
    patient_column = patient_column or (PATIENT if PATIENT in frame.columns else None)
    patients, n_without = patients_of(frame[patient_column] if patient_column else None, record_ids)

    free = [name for name in frame.columns if name not in {record_column, patient_column, *RECORD}]
    columns = list(dict.fromkeys(label_columns)) or columns_of(frame.select(free), known_codes)
    if not columns and not may_lack_labels:
        raise UsageError(f"{path}: no label, expected columns of 0 and 1 or a column of codes; name them with --label")
    nothing: tuple[tuple[str, ...], np.ndarray] = ((), np.empty((len(frame), 0), np.float32))
    codes, is_positive = labelled(path, frame.select(columns), known_codes) if columns else nothing
    others = [name for name in free if name not in columns and not frame.schema[name].is_nested()]
    return Labels(
        record_ids=record_ids,
        patients=patients,
        n_without_patient=n_without,
        codes=codes,
        is_positive=is_positive,
        groups=frame.select(record_column).with_columns(_numbers(frame[name]) for name in others),
        folder=os.path.abspath(path.parent),  # noqa: PTH100  # links stay, as in the plan of a run
        sha256=files.sha256(path),
        is_listed=bool(columns) and tuple(columns) != codes,
    )


def _table(path: Path) -> pl.DataFrame:
    """All columns but those that hold signals: lists of numbers."""
    try:
        if path.suffix.lower() == ".parquet":
            schema = pl.scan_parquet(path, glob=False).collect_schema()
            frame = pl.read_parquet(
                path, columns=[name for name, kind in schema.items() if not _is_signal(kind)], glob=False
            )
        else:
            frame = pl.read_csv(path, infer_schema=False, glob=False)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise UsageError(f"{path}: not a readable table of labels, expected CSV or Parquet") from err
    if not frame.height:
        raise UsageError(f"{path}: holds no row")
    return frame


def _is_signal(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.List | pl.Array) and not isinstance(kind.inner, pl.String | pl.Struct)


def record_ids_of(path: Path, column: pl.Series) -> tuple[str, ...]:
    """What a table calls its records.

    Raises:
        UsageError: one has no name, or two have the same.
    """
    names = column.cast(pl.String)
    if names.null_count():
        raise UsageError(
            f"{path}: column {column.name!r} is empty in {names.null_count()} rows, expected a record each"
        )
    if not names.is_unique().all():
        row = int(names.is_first_distinct().arg_min() or 0)
        raise UsageError(
            f"{path}: row {row + 1} repeats a record of column {column.name!r}, expected every record once"
        )
    return tuple(names)


def patients_of(column: pl.Series | None, record_ids: Sequence[str]) -> tuple[np.ndarray, int]:
    """Whose each record is, str (record,), and how many records have no patient: each of these is its own."""
    own = [f"record {record_id}" for record_id in record_ids]
    if column is None:
        return np.array(own), len(own)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    known = filled(column.cast(pl.String)).to_list()
    patients = [name if patient is None else f"patient {patient}" for patient, name in zip(known, own, strict=True)]
    return np.array(patients), known.count(None)


def columns_of(frame: pl.DataFrame, known_codes: Collection[str]) -> list[str]:
    """The columns that are labels by what they hold."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List) and name not in NO_LABELS]
    listed = [name for name in lists if name in CODES] or lists or [name for name in CODES if name in frame.columns]
    if listed:
        return listed[:1]
    return [
        name
        for name in frame.columns
        if not _is_empty(frame[name])
        and (name in known_codes or (name.lower() not in NO_LABELS and _truth(frame[name]) is not None))
    ]


def labelled(path: Path, frame: pl.DataFrame, known_codes: Collection[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The codes, and whether each holds: float32 (record, label)."""
    truths = {name: _truth(frame[name]) for name in frame.columns}
    wrong = [name for name, truth in truths.items() if truth is None]
    if not wrong:
        return tuple(truths), np.stack([truth for truth in truths.values() if truth is not None], axis=1)
    if len(truths) > 1 or wrong[0] in known_codes:
        raise UsageError(f"{path}: column {wrong[0]!r} holds other values than 0, 1, true, false and empty")
    listed = frame.to_series()
    if isinstance(listed.dtype, pl.String):
        listed = _parsed(path, listed)
    if not isinstance(listed.dtype, pl.List):
        raise UsageError(f"{path}: column {wrong[0]!r} holds neither 0 and 1 nor codes")
    return _one_a_code(path, listed)


def filled(text: pl.Series) -> pl.Series:
    """The cells without spaces around them; null for one that is empty, however that is written."""
    text = text.str.strip_chars()
    return text.set(text.str.to_lowercase().is_in(_EMPTY), None)


def _is_empty(column: pl.Series) -> bool:
    cells = filled(column) if column.dtype == pl.String else column
    return cells.null_count() == len(cells)


def _truth(column: pl.Series) -> np.ndarray | None:
    """float32 (record,), NaN where it is not known; None for a column of anything but truths, or of nothing."""
    if column.dtype.is_nested() or _is_empty(column):
        return None
    text = filled(column.cast(pl.String)).str.to_lowercase()
    truth = text.replace_strict(_TRUTH, default=None, return_dtype=pl.Float32)
    if truth.null_count() > text.null_count():
        return None
    return truth.fill_null(float("nan")).to_numpy()


def _one_a_code(path: Path, listed: pl.Series) -> tuple[tuple[str, ...], np.ndarray]:
    """Lists of codes, or of structures with a field `code`, as float32 (record, label), codes in order."""
    pairs = pl.DataFrame({"row": np.arange(len(listed)), "code": listed}).filter(pl.col("code").list.len() > 0)
    pairs = pairs.explode("code")
    if isinstance(pairs.schema["code"], pl.Struct):
        if "code" not in pairs["code"].struct.fields:
            raise UsageError(f"{path}: column {listed.name!r} holds structures without a field 'code'")
        pairs = pairs.with_columns(pl.col("code").struct.field("code"))
    pairs = pairs.drop_nulls().with_columns(pl.col("code").cast(pl.String).str.strip_chars())
    codes = pairs["code"].unique().sort().to_list()
    if not codes:
        raise UsageError(f"{path}: column {listed.name!r} holds no code")
    is_positive = np.zeros((len(listed), len(codes)), np.float32)
    is_positive[listed.is_null().to_numpy()] = np.nan
    place = pairs["code"].replace_strict(codes, list(range(len(codes))), return_dtype=pl.Int64)
    is_positive[pairs["row"].to_numpy(), place.to_numpy()] = 1
    return tuple(codes), is_positive


def _parsed(path: Path, texts: pl.Series) -> pl.Series:
    """The codes of each cell; cells that are alike are read once."""
    lists: dict[str | None, list[str] | None] = {None: None}
    texts = filled(texts)
    for row, text in enumerate(texts):
        if text not in lists:
            if (codes := _codes_of(text)) is None:
                raise UsageError(f"{path}: column {texts.name!r}, row {row + 1}: neither codes nor a list of codes")
            lists[text] = codes
    if _are_flags(text for text in lists if text and text.startswith("{")):
        way = "a code counts whatever its likelihood; expected true and false, or a column of each label"
        raise UsageError(f"{path}: column {texts.name!r} holds dictionaries of 0 and 1, and {way}")
    return pl.Series(texts.name, [lists[text] for text in texts], pl.List(pl.String))


def _are_flags(texts: Iterable[str]) -> bool:
    """Whether dictionaries say 1 and 0 of codes, and so not how likely each of them is."""
    listed = (found for text in texts if isinstance(found := _literal(text), dict))
    values = [value for found in listed for value in found.values() if not isinstance(value, bool)]
    return 0 in values and 1 in values and all(value in (0, 1) for value in values)


def _codes_of(text: str) -> list[str] | None:
    """The codes that a cell lists; None where it is broken."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if text[:1] not in ("{", "["):
        separator = next((mark for mark in ";," if mark in text), None)
        return [code.strip() for code in text.split(separator) if code.strip()]
    try:
        found = _literal(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(found, dict):
        found = [code for code, likelihood in found.items() if likelihood is not False]
    return [str(code) for code in found] if all(isinstance(code, str | int) for code in found) else None


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)


def _numbers(column: pl.Series) -> pl.Series:
    """Text as numbers, where it is nothing else."""
    if not isinstance(column.dtype, pl.String):
        return column
    cells = filled(column)
    numbers = cells.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == cells.null_count() else column
