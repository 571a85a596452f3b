"""Cohorts: any source becomes labelled ECGs, split by patient, in batches that follow from the seed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from ecgbatch import pack, synth
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import ArchiveError, OutputError, UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record

pytest.importorskip("torch", reason="training needs the extra 'train'")

from ecgbatch.feed import host
from ecgbatch.train import labels, pretrain, sources, split, statements, table, task
from ecgbatch.train.cohort import Cohort, one_person
from ecgbatch.train.split import Split
from ecgbatch.train.stream import Inputs, Stream
from ecgbatch.train.survey import survey

SPEC = InputSpec(leads=INDEPENDENT_LEADS, fs_hz=50, seconds=5.0, min_seconds=3.0, scale_mv=(0.2,) * 8, clip=20.0)


def ecg(seed: int, **options: Any) -> Record:
    return synth.record(seed=seed, rhythm="sinus", **{"fs_hz": 100, "seconds": 5, "uv_per_count": 1.0, **options})


def rows(n: int, **columns: Callable[[int], Any]) -> pl.DataFrame:
    """A table of `n` synthetic ECGs; `columns` are functions of the row."""
    listed = []
    for at in range(n):
        record = ecg(at)
        facts = {"patient_id": f"p{at}", "fs_hz": 100, "uv_per_count": 1.0, "leads": list(record.leads)}
        made = {name: value(at) for name, value in columns.items()}
        listed.append({**facts, "samples": record.counts.astype(np.int16).ravel(), **made})
    return pl.DataFrame(listed, schema_overrides={"samples": pl.List(pl.Int16)})


@pytest.fixture(scope="module")
def table_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 ECGs in row groups of seven."""
    path = tmp_path_factory.mktemp("table") / "ecgs.parquet"
    rows(60, AFIB=lambda at: at % 2, LBBB=lambda at: None if at % 3 else at % 2).write_parquet(path, row_group_size=7)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten ECGs in two containers, and a file that is none."""
    folder = tmp_path / "archive"
    (folder / "wfdb").mkdir(parents=True)
    for at in range(5):
        (folder / f"a{at}.xml").write_bytes(synth.muse_xml(ecg(at)))
        for name, content in synth.wfdb_files(ecg(5 + at), f"b{at}").items():
            (folder / "wfdb" / name).write_bytes(content)
    (folder / "notes.txt").write_text("no ECG")
    return folder


def write_labels(path: Path, names: list[str], **columns: list[Any]) -> Path:
    pl.DataFrame({"record_id": names, "patient_id": [f"p{at}" for at in range(len(names))], **columns}).write_csv(path)
    return path


def of_targets(targets: np.ndarray, *, patients: np.ndarray | None = None, folds: np.ndarray | None = None) -> Cohort:
    """A cohort without samples."""
    n, n_labels = targets.shape
    return Cohort(
        ecgs=None,  # type: ignore[arg-type]  # nothing is read
        rows=np.arange(n),
        record_ids=np.array([f"r{at}" for at in range(n)]),
        patients=np.array([f"p{at}" for at in range(n)]) if patients is None else patients,
        codes=tuple(f"L{at}" for at in range(n_labels)),
        targets=targets.astype(np.float32),
        folds=folds,
        provenance="made up",
        sha256="",
    )


def test_a_table_gives_its_ecgs_and_labels_and_null_is_unknown(table_path):
    got = table.read(table_path)

    assert got.codes == ("AFIB", "LBBB")
    assert_array_equal(got.targets[:4], [[0, 0], [1, np.nan], [0, np.nan], [1, 1]])
    for at, record in zip((3, 9, 50), got.read(np.array([3, 9, 50])), strict=True):
        assert_array_equal(record.counts, ecg(at).counts)


def test_a_row_whose_samples_do_not_fit_its_leads_is_left_out_and_counted(tmp_path):
    frame = rows(4, AFIB=lambda at: at % 2)
    samples = [values[:-1] if at == 2 else values for at, values in enumerate(frame["samples"].to_list())]
    frame.with_columns(pl.Series("samples", samples, pl.List(pl.Int16))).write_parquet(tmp_path / "t.parquet")

    got = survey(table.read(tmp_path / "t.parquet"), SPEC).cohort

    assert got.record_ids.tolist() == ["0", "1", "3"]
    assert got.left_out == {"malformed": 1}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a", "b", "a"], "row 3 repeats a record of column 'ecg_id'"), ([1, None, 2], "column 'ecg_id' is empty in 1")],
    ids=["one-twice", "one-without"],
)
def test_a_table_whose_names_tell_no_ecg_from_another_is_refused(tmp_path, names, expected):
    rows(3, AFIB=lambda at: at % 2, ecg_id=lambda at: names[at]).write_parquet(tmp_path / "t.parquet")

    with pytest.raises(UsageError, match=expected):
        table.read(tmp_path / "t.parquet")


SECRET = "Jane Doe"


def test_no_refusal_quotes_what_stands_in_a_table(tmp_path):
    """A name or a code that nobody knows may be the cell of a patient: of a table without a first row of names."""
    frame = rows(4, AFIB=lambda at: at % 2).with_columns(pl.lit(0).alias(SECRET))
    frame.write_parquet(tmp_path / "t.parquet")
    frame.drop("patient_id").write_parquet(tmp_path / "unknown.parquet")
    frame.with_columns(fold=pl.lit(SECRET)).write_parquet(tmp_path / "folds.parquet")
    frame.with_columns(fold=pl.Series([1, 2, None, 3])).write_parquet(tmp_path / "no-fold.parquet")
    listed = labels.read(write_labels(tmp_path / "l.csv", [f"{SECRET} {at}" for at in range(4)], codes=[SECRET] * 4))
    of_table = table.read(tmp_path / "t.parquet")

    for refused, expected in (
        (lambda: table.read(tmp_path / "t.parquet", columns=["LVH"]), "no column LVH among its 7 columns, of known"),
        (lambda: table.read(tmp_path / "unknown.parquet"), "no column patient_id among its 6 columns, of known"),
        (lambda: table.read(tmp_path / "folds.parquet"), "column fold holds other values than whole numbers"),
        (lambda: table.read(tmp_path / "no-fold.parquet"), "column fold .* or is empty in some rows"),
        (lambda: of_table.labelled(["LVH"]), "no label LVH among its 2 labels, of known names: AFIB$"),
        (lambda: sources.read([tmp_path / "t.parquet"], labels=listed), "none of 4 ECGs has labels; the first .* '0'"),
        (lambda: task.Meaning("LVH").of_labels("l.csv", listed), "no label 'LVH' among its 3 labels, of"),
    ):
        with pytest.raises(UsageError, match=expected) as refusal:
            refused()
        assert not any(part in str(refusal.value) for part in SECRET.split())


def test_a_label_that_is_named_twice_is_one(table_path, tmp_path):
    beside = write_labels(tmp_path / "labels.csv", ["a", "b"], AFIB=[0, 1])

    assert table.read(table_path, columns=["AFIB", "LBBB", "AFIB"]).codes == ("AFIB", "LBBB")
    assert labels.read(beside, label_columns=["AFIB", "AFIB"]).codes == ("AFIB",)


def test_a_table_without_patients_is_refused(tmp_path):
    rows(2, AFIB=lambda at: at % 2).drop("patient_id").write_parquet(tmp_path / "t.parquet")

    with pytest.raises(UsageError, match="no column patient_id"):
        table.read(tmp_path / "t.parquet")


@pytest.mark.parametrize("unknown", [[None, None], ["", ""], [float("nan")] * 2], ids=["null", "blank", "nan"])
def test_an_ecg_of_no_known_patient_is_of_a_patient_of_its_own(tmp_path, unknown):
    path = tmp_path / "t.parquet"
    known = [7, 7] if isinstance(unknown[0], float) else ["7", "7"]
    rows(4, AFIB=lambda at: at % 2, patient_id=lambda at: [*known, *unknown][at]).write_parquet(path)

    for patients in (
        table.read(path).patients,
        task._alone([str(path)], task.Meaning("AFIB"))[0].patients,
        labels.read(with_ids(path), label_columns=["AFIB"]).patients,
    ):
        assert patients[0] == patients[1]
        assert len(set(patients)) == 3


def with_ids(path: Path) -> Path:
    """The same table with a record_id."""
    pl.read_parquet(path).with_row_index("record_id").write_parquet(path)
    return path


def test_patients_who_are_all_known_are_called_as_the_table_calls_them(table_path):
    """The hash of a split is of these names, and a bundle's card is made again only of the same split."""
    assert table.read(table_path).patients.tolist() == [f"p{at}" for at in range(60)]


