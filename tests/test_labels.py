"""Tables of labels: every way to write them says the same, and what cannot be meant is refused without quoting it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from ecgbatch.errors import UsageError
from ecgbatch.train import labels, table

SECRET = "Jane Doe"


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("AFIB;LVH", {"AFIB", "LVH"}),
        ("AFIB, LVH", {"AFIB", "LVH"}),
        (" LVH  AFIB ", {"AFIB", "LVH"}),
        ("sinus rhythm; LVH", {"sinus rhythm", "LVH"}),
        ('["AFIB", "LVH"]', {"AFIB", "LVH"}),
        ("{'AFIB': 100.0, 'LVH': 0.0}", {"AFIB", "LVH"}),
        ('{"AFIB": true, "LVH": false}', {"AFIB"}),
        ('{"AFIB": null}', {"AFIB"}),
        ("[164889003, 427084000]", {"164889003", "427084000"}),
        ("{'AFIB', 'LVH'}", {"AFIB", "LVH"}),
        ("{'AFIB': [1, 0], 'LVH': 1}", {"AFIB", "LVH"}),
        ("[]", set()),
        ("{}", set()),
    ],
)
def test_codes_are_read_however_they_are_written(tmp_path, cell, expected):
    path = tmp_path / "labels.csv"
    pl.DataFrame({"record_id": ["a", "b"], "codes": [cell, "OTHER"]}).write_csv(path)

    read = labels.read(path)

    assert {code for code, truth in zip(read.codes, read.is_positive[0], strict=True) if truth == 1} == expected
    assert set(read.codes) == expected | {"OTHER"}


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        (pl.List(pl.String), [["AFIB", "LVH"], ["AFIB"], [], None]),
        (
            pl.List(pl.Struct({"code": pl.String, "likelihood": pl.Float32})),
            [
                [{"code": "AFIB", "likelihood": 0.0}, {"code": "LVH", "likelihood": 15.0}],
                [{"code": "AFIB", "likelihood": 100.0}],
                [],
                None,
            ],
        ),
    ],
    ids=["strings", "structures"],
)
def test_lists_of_codes_are_read_from_parquet(tmp_path, kind, cells):
    path = tmp_path / "labels.parquet"
    rows = {"record_id": list("abcd"), "scp_codes": pl.Series(cells, dtype=kind), "age": [1, 2, 3, 4]}
    pl.DataFrame(rows).write_parquet(path)

    read = labels.read(path)

    assert read.codes == ("AFIB", "LVH")
    assert_array_equal(read.is_positive, [[1, 1], [1, 0], [0, 0], [np.nan, np.nan]])


def test_columns_of_truths_are_labels_and_an_empty_cell_is_unknown(tmp_path):
    path = write(tmp_path / "labels.csv", "record_id,AFIB,LVH,age,sex\na,1,true,70,0\nb,0,,61,1\nc,,FALSE,,0\n")

    read = labels.read(path)

    assert read.codes == ("AFIB", "LVH")
    assert_array_equal(read.is_positive, np.array([[1, 1], [0, np.nan], [np.nan, 0]], np.float32))
    assert read.groups["age"].to_list() == [70, 61, None]


@pytest.mark.parametrize("kind", [pl.Boolean, pl.Int8, pl.Float32], ids=str)
def test_truths_are_read_from_parquet_whatever_their_type(tmp_path, kind):
    path = tmp_path / "labels.parquet"
    pl.DataFrame({"path": ["a", "b", "c"], "AFIB": pl.Series([1, 0, None]).cast(kind)}).write_parquet(path)

    assert_array_equal(labels.read(path).is_positive[:, 0], [1, 0, np.nan])


def test_a_table_whose_label_is_named_by_its_value_may_have_no_other(tmp_path):
    path = write(tmp_path / "labels.csv", "path,grade\na,0\nb,1\nc,2\n")
    listed = labels.read(path, may_lack_labels=True)

    assert (listed.codes, listed.is_positive.shape) == ((), (3, 0))
    assert listed.groups["grade"].to_list() == [0, 1, 2]
    with pytest.raises(UsageError, match="no label, expected columns of 0 and 1"):
        labels.read(path)


def test_a_column_of_nothing_is_no_label_of_a_model(tmp_path):
    path = write(tmp_path / "labels.csv", "path,AFIB,PACE\na,1,\nb,0,\n")

    assert labels.read(path, known_codes=["AFIB", "PACE"]).codes == ("AFIB",)


@pytest.mark.parametrize("empty", ["NA", "nan", "NULL", "None", "<NA>", " "])
def test_an_empty_cell_is_unknown_however_it_is_written(tmp_path, empty):
    rows = ["record_id,patient_id,AFIB,PVC,age", "a,p,1,E,61", "b,E,E,E,70", "c,E,0,E,E"]
    read = labels.read(write(tmp_path / "truths.csv", "\n".join(rows).replace("E", empty)), known_codes=["AFIB", "PVC"])
    listed = labels.read(write(tmp_path / "codes.csv", f"record_id,codes\na,AFIB\nb,{empty}\nc,[]\n"))

    assert read.codes == ("AFIB",)
    assert_array_equal(read.is_positive[:, 0], [1, np.nan, 0])
    assert (len(set(read.patients)), read.n_without_patient) == (3, 2)
    assert read.groups["age"].to_list() == [61, 70, None]
    assert listed.codes == ("AFIB",)
    assert_array_equal(listed.is_positive[:, 0], [1, np.nan, 0])


@pytest.mark.parametrize(
    "cells", [["{'AFIB': 1, 'LVH': 0}", "{'AFIB': 0, 'LVH': 0}"], ['{"AFIB": 1.0, "LVH": 0.0}', ""]]
)
def test_dictionaries_of_0_and_1_are_not_taken_for_likelihoods(tmp_path, cells):
    path = tmp_path / "labels.csv"
    pl.DataFrame({"record_id": ["a", "b"], "codes": cells}).write_csv(path)

    with pytest.raises(UsageError, match="dictionaries of 0 and 1"):
        labels.read(path)


def test_a_table_that_is_parted_by_something_else_than_commas_is_told_so(tmp_path):
    path = write(tmp_path / "labels.csv", "record_id;patient_id;AFIB\na;p;1\n")

    with pytest.raises(UsageError, match="one column, expected commas"):
        labels.read(path)


def test_named_columns_are_the_labels_and_no_others(tmp_path):
    path = write(tmp_path / "labels.csv", "exam,who,AFIB,sex,codes\na,p1,1,0,X\nb,p1,0,1,Y\n")

    read = labels.read(path, record_column="exam", patient_column="who", label_columns=["sex"])

    assert read.codes == ("sex",)
    assert len(set(read.patients)) == 1
    assert read.n_without_patient == 0


def test_a_record_without_a_patient_is_its_own(tmp_path):
    path = write(tmp_path / "labels.csv", "record_id,patient_id,AFIB\na,p,1\nb,,0\nc,,0\np,p,1\n")

    read = labels.read(path)

    assert len(set(read.patients)) == 3
    assert read.n_without_patient == 2


def test_a_patient_is_one_with_and_without_spaces(tmp_path):
    path = write(tmp_path / "labels.csv", "path,patient_id,AFIB\na,p1,1\nb,p1 ,0\nc, p1,0\n")

    assert set(labels.read(path).patients) == {"patient p1"}
    assert set(table.patients_of(pl.Series(["p1", "p1 "]), ["a", "b"])) == {"p1"}


def test_the_file_is_told_by_its_hash(tmp_path):
    import hashlib

    path = write(tmp_path / "labels.csv", "record_id,AFIB\na,1\n")

    assert labels.read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"record_id,AFIB\n{SECRET},1\n{SECRET},0\n", "row 2 repeats a record"),
        ("record_id,AFIB\na,1\n,0\n", "'record_id' is empty in 1 rows"),
        (f"name,AFIB\n{SECRET},1\n", "no column 'record_id' or 'source_path' or 'path'"),
        (f"record_id,name\na,{SECRET}\n", "no label"),
        (f"record_id,AFIB\na,1\nb,{SECRET}\n", "column 'AFIB' holds other values than 0, 1"),
        (f"record_id,LVH,AFIB\na,1,1\nb,1,{SECRET}\n", "column 'AFIB' holds other values than 0, 1"),
        ("record_id,LVH,AFIB\na,1,1\nb,1,2\n", "column 'AFIB' holds other values than 0, 1"),
        (f'record_id,codes\na,"{{{SECRET}"\n', "column 'codes', row 1: neither codes nor"),
        ('record_id,codes\na,"[[1], [2]]"\n', "column 'codes', row 1: neither codes nor"),
        (f"record_id,codes\na,{'[' * 15_000}\n", "column 'codes', row 1: neither codes nor"),
        (f"record_id,codes\na,{'x' * 30_000}\n", "column 'codes', row 1: neither codes nor"),
        ("record_id,codes\na,\"[__import__('os')]\"\n", "column 'codes', row 1: neither codes nor"),
        ("record_id,codes\na,\n", "holds n"),
        ("record_id,AFIB\n", "holds no row"),
        ("", "not a readable table"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_table_of_labels_is_refused_and_not_quoted(tmp_path, text, expected):
    path = write(tmp_path / "labels.csv", text)

    with pytest.raises(UsageError, match=expected) as refusal:
        labels.read(path, known_codes=["AFIB"])

    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("name", ["missing.csv", "missing.parquet", "x" * 300 + ".csv"], ids=["csv", "parquet", "long"])
def test_a_table_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="not a readable table"):
        labels.read(tmp_path / name)


def test_a_named_column_that_is_not_there_is_refused_by_name(tmp_path):
    path = write(tmp_path / "labels.csv", "record_id,AFIB,mine\na,1,0\n")

    with pytest.raises(UsageError, match=r"no column 'LVH' among its 3 columns, of known names: record_id, AFIB$"):
        labels.read(path, label_columns=["LVH"])


@pytest.mark.parametrize(
    "named", [{"label_columns": ["AFIB"]}, {"record_column": "exam"}], ids=lambda named: next(iter(named))
)
def test_a_row_of_cells_in_the_place_of_names_is_counted_and_not_quoted(tmp_path, named):
    path = write(tmp_path / "labels.csv", f"a.xml,{SECRET},1950-01-02,1\nb.xml,{SECRET} 2,1960-03-04,0\n")

    with pytest.raises(
        UsageError, match="among its 4 columns, of known names: none; is the first row one of"
    ) as refusal:
        labels.read(path, **named)

    assert not any(cell in str(refusal.value) for cell in ("a.xml", SECRET, "1950"))


@pytest.mark.parametrize(
    "name",
    ["a/1.hea", "a/1", "/data/a/1.hea", "/data/a/1", "../data/a/1.hea"],
    ids=["record-id", "header-left-off", "absolute", "absolute-header-left-off", "from-the-table"],
)
def test_a_record_is_known_by_its_id_or_its_path(tmp_path, name):
    read = labels.read(write(tmp_path / "labels.csv", f"path,AFIB\nb/2.hea,0\n{name},1\n"))
    depth = "/".join(tmp_path.parts[1:])
    path = "/data/a/1.hea" if not name.startswith("..") else f"/{Path(depth).parent}/data/a/1.hea"

    rows = read.rows_of(
        pl.DataFrame(
            {"record_id": ["a/0.hea", "a/1.hea", "b/2.hea"], "source_path": ["/data/a/0.hea", path, "/data/b/2.hea"]}
        )
    )

    assert rows.tolist() == [-1, 1, 0]


def test_a_file_is_not_taken_for_the_header_beside_it(tmp_path):
    read = labels.read(write(tmp_path / "labels.csv", "path,AFIB\na/1,1\n"))
    entries = pl.DataFrame({"record_id": ["a/1.hea", "a/1"], "source_path": ["/data/a/1.hea", "/data/a/1"]})

    assert read.rows_of(entries).tolist() == [-1, 0]


@pytest.mark.parametrize("names", [("a/1.hea", "/data/a/1.hea"), ("a/1", "/data/a/1"), ("a/1.hea", "a/1")])
def test_two_rows_for_one_record_are_refused(tmp_path, names):
    read = labels.read(write(tmp_path / "labels.csv", "path,AFIB\n{},0\n{},1\n".format(*names)))

    with pytest.raises(UsageError, match="two rows are one record"):
        read.rows_of(pl.DataFrame({"record_id": ["a/1.hea"], "source_path": ["/data/a/1.hea"]}))


def test_tables_that_hold_signals_too_are_read_without_them(data):
    read = labels.read(data / "data" / "chagas.parquet")

    assert read.codes == ("chagas",)
    assert read.is_positive.sum() == 114
    assert {"age", "sex", "source"} <= set(read.groups.columns)
    assert "samples" not in read.groups.columns
