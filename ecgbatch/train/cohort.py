"""Labelled ECGs: where their samples lie, the patients they come from, what is known of them, and their folds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import numpy as np
import polars as pl
import xxhash

from ecgbatch.errors import UsageError
from ecgbatch.record import Record, Reject
from ecgbatch.train.columns import told

__all__ = ["Cohort", "Doubts", "Ecgs", "commonest", "n_unknown_patients", "one_person", "waveform_of"]


class Ecgs(Protocol):
    """Where the samples of ECGs lie; nothing is held in memory but what says where."""

    block: np.ndarray
    """int (ecg,): a few hundred ECGs of one number lie together and are best read together; it never falls."""

    def read(self, at: np.ndarray) -> Iterator[Record | Reject]:
        """The ECGs of these numbers, which ascend, in that order; any thread may ask."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """Labelled ECGs in the order in which they lie."""

    ecgs: Ecgs
    rows: np.ndarray
    """int (record,): which of `ecgs` each record is; ascends."""
    record_ids: np.ndarray
    """str (record,)"""
    patients: np.ndarray
    """str (record,); two records of one patient never stand on two sides of a split."""
    codes: tuple[str, ...]
    """Of the labels."""
    targets: np.ndarray
    """float32 (record, label): 1, 0, or NaN where it is unknown."""
    folds: np.ndarray | None
    """int (record,), where whoever collected the ECGs has split them."""
    provenance: str
    sha256: str
    """Of all that the cohort is made of."""
    columns: pl.DataFrame = field(default_factory=pl.DataFrame)
    """What else is known of the records, a row a record: age, sex, device; no column where nothing is."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why ECGs of the sources are not among the records, and how many for each reason."""

    def __post_init__(self) -> None:
        n = len(self.rows)
        shapes = {
            len(self.record_ids),
            len(self.patients),
            len(self.targets),
            n if self.folds is None else len(self.folds),
            self.columns.height if self.columns.width else n,
        }
        assert shapes == {n}
        assert self.targets.shape == (n, len(self.codes))
        assert self.targets.dtype == np.float32

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, at: np.ndarray) -> Iterator[Record | Reject]:
        """The records of these numbers, which ascend, in that order."""
        return self.ecgs.read(self.rows[at])

    def only(self, at: np.ndarray) -> "Cohort":
        """The cohort of these records: int (record,), ascending, or bool."""
        return replace(
            self,
            rows=self.rows[at],
            record_ids=self.record_ids[at],
            patients=self.patients[at],
            targets=self.targets[at],
            folds=None if self.folds is None else self.folds[at],
            columns=self.columns[np.arange(len(self))[at]] if self.columns.width else self.columns,
        )

    def known(self) -> "Cohort":
        """Without the records of which no label is known."""
        is_known = ~np.isnan(self.targets).all(axis=1)
        left_out = {**self.left_out, "labels unknown": int((~is_known).sum())}
        return replace(self.only(np.flatnonzero(is_known)), left_out=left_out)

    def labelled(self, codes: Sequence[str]) -> "Cohort":
        """The same records with these labels, in this order.

        Raises:
            UsageError: one of them is not there.
        """
        if unknown := [code for code in codes if code not in self.codes]:
            raise UsageError(f"cohort: no label {', '.join(unknown)} among its {told(self.codes, 'label')}")
        columns = [self.codes.index(code) for code in codes]
        return replace(self, codes=tuple(codes), targets=self.targets[:, columns])


def waveform_of(x: np.ndarray) -> int:
    """64 bits of an ECG as a network is fed it; equal for equal ones."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(x).data)


def one_person(patients: np.ndarray, waveforms: np.ndarray) -> np.ndarray:
    """The patients (record,), those who share a waveform called alike: an ECG that stands twice is one person's."""
    names, patient = np.unique(patients, return_inverse=True)
    _, waveform = np.unique(waveforms, return_inverse=True)
    person = patient
    while True:
        joined = _least(_least(person, of=waveform), of=patient)
        if np.array_equal(joined, person):
            return names[person]
        person = joined


def _least(value: np.ndarray, *, of: np.ndarray) -> np.ndarray:
    """The least value of each record's group."""
    least = np.full(of.max(initial=0) + 1, value.max(initial=0))
    np.minimum.at(least, of, value)
    return least[of]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What a split by patient cannot be sure of, in numbers of ECGs."""

    n_without_patient: int = 0
    n_shared_waveforms: int = 0
    """That stand under another patient too."""

    @classmethod
    def of(cls, patients: np.ndarray, waveforms: np.ndarray) -> "Doubts":
        """Those about the patients of (record,) with these waveforms."""
        each = pl.DataFrame({"patient": patients.astype(str), "waveform": waveforms})
        n_shared = each.select((pl.col("patient").n_unique().over("waveform") > 1).sum()).item()
        return cls(n_without_patient=n_unknown_patients(patients), n_shared_waveforms=n_shared)

    @property
    def facts(self) -> dict[str, int]:
        """Those that there are."""
        return {name: n for name, n in asdict(self).items() if n}

    @property
    def lines(self) -> list[str]:
        """The same for a person."""
        lines = []
        if n := self.n_without_patient:
            lines.append(
                f"{n} ECGs are of no known patient, and each counts as one: who has several may be on two sides"
            )
        if n := self.n_shared_waveforms:
            lines.append(f"{n} ECGs have the waveform of another patient's, and those patients count as one")
        return lines


def n_unknown_patients(patients: np.ndarray) -> int:
    """How many records (record,) are of no known patient, by the names that `labels.patients_of` gives these."""
    return int(pl.Series(patients.astype(str)).str.contains(r"^(\d+/)?record ").sum())


def commonest(cohort: Cohort, *, n_positives: int) -> tuple[str, ...]:
    """The labels of at least so many positives, and of a negative; the commonest first."""
    counts = dict(zip(cohort.codes, np.nansum(cohort.targets, axis=0), strict=True))
    has_negative = dict(zip(cohort.codes, (cohort.targets == 0).any(axis=0), strict=True))
    kept = [code for code, n in counts.items() if n >= n_positives and has_negative[code]]
    return tuple(sorted(kept, key=lambda code: (-counts[code], code)))