def test_a_superclass_is_true_where_one_of_its_statements_is():
    codes, targets = statements.with_superclasses(("AMI", "NORM", "IMI"), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]))

    assert codes == ("AMI", "NORM", "IMI", "MI")
    assert_array_equal(targets[:, 3], [1, 0, 1])


def test_cohorts_joined_know_of_a_label_what_each_of_them_knew(table_path, tmp_path):
    rows(3, AFIB=lambda at: at % 2, STACH=lambda at: 1 - at % 2).write_parquet(tmp_path / "other.parquet")

    got = sources.read([table_path, tmp_path / "other.parquet"])

    assert got.codes == ("AFIB", "LBBB", "STACH")
    assert_array_equal(got.targets[60], [0, np.nan, 1])
    assert np.isnan(got.targets[:60, 2]).all()
    assert len(set(got.patients)) == 63
    [first, last] = got.read(np.array([5, 62]))
    assert_array_equal(first.counts, ecg(5).counts)
    assert_array_equal(last.counts, ecg(2).counts)


def test_an_archive_is_labelled_by_record_and_what_has_no_label_or_no_ecg_is_counted(archive, tmp_path):
    path = write_labels(tmp_path / "l.csv", ["a1.xml", "wfdb/b0.hea", "wfdb/b3", "gone.xml"], AFIB=[1, 0, 1, 1])

    got = sources.read([archive], labels=labels.read(path))

    assert got.record_ids.tolist() == ["a1.xml", "wfdb/b0.hea", "wfdb/b3.hea"]
    assert got.targets[:, 0].tolist() == [1, 0, 1]
    assert got.left_out == {"without labels": 8, "labels without an ECG": 1}


