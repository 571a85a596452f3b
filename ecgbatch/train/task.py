"""One label of a small cohort, with all its ECGs in memory as a network is fed them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError, UsageError
from ecgbatch.feed import host
from ecgbatch.record import Reason, Record, Reject
from ecgbatch.train import labels, sources, table
from ecgbatch.train.cohort import Cohort, Doubts, one_person, waveform_of
from ecgbatch.train.columns import told
from ecgbatch.train.labels import Labels

__all__ = ["LEAST", "Meaning", "Task", "read"]

LEAST = 5
"""Positive, and negative, patients without whom nothing can be learnt or judged."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Which records a label calls positive."""

    code: str
    positive: str | None = None
    """The value of the column; None for a column of 0 and 1, or a code."""
    negative: str | None = None
    """The value of negatives; None where all other values are."""

    @classmethod
    def of(cls, label: str, against: str | None) -> "Meaning":
        """`AFIB`, or `brugada=1`, perhaps against the records of one other value only."""
        code, equals, value = label.partition("=")
        if against is not None and not equals:
            raise UsageError(f"--against {against}: needs the positive value too, expected --label {code}=VALUE")
        return cls(code, value if equals else None, against)

    def of_column(self, where: str, column: pl.Series) -> np.ndarray:
        """float32 (record,): 1, 0, or NaN where it is unknown or neither."""
        if self.positive is None:
            try:
                return labels.labelled(Path(where), column.to_frame(), ())[1][:, 0]
            except UsageError as err:
                hint = f"name the positive one, --label {self.code}=1, and perhaps the negative one, --against 0"
                raise UsageError(f"{where}: column {self.code!r} holds other values than 0 and 1; {hint}") from err
        is_positive = _holds(column, self.positive)
        is_negative = ~is_positive if self.negative is None else _holds(column, self.negative)
        truth = pl.select(pl.when(is_positive).then(1.0).when(is_negative).then(0.0)).to_series()
        return truth.cast(pl.Float32).fill_null(float("nan")).to_numpy()

    def of_truth(self, truth: np.ndarray) -> np.ndarray:
        """The same of a label that is read as 1, 0, or NaN: `AFIB=0` calls those positive that do not have it."""
        return truth if self.positive is None else self.of_column(self.code, pl.Series(truth))

    def of_labels(self, where: str, listed: Labels) -> np.ndarray:
        """float32 (row,) of a table of labels: 1, 0, or NaN."""
        is_column = self.code in listed.groups.columns
        if self.code in listed.codes and (self.positive is None or not is_column):
            return self.of_truth(listed.is_positive[:, listed.codes.index(self.code)])
        if is_column:
            return self.of_column(where, listed.groups[self.code])
        known = told([*listed.codes, *listed.groups.columns], "label")
        raise UsageError(f"{where}: no label {self.code!r} among its {known}")


def _holds(column: pl.Series, value: str) -> pl.Series:
    """Whether each cell is that value, a number or truth however it is written; null where it is empty.

    A cell of `none`, or another word for an empty one, is that value where the value is that very word.
    """
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64).fill_nan(None) == _number(value)
    said = column.cast(pl.String).str.strip_chars()
    text = labels.filled(said)
    is_word = ((said == value.strip()) & (said != "")).fill_null(value=False)
    is_number = (text.cast(pl.Float64, strict=False) == _number(value)).fill_null(value=False)
    return (is_word | is_number).set(text.is_null() & ~is_word, None)


