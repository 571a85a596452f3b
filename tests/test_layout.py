"""Bare arrays: nothing is known of them but what the `layout.toml` beside them declares."""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import archive, formats, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INVALID, LEADS, Reason, Record

COUNTS = np.random.default_rng(4).integers(-3000, 3000, (12, 1000)).astype(np.int16)


def declaration(**changes: object) -> bytes:
    """A `layout.toml`; a change to None leaves a key out."""
    keys = {"fs_hz": 500, "unit": "uV", "leads": list(LEADS), "orientation": "lead,time", **changes}
    return "".join(f"{key} = {toml(value)}\n" for key, value in keys.items() if value is not None).encode()


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def csv(array: np.ndarray, *, fmt: str = "%g", **how: str) -> bytes:
    file = io.StringIO()
    np.savetxt(file, array, fmt=fmt, comments="", **how)
    return file.getvalue().encode()


def decode(raw: bytes, name: str = "ecg.npy", layout: bytes | None = None) -> Record:
    return formats.decode(raw, name, beside({"layout.toml": declaration() if layout is None else layout}))


def beside(files: Mapping[str, bytes]) -> Callable[[str], bytes]:
    def sibling(name: str) -> bytes:
        if name not in files:
            raise RecordError(Reason.MISSING_SIGNAL, "no such file")
        return files[name]

    return sibling


def refusal(raw: bytes, name: str = "ecg.npy", layout: bytes | None = None) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw, name, layout)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
@pytest.mark.parametrize("kind", ["<i2", ">i2", "<i4", ">i4", "<i8", "<u2", "<f4", ">f4", "<f8"])
def test_an_array_of_any_type_keeps_its_values(version, kind):
    values = np.abs(COUNTS) if kind[1] == "u" else COUNTS
    record = decode(npy(values.astype(kind), version))

    assert (record.format, record.fs_hz, record.leads) == ("npy", 500.0, LEADS)
    assert record.counts.dtype in (np.int16, np.int32)
    assert record.counts.dtype.isnative
    assert_array_equal(waveform.nanovolts(record, LEADS), values.astype(np.int64) * 1000)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("orientation", ["lead,time", "time,lead"])
def test_an_array_may_lie_in_any_order(order, orientation):
    array = np.asarray(COUNTS if orientation == "lead,time" else COUNTS.T, order=order)

    assert_array_equal(decode(npy(array), layout=declaration(orientation=orientation)).counts, COUNTS)


@pytest.mark.parametrize(("unit", "uv"), [("nV", 1e-3), ("uV", 1.0), ("mV", 1e3), ("V", 1e6)])
@pytest.mark.parametrize("kind", ["i2", "f4", "f8"])
def test_the_unit_is_the_declared_one(unit, uv, kind):
    values = np.tile([2, -1, 0], (12, 5)).astype(kind)
    record = decode(npy(values), layout=declaration(unit=unit))

    microvolts = record.counts * np.array(record.uv_per_count)[:, None]
    np.testing.assert_allclose(microvolts, values.astype(float) * uv, rtol=1e-12)


def test_floating_point_loses_nothing_that_a_nanovolt_shows():
    millivolts = np.random.default_rng(2).normal(0, 0.5, (12, 500))
    record = decode(npy(millivolts), layout=declaration(unit="mV"))

    assert_array_equal(waveform.nanovolts(record, LEADS), np.rint(millivolts * 1e6))


def test_nan_is_a_missing_sample():
    values = COUNTS.astype(np.float32)
    values[3, 7:9] = np.nan
    record = decode(npy(values))

    assert record.invalid_count == INVALID
    assert_array_equal(record.counts == INVALID, np.isnan(values))


def test_channels_that_are_no_standard_leads_are_left_alone():
    record = decode(npy(COUNTS), layout=declaration(leads=["ppg", *LEADS[:6], "V7", *LEADS[8:]]))

    assert record.leads == (*LEADS[:6], *LEADS[8:])
    assert_array_equal(record.counts, COUNTS[[1, 2, 3, 4, 5, 6, 8, 9, 10, 11]])