def test_a_labelled_file_that_is_no_ecg_is_left_out_with_its_reason(archive, tmp_path):
    path = write_labels(tmp_path / "l.csv", ["a1.xml", "notes.txt"], AFIB=[1, 0])

    got = survey(sources.read([archive], labels=labels.read(path)), SPEC).cohort

    assert got.record_ids.tolist() == ["a1.xml"]
    assert got.left_out["unknown-format"] == 1


def test_a_pack_is_labelled_by_the_names_that_were_packed(archive, tmp_path):
    pack.run([archive], tmp_path / "pack", pack.Options(shard_size=4))
    path = write_labels(tmp_path / "l.csv", ["a1.xml", "wfdb/b4.hea"], AFIB=[1, 0])

    got = sources.read([tmp_path / "pack"], labels=labels.read(path))

    packed, direct = list(got.read(np.arange(2))), [ecg(1), ecg(9)]
    assert got.targets[:, 0].tolist() == [1, 0]
    for one, other in zip(packed, direct, strict=True):
        assert_array_equal(host.nanovolts(one, INDEPENDENT_LEADS), host.nanovolts(other, INDEPENDENT_LEADS))


def test_an_archive_without_a_table_of_labels_is_refused(archive):
    with pytest.raises(UsageError, match="give --labels TABLE"):
        sources.read([archive])


