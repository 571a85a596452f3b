"""HDF5 in CODE-15's layout: every exam is an entry, and no other HDF5 passes for it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import archive, formats
from ecgbatch.archive import Entry
from ecgbatch.errors import RecordError
from ecgbatch.feed import batch, host
from ecgbatch.formats import code15
from ecgbatch.record import LEADS, Reason, Record, Reject


def scan(source: Path) -> list[Entry]:
    return list(archive.scan([source], companions=formats.companions, skip=Path("/nonexistent")))


def write(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def reasons(source: Path) -> list[Reason]:
    found = [batch.read(entry) for entry in scan(source)]
    return [outcome.reason for outcome in found if isinstance(outcome, Reject)]


def tracings(rng, n: int) -> np.ndarray:
    return rng.normal(0, 0.3, (n, 4096, 12)).astype("f4")


def test_a_real_part_is_read_as_h5py_reads_it(data):
    path = data / "formats" / "samples" / "hdf5_code15" / "DERIVED_exams_part_tiny.hdf5"
    records = [batch.read(entry) for entry in scan(path)]
    with h5py.File(path) as file:
        expected = file["tracings"][...]

    assert [entry.record_id for entry in scan(path)] == [f"{path.name}#{row}" for row in range(4)]
    assert [(record.n_samples, record.fs_hz, record.leads) for record in records[:3]] == [
        (n, 400.0, LEADS) for n in (2934, 4096, 4096)
    ]
    assert_allclose(records[0].counts.T * 1e-6, expected[0, 581:3515], rtol=0, atol=1e-6)
    assert_allclose(records[1].counts.T * 1e-6, expected[1], rtol=0, atol=1e-6)


def test_the_limb_leads_of_a_real_part_are_what_the_layout_says(data):
    path = data / "formats" / "samples" / "hdf5_code15" / "DERIVED_exams_part_tiny.hdf5"
    one, two, three, avr, avl, avf = batch.read(scan(path)[0]).counts[:6].astype(np.int64)

    assert np.abs(one + three - two).max() <= 2
    assert np.abs(avr + avl + avf).max() <= 50_000  # nV; stored to a coarser step than I and II


def test_missing_samples_are_marked(tmp_path, rng):
    mv = tracings(rng, 1)
    mv[0, 5, 0] = np.nan
    record = batch.read(scan(write(tmp_path / "a.h5", tracings=mv, exam_id=np.arange(1)))[0])

    assert isinstance(record, Record)
    assert_array_equal(np.argwhere(record.counts == record.invalid_count), [[0, 5]])


def test_zeros_around_an_exam_are_none_of_it_and_the_dummy_that_ends_a_part_is_flat(tmp_path, rng):
    mv = tracings(rng, 3)
    mv[1, :40], mv[1, 4040:], mv[2] = 0, 0, 0
    records = [batch.read(entry) for entry in scan(write(tmp_path / "a.h5", tracings=mv, exam_id=np.array([7, 5, 0])))]

    assert [record.n_samples for record in records] == [4096, 4000, 4096]
    assert [host.flat_leads(record) for record in records] == [(), (), LEADS]


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"signal": np.zeros((3, 4096, 12), "f4")}, Reason.UNKNOWN_FORMAT),
        ({"tracings": np.zeros((3, 12, 4096), "f4"), "exam_id": np.arange(3)}, Reason.UNKNOWN_FORMAT),
        ({"tracings": np.zeros((3, 4096, 12), "i2"), "exam_id": np.arange(3)}, Reason.UNKNOWN_FORMAT),
        ({"tracings": np.zeros((3, 4096, 12), "f4"), "exam_id": np.arange(2)}, Reason.UNKNOWN_FORMAT),
        ({"tracings": np.zeros((3, 4096, 12), "f4")}, Reason.UNKNOWN_FORMAT),
    ],
    ids=["other-names", "lead-first", "integers", "ids-that-do-not-fit", "without-ids"],
)
def test_hdf5_of_another_layout_is_one_reject(tmp_path, datasets, reason):
    assert reasons(write(tmp_path / "a.h5", **datasets)) == [reason]


def test_a_file_cut_anywhere_is_one_reject(tmp_path, rng):
    mv = tracings(rng, 2)
    path = write(tmp_path / "a.h5", tracings=mv, exam_id=np.arange(2))
    for exam, entry in zip(mv, scan(path), strict=True):
        assert_allclose(batch.read(entry).counts.T * 1e-6, exam, rtol=0, atol=1e-6)
    whole = path.read_bytes()
    for n in [*range(0, len(whole), len(whole) // 15), len(whole) - 1]:
        (tmp_path / "cut.h5").write_bytes(whole[:n])

        assert len(scan(tmp_path / "cut.h5")) == 1
        assert reasons(tmp_path / "cut.h5") == [Reason.MALFORMED if n else Reason.EMPTY]


def test_a_file_that_changed_since_the_plan_is_not_read(tmp_path, rng):
    entries = scan(write(tmp_path / "a.h5", tracings=tracings(rng, 1), exam_id=np.arange(1)))
    write(tmp_path / "b.h5", tracings=tracings(rng, 2), exam_id=np.arange(2)).replace(tmp_path / "a.h5")

    assert batch.read(entries[0]).reason == Reason.SOURCE_CHANGED


def test_a_file_without_exams_is_a_reject(tmp_path):
    path = write(tmp_path / "none.h5", tracings=np.empty((0, 4096, 12), "f4"), exam_id=np.empty(0, "i8"))

    assert reasons(path) == [Reason.EMPTY]


@pytest.mark.parametrize("member", ["1", "-1", "01", "x"])
def test_a_row_that_is_not_there_is_said_to_be_missing(tmp_path, rng, member):
    path = write(tmp_path / "a.h5", tracings=tracings(rng, 1), exam_id=np.arange(1))

    with pytest.raises(RecordError, match="no exam of this row"):
        code15.opened(str(path)).record(member)


@pytest.mark.parametrize("mv", [np.inf, -np.inf, 3e6])
def test_a_value_that_is_no_voltage_is_a_reject(tmp_path, rng, mv):
    exams = tracings(rng, 1)
    exams[0, 100, 3] = mv

    assert reasons(write(tmp_path / "far.h5", tracings=exams, exam_id=np.arange(1))) == [Reason.MALFORMED]