@pytest.mark.parametrize("separator", [",", ";", "\t", " "], ids=["comma", "semicolon", "tab", "space"])
@pytest.mark.parametrize("orientation", ["lead,time", "time,lead"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_table_of_numbers_is_read(separator, orientation, newline):
    array = COUNTS[:, :200] if orientation == "lead,time" else COUNTS[:, :200].T
    raw = csv(array, delimiter=separator, newline=newline)
    record = decode(raw, "ecg.csv", declaration(orientation=orientation))

    assert (record.format, record.leads) == ("csv", LEADS)
    assert_array_equal(waveform.nanovolts(record, LEADS), COUNTS[:, :200].astype(np.int64) * 1000)


@pytest.mark.parametrize(
    "names",
    [
        ",".join(LEADS),
        ",".join(f'"{lead}"' for lead in LEADS),
        ",".join("abcdefghjkmn"),
        pytest.param(",".join(map(str, range(12))), id="the numbers that pandas gives to columns without names"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_a_line_of_names_is_no_sample(names, mark):
    raw = mark + csv(COUNTS[:, :50].T, delimiter=",", header=names)
    record = decode(raw, "ECG.CSV", declaration(orientation="time,lead"))

    assert record.n_samples == 50


@pytest.mark.parametrize("first", [b"0", b"1"])
def test_one_column_that_begins_with_a_number_has_no_names(first):
    record = decode(first + b"\n5\n7\n", "x.csv", declaration(leads=["II"], unit="mV", orientation="time,lead"))

    assert record.counts.tolist() == [[int(first) * 1_000_000, 5_000_000, 7_000_000]]


@pytest.mark.parametrize("n_missing", [1, 3])
def test_a_table_may_begin_with_missing_samples(n_missing):
    raw = b"nan,NaN\n" * n_missing + b"1,2\n"
    record = decode(raw, "x.csv", declaration(leads=["I", "II"], unit="mV", orientation="time,lead"))

    assert record.counts.tolist() == [[INVALID] * n_missing + [1_000_000], [INVALID] * n_missing + [2_000_000]]


def test_decimals_exponents_and_nan_are_read_from_a_table():
    raw = b"0.25,-1e-2\nnan,3\n+4.,.5\n"
    record = decode(raw, "x.csv", declaration(leads=["I", "II"], unit="mV", orientation="time,lead"))

    assert record.counts.tolist() == [[250_000, INVALID, 4_000_000], [-10_000, 3_000_000, 500_000]]


def test_without_a_layout_an_array_is_refused_with_what_to_write():
    for raw, name in ((npy(COUNTS), "a.npy"), (csv(COUNTS), "a.csv")):
        with pytest.raises(
            RecordError, match=r"expected layout.toml beside it with fs_hz, unit .*leads.*orientation"
        ) as defect:
            formats.decode(raw, name, beside({}))
        assert defect.value.reason == Reason.UNKNOWN_GAIN


def test_a_layout_that_cannot_be_read_is_refused_for_that():
    def sibling(name: str) -> bytes:
        raise RecordError(Reason.UNREADABLE, "Permission denied")

    with pytest.raises(RecordError) as defect:
        formats.decode(npy(COUNTS), "a.npy", sibling)
    assert defect.value.reason == Reason.UNREADABLE


LAYOUTS: dict[str, tuple[bytes, Reason]] = {
    "unknown key": (declaration(gain=5), Reason.MALFORMED),
    "key with a line break": (declaration() + b'"a\\nb" = 1\n', Reason.MALFORMED),
    "no rate": (declaration(fs_hz=None), Reason.MALFORMED),
    "no unit": (declaration(unit=None), Reason.MALFORMED),
    "no leads": (declaration(leads=None), Reason.MALFORMED),
    "no orientation": (declaration(orientation=None), Reason.MALFORMED),
    "rate a text": (declaration(fs_hz="500"), Reason.UNKNOWN_RATE),
    "rate a truth": (declaration(fs_hz=True), Reason.UNKNOWN_RATE),
    "rate 0": (declaration(fs_hz=0), Reason.UNKNOWN_RATE),
    "rate nan": (b"fs_hz = nan\n" + declaration(fs_hz=None), Reason.UNKNOWN_RATE),
    "unit unknown": (declaration(unit="MV"), Reason.UNKNOWN_GAIN),
    "unit a list": (declaration(unit=["uV"]), Reason.UNKNOWN_GAIN),
    "orientation unknown": (declaration(orientation="time"), Reason.MALFORMED),
    "orientation a list": (declaration(orientation=["lead", "time"]), Reason.MALFORMED),
    "variable a number": (declaration(variable=3), Reason.MALFORMED),
    "leads a text": (declaration(leads="I"), Reason.MALFORMED),
    "leads of numbers": (declaration(leads=[1, 2]), Reason.MALFORMED),
    "no standard lead": (declaration(leads=["x"] * 12), Reason.MISSING_LEADS),
    "lead twice": (declaration(leads=["I", "Lead I", *LEADS[2:]]), Reason.DUPLICATE_LEAD),
    "fewer leads than rows": (declaration(leads=list(LEADS[:8])), Reason.MALFORMED),
    "other orientation": (declaration(orientation="time,lead"), Reason.MALFORMED),
    "not TOML": (b"fs_hz: 500\n", Reason.MALFORMED),
    "not text": (b"\xff\xfe\0", Reason.MALFORMED),
    "nested without end": (b"a = " + b"[" * 5000, Reason.MALFORMED),
    "far too long": (declaration() + b"#" * 70_000, Reason.MALFORMED),
}


@pytest.mark.parametrize(("layout", "reason"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_is_not_one_is_refused(layout, reason):
    assert refusal(npy(COUNTS), layout=layout) == reason


def with_header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + COUNTS.tobytes()


ARRAYS: dict[str, tuple[bytes, Reason]] = {
    "one axis": (npy(COUNTS[0]), Reason.MALFORMED),
    "three axes": (npy(COUNTS[None]), Reason.MALFORMED),
    "no samples": (npy(COUNTS[:, :0]), Reason.MALFORMED),
    "complex": (npy(COUNTS.astype(np.complex64)), Reason.MALFORMED),
    "text": (npy(COUNTS.astype("U4")), Reason.MALFORMED),
    "truths": (npy(COUNTS > 0), Reason.MALFORMED),
    "structured": (npy(COUNTS.view([("a", "<i2")])), Reason.MALFORMED),
    "infinite": (npy(np.full((12, 9), np.inf)), Reason.MALFORMED),
    "beyond 2 V": (npy(np.full((12, 9), 3e6)), Reason.MALFORMED),
    "integers beyond any sample": (npy(np.full((12, 9), 2**31)), Reason.MALFORMED),
    "bytes after it": (npy(COUNTS) + b"\0", Reason.MALFORMED),
    "a version that is none": (b"\x93NUMPY\x09" + npy(COUNTS)[7:], Reason.MALFORMED),
    "shape beyond the file": (
        with_header("{'descr': '<i2', 'fortran_order': False, 'shape': (12, 999999999), }"),
        Reason.TRUNCATED,
    ),
    "shape of words": (with_header("{'descr': '<i2', 'fortran_order': False, 'shape': (1 2, 3)}"), Reason.MALFORMED),
    "an expression": (with_header("__import__('os')"), Reason.MALFORMED),
}


@pytest.mark.parametrize(("raw", "reason"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_that_is_damaged_or_no_ecg_is_refused(raw, reason):
    assert refusal(raw) == reason


TABLES: dict[str, tuple[bytes, Reason]] = {
    "ragged": (b"1,2\n3\n", Reason.MALFORMED),
    "a word": (b"1,2\n3,x\n", Reason.MALFORMED),
    "a word in the first line": (b"NA,2\n3,4\n", Reason.MALFORMED),
    "infinite in the first line": (b"inf,2\n3,4\n", Reason.MALFORMED),
    "an empty field": (b"1,2\n3,\n", Reason.MALFORMED),
    "a decimal comma": (b"1,5;2,5\n3,5;1,5\n", Reason.MALFORMED),
    "infinite": (b"1,2\n3,inf\n", Reason.MALFORMED),
    "last line cut": (b"1,2\n3,4", Reason.TRUNCATED),
    "columns in another order": (b"II,I\n1,2\n", Reason.MALFORMED),
    "more names than leads": (b"t,I,II\n1,2,3\n", Reason.MALFORMED),
    "more columns than leads": (b"1,2,3\n", Reason.MALFORMED),
    "words only": (b"name,age\nI,II\n", Reason.UNKNOWN_FORMAT),
}


@pytest.mark.parametrize(("raw", "reason"), TABLES.values(), ids=TABLES)
def test_a_table_that_is_damaged_or_no_ecg_is_refused(raw, reason):
    layout = declaration(leads=["I", "II"], orientation="time,lead")

    assert refusal(raw, "x.csv", layout) == reason


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"1,5;2,5\n3,5;1,5\n", "decimal points"),
        (b"I;II\n1,5;2,5\n", "decimal points"),
        (b"1,5\t2,5\n", "decimal points"),
        (b"1;2\n1,5;2,5\n", "decimal points"),
        (b"I,II\nmV,mV\n1,2\n", "a single line of names"),
    ],
    ids=str,
)
def test_a_table_as_some_programs_export_it_is_refused_with_what_is_expected(raw, words):
    with pytest.raises(RecordError, match=words):
        decode(raw, "x.csv", declaration(leads=["I", "II"], orientation="time,lead"))


def test_names_need_columns_to_stand_over():
    assert refusal(b"I,II\n1,2\n3,4\n", "x.csv", declaration(leads=["I", "II"])) == Reason.MALFORMED


def test_an_array_cut_anywhere_is_refused_as_truncated():
    raw = npy(COUNTS[:, :50])

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


def test_a_table_cut_within_a_line_is_refused():
    raw = csv(COUNTS[:, :20].T, delimiter=",")
    cuts = [n for n in range(10, len(raw), 10) if raw[n - 1 : n] != b"\n"]

    assert {refusal(raw[:n], "x.csv", declaration(orientation="time,lead")) for n in cuts} == {Reason.TRUNCATED}


@given(st.lists(st.tuples(st.integers(6, 300), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=200, deadline=2000)
def test_damaged_bytes_give_a_record_or_a_reject(flips, is_table):
    raw = bytearray(csv(COUNTS[:, :9].T, delimiter=",") if is_table else npy(COUNTS[:, :9]))
    for at, value in flips:
        raw[at % len(raw)] = value
    with suppress(RecordError):
        layout = declaration(orientation="time,lead" if is_table else "lead,time")
        assert decode(bytes(raw), "x.csv" if is_table else "x.npy", layout).leads == LEADS


def listed(folder: Path) -> list[str]:
    entries = archive.scan([folder], companions=formats.companions, skip=Path("/nonexistent"))
    return [entry.record_id for entry in entries]


def test_a_layout_is_no_entry_where_arrays_lie_beside_it(tmp_path):
    for name in ("a/1.npy", "a/layout.toml", "b/1.csv", "b/layout.toml", "c/1.xml", "c/layout.toml", "d/layout.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    assert listed(tmp_path) == ["a/1.npy", "b/1.csv", "c/1.xml", "c/layout.toml", "d/layout.toml"]


def test_a_signal_file_that_a_header_names_stays_out_of_the_plan(tmp_path, ecg):
    from ecgbatch import synth

    for name, content in synth.wfdb_files(ecg, "r", container="mat").items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "layout.toml").write_bytes(declaration())

    assert listed(tmp_path) == ["layout.toml", "r.hea"]


def test_arrays_are_scored_and_a_layout_that_changes_is_seen(tmp_path, scored):
    from ecgbatch import synth

    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "layout.toml").write_bytes(declaration(leads=list(LEADS)))
    ecg = synth.record(seed=1, leads=LEADS)
    (folder / "1.npy").write_bytes(npy(ecg.counts * np.float32(4.88)))
    _, scores, rejects = scored(folder)

    assert scores["record_id"].to_list() == ["1.npy"]
    assert rejects.height == 0
    before = list(archive.scan([folder], companions=formats.companions, skip=Path("/nonexistent")))
    (folder / "layout.toml").write_bytes(declaration(unit="mV", leads=list(LEADS)))
    assert list(archive.scan([folder], companions=formats.companions, skip=Path("/nonexistent"))) != before