def test_ptb_xl_as_it_is_shipped_is_recognised(tmp_path):
    names = [f"records500/00000/0000{at}_hr" for at in range(1, 5)]
    for at, name in enumerate(names[:3]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for file, content in synth.wfdb_files(ecg(at, leads=LEADS), name.rpartition("/")[2]).items():
            (tmp_path / name).with_name(file).write_bytes(content)
    statements_of = ["{'NORM': 100.0, 'SR': 0.0}", "{'IMI': 15.0, 'AMI': 0.0}", "{'AFIB': 0.0}", "{'SR': 0.0}"]
    pl.DataFrame(
        {
            "ecg_id": [1, 2, 3, 4],
            "patient_id": ["15709.0", "13243.0", "13243.0", "7.0"],
            "scp_codes": statements_of,
            "strat_fold": [3, 9, 9, 10],
            "filename_lr": [name.replace("500", "100") for name in names],
            "filename_hr": names,
        }
    ).write_csv(tmp_path / "ptbxl_database.csv")
    (tmp_path / "scp_statements.csv").write_text("")

    got = sources.read([tmp_path])

    assert got.codes == ("AFIB", "AMI", "IMI", "NORM", "SR", "MI")
    expected = [[0, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert_array_equal(got.targets, expected)
    assert got.folds.tolist() == [3, 9, 9, 10]
    assert got.patients[1] == got.patients[2] != got.patients[0]
    [record, gone] = got.read(np.array([1, 3]))
    assert_array_equal(record.counts, ecg(1, leads=LEADS).counts)
    assert gone.reason == "unreadable"


def test_a_superclass_of_one_statement_is_not_the_same_label_twice():
    codes, targets = statements.with_superclasses(("CLBBB", "IMI", "AMI"), np.eye(3, dtype=np.float32))

    assert codes == ("CLBBB", "IMI", "AMI", "MI")
    assert targets[:, 3].tolist() == [0, 1, 1]


def test_a_survey_finds_each_leads_spread():
    counts = np.array([[0, 10] * 250, [0, 40] * 250] * 4, np.int16)
    record = Record(
        format="made", fs_hz=100.0, leads=INDEPENDENT_LEADS, counts=counts, uv_per_count=(10.0,) * 8,
        zero_counts=(0.0,) * 8,
    )  # fmt: skip

    class One:
        block = np.zeros(2, int)

        def read(self, at):
            return iter([record] * len(at))

    made = of_targets(np.zeros((2, 1)))
    found = survey(replace(made, ecgs=One()), SPEC)

    assert found.scale_mv(np.arange(2)) == (0.05, 0.2) * 4


def crowded(rng: np.random.Generator) -> Cohort:
    """1 000 records of 400 patients with labels from common to very rare."""
    frequency = np.array([0.5, 0.1, 0.02, 0.006])
    targets = (rng.random((1000, 4)) < frequency).astype(np.float32)
    return of_targets(targets, patients=rng.integers(0, 400, 1000).astype(str))


def test_a_split_leaves_every_patient_on_one_side_and_labels_in_proportion(rng):
    whole = crowded(rng)
    side = split.stratified(whole, seed=1)

    for patient in np.unique(whole.patients):
        assert len(set(side[whole.patients == patient])) == 1
    for name, share in zip(split.SIDES, split.SHARES, strict=True):
        found = whole.targets[side == name].sum(0)
        expected = share * whole.targets.sum(0)
        assert (np.abs(found - expected) <= np.maximum(2, 0.1 * expected)).all()


def test_a_split_follows_from_the_seed(rng):
    whole = crowded(rng)

    assert_array_equal(split.stratified(whole, seed=1), split.stratified(whole, seed=1))
    assert (split.stratified(whole, seed=1) != split.stratified(whole, seed=2)).any()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"train": [1, 2, 3], "choose": [4], "report": [5]}),
        ("1-2,5/3/4", {"train": [1, 2, 5], "choose": [3], "report": [4]}),
    ],
    ids=["the-last-reports", "as-given"],
)
def test_folds_become_sides(given, expected):
    folds = np.repeat([1, 2, 3, 4, 5], 2)
    side = split.by_folds(of_targets(np.zeros((10, 1)), folds=folds), given)

    assert {name: sorted(set(folds[side == name].tolist())) for name in split.SIDES} == expected