def _number(text: str) -> float:
    """NaN of what is neither a number nor a truth."""
    truth = {"true": "1", "false": "0"}
    try:
        return float(truth.get(text.strip().lower(), text))
    except ValueError:
        return float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Records of which it is known whether they are positive."""

    code: str
    x: np.ndarray
    """float32 (record, lead, time)"""
    y: np.ndarray
    """bool (record,)"""
    patients: np.ndarray
    """str (record,); those who share a waveform are one."""
    record_ids: np.ndarray
    columns: pl.DataFrame
    """What else is known, a row a record; `seconds` and `fs_hz` among it."""
    provenance: str
    sha256: str
    left_out: dict[str, int] = field(default_factory=dict)
    """Why ECGs of the sources are not among the records, and how many for each reason."""
    doubts: Doubts = field(default_factory=Doubts)

    def __post_init__(self) -> None:
        for side in (True, False):
            if (n := len(set(self.patients[self.y == side]))) < LEAST:
                kind = "positive" if side else "negative"
                raise UsageError(f"label {self.code!r}: {n} {kind} patients, expected at least {LEAST}")

    def first_seconds(self, seconds: float, spec: InputSpec) -> "Task":
        """The same with so many seconds of each ECG at most, as if it had ended then: length tells nothing.

        Raises:
            UsageError: a model of this input takes no ECG of that length.
        """
        if not spec.min_seconds <= seconds <= spec.seconds:
            raise UsageError(f"--seconds {seconds:g}, expected {spec.min_seconds:g} to {spec.seconds:g}")
        n_time = self.x.shape[2]
        own = n_time - (self.x != 0).any(1)[:, ::-1].argmax(1)  # of a shorter ECG, what is not padding
        n = np.minimum(own, round(seconds * spec.fs_hz))[:, None, None]
        is_left = np.arange(n_time) < n
        x = self.x * is_left
        if spec.filter == "offset":
            x -= is_left * (x.sum(-1, keepdims=True) / n)
        return replace(self, x=x)

    def column(self, name: str) -> pl.Series:
        """What is known of each record under that name.

        Raises:
            UsageError: nothing is.
        """
        if name not in self.columns.columns:
            raise UsageError(f"no column {name!r} among {told(self.columns.columns)}")
        return self.columns[name]


def read(
    given: Sequence[str],
    spec: InputSpec,
    meaning: Meaning,
    *,
    labels_path: Path | None,
    confounders: Sequence[str] = (),
) -> Task:
    """The records of the sources, as `sources.read` takes them, whose label is known and which `spec` can be made of.

    Raises:
        UsageError: there is no such label or column, or too few patients have it or do not.
        ArchiveError: a source cannot be listed.
    """
    cohort, facts = _beside(given, meaning, labels_path) if labels_path else _alone(given, meaning)
    known = ~np.isnan(cohort.targets[:, 0])
    left_out = Counter(cohort.left_out) + Counter({"label unknown": int((~known).sum())})
    cohort, facts = cohort.only(np.flatnonzero(known)), facts.filter(pl.Series(known))
    x = np.empty((len(cohort), len(spec.leads), spec.samples), np.float32)
    heard: list[tuple[float, float]] = []
    kept: list[int] = []
    for at, record in enumerate(cohort.read(np.arange(len(cohort)))):
        reason = _normalised(record, spec, x[len(kept)])
        if reason is None and isinstance(record, Record):
            kept.append(at)
            heard.append((record.seconds, record.fs_hz))
        else:
            left_out[str(reason)] += 1
    cohort = cohort.only(np.array(kept, np.int64))
    waveforms = np.array([waveform_of(one) for one in x[: len(kept)]], np.uint64)
    own = pl.DataFrame(heard, schema={"seconds": pl.Float64, "fs_hz": pl.Float64}, orient="row")
    rest = facts[kept].drop("seconds", "fs_hz", strict=False)
    task = Task(
        code=meaning.code,
        x=x[: len(kept)],
        y=cohort.targets[:, 0] == 1,
        patients=one_person(cohort.patients, waveforms),
        record_ids=cohort.record_ids,
        columns=pl.concat([own, rest], how="horizontal"),
        provenance=cohort.provenance,
        sha256=cohort.sha256,
        left_out=dict(left_out),
        doubts=Doubts.of(cohort.patients, waveforms),
    )
    for name in confounders:
        task.column(name)
    return task


def _normalised(record: Record | Reject, spec: InputSpec, out: np.ndarray) -> Reason | None:
    """Why a record cannot be scored; None where its input stands in `out`."""
    if isinstance(record, Reject):
        return record.reason
    if len(host.flat_leads(record)) == len(record.leads):
        return Reason.NO_SIGNAL
    try:
        host.normalise(record, spec, out)
    except RecordError as defect:
        return Reason(defect.reason)
    return None


def _alone(given: Sequence[str], meaning: Meaning) -> tuple[Cohort, pl.DataFrame]:
    """The cohort of sources that bring their labels along, and what else a table says of its records."""
    path = Path(given[0])
    if len(given) > 1 or not table.is_table(path):
        cohort = _coded(given, meaning)
        return cohort, pl.DataFrame(height=len(cohort))
    schema = pl.scan_parquet(path, glob=False).collect_schema()
    facts = pl.read_parquet(path, columns=[name for name, kind in schema.items() if not kind.is_nested()], glob=False)
    if meaning.code not in facts.columns:
        return _coded(given, meaning), facts.drop("patient_id", strict=False)
    if "patient_id" not in facts.columns:
        raise UsageError(f"{path.name}: no column patient_id, expected one; no patient may be on two sides of a split")
    ecgs = table.Table(path)
    cohort = Cohort(
        ecgs=ecgs,
        rows=np.arange(len(facts)),
        record_ids=np.array(ecgs.record_ids),
        patients=table.patients_of(facts["patient_id"], ecgs.record_ids),
        codes=(meaning.code,),
        targets=meaning.of_column(path.name, facts[meaning.code])[:, None],
        folds=None,
        provenance=pl.read_parquet_metadata(path).get("provenance", "not stated"),
        sha256=ecgs.sha256,
    )
    return cohort, facts.drop("patient_id")


def _coded(given: Sequence[str], meaning: Meaning) -> Cohort:
    cohort = sources.read(given).labelled([meaning.code])
    return replace(cohort, targets=meaning.of_truth(cohort.targets[:, 0])[:, None])


def _beside(given: Sequence[str], meaning: Meaning, path: Path) -> tuple[Cohort, pl.DataFrame]:
    """The cohort of sources whose labels stand in a table, and the other columns of the table."""
    listed = labels.read(path, may_lack_labels=True)
    targets = meaning.of_labels(str(path), listed)
    # Each row its own patient at first, so that the cohort tells which row a record is.
    rows = np.arange(len(listed.record_ids)).astype(str)
    own = replace(listed, codes=(meaning.code,), is_positive=targets[:, None], patients=rows)
    cohort = sources.read(given, labels=own).labelled([meaning.code])
    row = cohort.patients.astype(np.int64)
    return replace(cohort, patients=listed.patients[row]), listed.groups[row]