@pytest.mark.parametrize("given", ["1-7/8", "1-7/7/8", "train/8/9", "1--7/8/9"])
def test_folds_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match="folds"):
        split.folds(given)


def test_patients_who_share_waveforms_one_after_the_other_are_one_person():
    patients = np.array(["a", "b", "b", "c", "d", "d", "e"])
    waveforms = np.array([1, 1, 2, 2, 3, 4, 5], np.uint64)

    assert one_person(patients, waveforms).tolist() == ["a", "a", "a", "a", "d", "d", "e"]


def test_an_ecg_that_stands_on_two_sides_is_kept_on_the_later_one():
    side = np.array(["train", "train", "choose", "report", "", "choose", "train"])

    assert split.once(side, np.array([1, 2, 1, 3, 3, 4, 2])).tolist() == [
        "",
        "train",
        "choose",
        "report",
        "",
        "choose",
        "train",
    ]


@pytest.mark.parametrize("folds", [None, "1-7/8/9"], ids=["by-patient", "by-folds"])
def test_an_ecg_of_two_patients_is_never_trained_on_and_judged_by(tmp_path, folds):
    made = rows(60, AFIB=lambda at: at % 2, fold=lambda at: at % 9 + 1)
    pl.concat(
        [made, made[:20].with_columns(patient_id=pl.format("again {}", "patient_id"), fold=pl.lit(9, pl.Int64))]
    ).write_parquet(tmp_path / "t.parquet")
    cohort = table.read(tmp_path / "t.parquet")
    cohort = cohort if folds else replace(cohort, folds=None)

    parts, _ = pretrain.prepared(cohort, INDEPENDENT_LEADS, folds, seed=1, n_positives=2)

    sides = pl.DataFrame({"ecg": [*range(60), *range(20)], "side": parts.side}).filter(pl.col("side") != "")
    assert sides.group_by("ecg").agg(pl.col("side").n_unique())["side"].max() == 1
    assert len(sides) == (80 if folds is None else 80 - (made["fold"][:20] != 9).sum())
    assert len(set(parts.cohort.patients[parts.side != ""])) == 60  # draws of patients take both copies or none


def test_a_patient_on_two_sides_is_refused():
    whole = of_targets(np.zeros((3, 1)), patients=np.array(["a", "b", "a"]))

    with pytest.raises(UsageError, match="1 patients lie on two sides"):
        Split(whole, np.array(["train", "choose", "report"]))


def test_the_written_split_holds_no_patient_number_and_two_records_of_one_patient_agree(tmp_path):
    whole = of_targets(np.zeros((4, 1)), patients=np.array(["15709", "7", "8", "15709"]))
    Split(whole, np.array(["train", "choose", "report", "train"])).write(tmp_path / "split.parquet")

    written = pl.read_parquet(tmp_path / "split.parquet")

    assert written["side"].to_list() == ["train", "choose", "report", "train"]
    assert written["patient"][0] == written["patient"][3]
    assert written["patient"].n_unique() == 3
    assert not written["patient"].str.contains("15709").any()


def test_a_split_for_which_there_is_no_room_is_one_line(small_disk):
    (small_disk / "full").write_bytes(bytes(160 * 1024))
    parts = Split(of_targets(np.zeros((3, 1))), np.array(["train", "choose", "report"]))

    with pytest.raises(OutputError, match=r"split\.parquet: cannot be written: No space left on device$"):
        parts.write(small_disk / "split.parquet")

    assert [path.name for path in small_disk.iterdir()] == ["full"]


def everything(stream: Stream, number: int, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.copy(), y.copy()) for x, y in stream.epoch(number, start=start)]


@pytest.fixture(scope="module")
def usable(table_path: Path) -> Cohort:
    return table.read(table_path)


@pytest.fixture(scope="module")
def streamed(usable: Cohort) -> Stream:
    """Batches of 4 from a buffer of 16 records."""
    return Stream(Inputs(usable, SPEC, cached_bytes=0), batch=4, seed=3, buffer_bytes=0)


def test_an_epoch_gives_every_record_once_with_its_own_labels(usable, streamed):
    truth = Inputs(usable, SPEC).of(np.arange(60))
    seen = []
    for x, y in everything(streamed, 1):
        for one, target in zip(x, y, strict=True):
            [at] = np.flatnonzero((truth == one).all((1, 2)))
            assert_array_equal(target, usable.targets[at])
            seen.append(int(at))

    assert sorted(seen) == list(range(60))


def test_epochs_differ_and_each_follows_from_its_number(streamed):
    first, again, second = (everything(streamed, number) for number in (1, 1, 2))

    assert all((x == other).all() for (x, _), (other, _) in zip(first, again, strict=True))
    assert not all((x == other).all() for (x, _), (other, _) in zip(first, second, strict=True))


@pytest.mark.parametrize("start", [1, 7, 14], ids=["early", "late", "last"])
def test_an_epoch_gone_on_with_gives_the_batches_that_were_left(streamed, start):
    whole, rest = everything(streamed, 1), everything(streamed, 1, start)

    assert len(rest) == len(whole) - start
    for (x, y), (other, target) in zip(whole[start:], rest, strict=True):
        assert_array_equal(x, other)
        assert_array_equal(y, target)


def test_a_cohort_kept_in_memory_gives_the_same_batches(usable, streamed):
    kept = Stream(Inputs(usable, SPEC), batch=4, seed=3, buffer_bytes=0)

    for (x, y), (other, target) in zip(everything(kept, 2), everything(streamed, 2), strict=True):
        assert_array_equal(x, other)
        assert_array_equal(y, target)


@pytest.mark.parametrize("cached_bytes", [0, 2**20], ids=["streamed", "kept"])
@pytest.mark.parametrize("start", [0, 7], ids=["from-the-start", "gone-on-with"])
def test_the_shares_of_a_batch_make_it_whole(usable, streamed, cached_bytes, start):
    inputs = Inputs(usable, SPEC, cached_bytes=cached_bytes)
    shares = [
        everything(Stream(inputs, batch=4, seed=3, buffer_bytes=0, share=slice(at, None, 3)), 2, start)
        for at in range(3)
    ]
    assert inputs.is_kept == bool(cached_bytes)

    for batch, *parts in zip(everything(streamed, 2, start), *shares, strict=True):
        for whole, *some in zip(batch, *parts, strict=True):
            for at, share in enumerate(some):
                assert_array_equal(share, whole[at::3])


def test_a_share_reads_none_of_the_others_records(usable):
    read = []

    class Watched(Inputs):
        def _normalised(self, at: np.ndarray) -> np.ndarray:
            read.extend(at)
            return super()._normalised(at)

    shares = [
        Stream(Watched(usable, SPEC, cached_bytes=0), batch=4, seed=3, buffer_bytes=0, share=slice(at, None, 2))
        for at in range(2)
    ]
    n_seen = [sum(len(x) for x, _ in everything(share, 1)) for share in shares]

    assert n_seen == [30, 30]
    assert sorted(read) == list(range(60))


def test_a_buffer_mixes_records_that_lie_far_apart(usable, streamed):
    truth = Inputs(usable, SPEC).of(np.arange(60))
    [(x, _), *_] = everything(streamed, 1)
    blocks = {int(usable.ecgs.block[np.flatnonzero((truth == one).all((1, 2)))[0]]) for one in x}

    assert len(blocks) > 1


def test_a_record_that_goes_bad_during_training_stops_it_by_name(archive, tmp_path):
    path = write_labels(tmp_path / "l.csv", ["a1.xml", "a2.xml"], AFIB=[1, 0])
    inputs = Inputs(sources.read([archive], labels=labels.read(path)), SPEC, cached_bytes=0)
    (archive / "a2.xml").write_bytes(b"")

    with pytest.raises(ArchiveError, match=r"a2\.xml: could be read when training began, now (empty|source-changed)"):
        inputs.of(np.arange(2))
