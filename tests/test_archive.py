"""Archives and their plan: every file is one entry, in the same order every time, and the plan is made once."""

import errno
import os
import resource
import shutil
import socket
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from numpy.testing import assert_array_equal

from ecgbatch import archive, formats, pack, synth
from ecgbatch.archive import Entry
from ecgbatch.errors import ArchiveError, FeedError, OutputError, RecordError
from ecgbatch.feed import batch
from ecgbatch.plan import Plan
from ecgbatch.record import MAX_BYTES, Reason, Record, Reject

SETTINGS = {"shard_size": 4, "source": ["x"]}


def scan(*sources: Path | str, skip: Path = Path("/nonexistent")) -> list[Entry]:
    return list(archive.scan(sources, companions=formats.companions, skip=skip))


def ids(*sources: Path | str, **options: Path) -> list[str]:
    return [entry.record_id for entry in scan(*sources, **options)]


def placed(tmp_path: Path, place: str, files: dict[str, bytes]) -> Path | str:
    """A source that holds the files: a folder, a zip or what fsspec keeps in memory."""
    if place == "memory":
        memory = pytest.importorskip("fsspec").filesystem("memory")
        memory.pipe({f"/{tmp_path.name}/{name}": content for name, content in files.items()})
        return f"memory://{tmp_path.name}"
    if place == "a.zip":
        with zipfile.ZipFile(tmp_path / place, "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return tmp_path / place
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def reason(entry: Entry) -> Reason:
    outcome = batch.read(entry)
    assert isinstance(outcome, Reject), outcome
    return outcome.reason


@pytest.fixture
def folder(tmp_path, ecg) -> Path:
    """An archive of five ECGs in folders, one of them in WFDB."""
    root = tmp_path / "archive"
    for name in ("b/2.xml", "a/1.xml", "b/10.xml", "a.xml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(synth.muse_xml(ecg))
    for name, content in synth.wfdb_files(ecg, "w", n_files=2).items():
        (root / "b" / name).write_bytes(content)
    return root


ALL = ["a.xml", "a/1.xml", "b/10.xml", "b/2.xml", "b/w.hea"]


def test_a_folder_is_listed_to_its_depth_in_the_order_of_its_names(folder):
    assert ids(folder) == ALL
    assert ids(folder) == ids(folder)


def failing(_: bytes, name: str) -> tuple[()]:
    if name == "2.xml":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return ()


def test_a_disk_that_fails_while_a_source_is_listed_is_no_error_of_the_plan(folder, tmp_path):
    entries = archive.scan([folder], companions=failing, skip=tmp_path)

    with pytest.raises(ArchiveError) as refused:
        Plan.write(tmp_path / "plan.parquet", entries, shard_size=4, settings=SETTINGS)
    assert str(refused.value) == f"{folder}: cannot be listed: Input/output error; nothing was scored"
    assert not list(tmp_path.glob("plan*"))


def test_a_text_that_only_looks_like_a_header_owns_no_ecg(folder):
    (folder / "notes.hea").write_text("report 3\na.xml\nfoo\nbar\n")
    (folder / "other.hea").write_text("report 1\na.xml 16\n")

    assert ids(folder) == ["a.xml", "notes.hea", "other.hea", *ALL[1:]]


def test_a_header_far_larger_than_any_is_not_parsed(folder):
    (folder / "huge.hea").write_bytes(b"r 1 500 5000\n" + b"r.dat 16\n" * 200_000)
    (entry,) = [entry for entry in scan(folder) if entry.record_id == "huge.hea"]

    assert reason(entry) == Reason.UNKNOWN_FORMAT


def test_signal_files_belong_to_their_header_and_are_no_entries_of_their_own(folder):
    (entry,) = [entry for entry in scan(folder) if entry.record_id == "b/w.hea"]

    assert entry.n_bytes == sum(path.stat().st_size for path in (folder / "b").glob("w*"))
    assert entry.modified_ns == max(path.stat().st_mtime_ns for path in (folder / "b").glob("w*"))


def test_a_signal_file_without_its_header_is_an_entry_and_a_reject(folder):
    (folder / "b" / "w.hea").unlink()
    orphans = [entry for entry in scan(folder) if entry.record_id.endswith(".dat")]

    assert [entry.record_id for entry in orphans] == ["b/w_0.dat", "b/w_1.dat"]
    assert [reason(entry) for entry in orphans] == [Reason.ORPHAN_SIGNAL] * 2


def test_a_header_that_another_header_names_as_its_signal_stays_an_entry(folder):
    (folder / "b" / "odd.hea").write_bytes(b"odd 2 500 4\nodd.hea 16 200 16 0 0 0 0 I\nw.hea 16 200 16 0 0 0 0 II\n")

    assert ids(folder / "b") == ["10.xml", "2.xml", "odd.hea", "w.hea"]


def test_links_that_loop_are_followed_once(folder):
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b" / "self").symlink_to("self")
    (folder / "b" / "again").symlink_to(folder / "a")

    found = ids(folder)

    assert [name for name in found if not name.endswith("self")] == ALL
    assert "b/self" in found


def test_a_linked_folder_is_part_of_the_archive(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.xml").write_bytes(b"")
    (folder / "link").symlink_to(outside)

    assert "link/x.xml" in ids(folder)


def test_what_is_not_a_regular_file_is_an_entry_that_is_rejected_at_once(folder):
    for name in ("pipe", "pipe.hea", "pipe.xml"):
        os.mkfifo(folder / "b" / name)
    (folder / "b" / "dangling.xml").symlink_to("nowhere")
    (folder / "b" / "loop.xml").symlink_to("loop.xml")
    with socket.socket(socket.AF_UNIX) as listener:
        at = os.open(folder / "b", os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{at}/socket")
        os.close(at)
        odd = [entry for entry in scan(folder) if entry.record_id not in ALL]
        reasons = {entry.record_id: reason(entry) for entry in odd}

    names = ["dangling.xml", "loop.xml", "pipe", "pipe.hea", "pipe.xml", "socket"]
    assert reasons == dict.fromkeys([f"b/{name}" for name in names], Reason.UNREADABLE)


def test_hidden_files_are_entries_too(folder):
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / ".x.xml").write_bytes(b"")

    assert ".hidden/.x.xml" in ids(folder)


@pytest.mark.parametrize("name", ["with space.xml", "with\nnewline.xml", "ÄÖ 心电图.xml", "-out.xml", "'\"$(x);.xml"])
def test_a_file_of_any_name_is_found_planned_and_read(folder, tmp_path, ecg, name):
    (folder / "a" / name).write_bytes(synth.muse_xml(ecg))
    plan = Plan.write(tmp_path / "plan.parquet", scan(folder), shard_size=4, settings=SETTINGS)
    (entry,) = [entry for shard in plan.shards(done=()) for entry in shard.entries if entry.record_id == f"a/{name}"]

    assert not isinstance(batch.read(entry), Reject)


def test_a_name_that_is_not_utf8_is_planned_and_rejected(folder, tmp_path):
    (folder / os.fsdecode(b"caf\xe9.xml")).write_bytes(b"")
    plan = Plan.write(tmp_path / "plan.parquet", scan(folder), shard_size=4, settings=SETTINGS)
    (entry,) = [entry for shard in plan.shards(done=()) for entry in shard.entries if "caf" in entry.record_id]

    assert entry.record_id == r"caf\xe9.xml"
    assert reason(entry) == Reason.UNREADABLE


def test_the_run_folder_inside_the_source_is_left_out(folder):
    (folder / "b" / "run" / "scores").mkdir(parents=True)
    (folder / "b" / "run" / "scores" / "part-000000.parquet").write_bytes(b"")

    assert ids(folder, skip=folder / "b" / "run") == ALL


def run_in(folder: Path, *, report: bool = False, scores: bool = False) -> Path:
    """What a run leaves in a folder, as far as it got."""
    folder.mkdir()
    plan = [Entry("1.xml", "/x/1.xml", 1, 1)]
    Plan.write(folder / "plan.parquet", plan, shard_size=4, settings=SETTINGS)
    (folder / ".lock").touch()
    if report:
        (folder / "run.json").write_text("{}")
    if scores:
        (folder / "scores").mkdir()
        (folder / "scores" / "part-000000.parquet").write_bytes(b"")
    return folder


@pytest.mark.parametrize("left", ["report", "scores"])
def test_a_run_in_a_folder_is_left_out(folder, left):
    run_in(folder / "b" / "run", **{left: True})

    assert ids(folder) == ALL


def test_a_run_alone_is_no_source(folder, tmp_path):
    run = run_in(tmp_path / "run", report=True, scores=True)

    with pytest.raises(ArchiveError, match="a run of ecgbatch"):
        scan(folder, run)


def test_a_run_that_was_scored_into_its_own_source_is_left_out_of_the_next_one(scored, folder):
    tallies = [scored(folder, out=folder / name)[0] for name in ("run1", "run2")]

    assert [(tally.n_scored, tally.n_rejected) for tally in tallies] == [(len(ALL), 0)] * 2


def test_what_only_looks_like_a_run_is_listed(folder, tmp_path):
    run_in(folder / "b" / "begun")
    run_in(folder / "other", report=True)
    pl.DataFrame({"record_id": ["a"]}).write_parquet(folder / "other" / "plan.parquet")
    (folder / "pipe").mkdir()
    (folder / "pipe" / "run.json").touch()
    os.mkfifo(folder / "pipe" / "plan.parquet")
    lists = ("b/begun/.lock", "b/begun/plan.parquet", "other/.lock", "other/plan.parquet", "other/run.json")

    assert set(ids(folder)) - set(ALL) == {*lists, "pipe/plan.parquet", "pipe/run.json"}


def test_several_sources_are_told_apart_by_their_index(folder):
    assert ids(folder / "a", folder / "a.xml", folder / "a") == ["0/1.xml", "1/a.xml", "2/1.xml"]


def test_a_single_file_is_an_archive_of_one(folder):
    assert ids(folder / "b" / "w.hea") == ["w.hea"]
    assert scan(folder / "b" / "w.hea")[0].path == str(folder / "b" / "w.hea")


def test_an_empty_folder_has_no_entries(tmp_path):
    assert scan(tmp_path) == []


@pytest.mark.parametrize("name", ["nothing", "dangling"])
def test_a_source_that_is_not_there_is_an_error(tmp_path, name):
    (tmp_path / "dangling").symlink_to("nothing")

    with pytest.raises(ArchiveError, match=name):
        scan(tmp_path / name)


def manifest(path: Path, names: list[str | None], column: str = "path") -> Path:
    table = pl.DataFrame({"patient": range(len(names)), column: names}, schema_overrides={column: pl.String})
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "CSV"])
def test_a_manifest_lists_what_is_scored_in_its_own_order(folder, suffix):
    listed = manifest(folder / "list.csv", ["b/2.xml", "a.xml"])
    if suffix == "parquet":
        listed = manifest(folder / "list.parquet", ["b/2.xml", "a.xml"])
    listed = listed.rename(folder / f"list.{suffix}")

    assert ids(listed) == ["b/2.xml", "a.xml"]


def test_a_manifest_may_hold_absolute_paths_within_and_without_its_folder(folder, tmp_path):
    inside = manifest(folder / "list.csv", [str(folder / "a.xml")])
    outside = manifest(tmp_path / "list.csv", [str(folder / "a.xml"), "/nonexistent/b.xml"])

    assert ids(inside) == ["a.xml"]
    assert ids(outside) == ["archive/a.xml", "/nonexistent/b.xml"]


def test_a_manifest_may_leave_off_the_suffix_of_a_header(folder):
    (entry,) = scan(manifest(folder / "list.csv", ["b/w"]))

    assert entry.record_id == "b/w.hea"
    assert entry == scan(folder)[-1]


def test_a_file_that_a_manifest_lists_and_that_is_not_there_is_a_reject(folder):
    (entry,) = scan(manifest(folder / "list.csv", ["b/lost.xml"]))

    assert reason(entry) == Reason.UNREADABLE


def test_a_path_that_no_file_can_have_is_a_reject(folder):
    (entry,) = scan(manifest(folder / "list.parquet", ["b/\0.xml"]))

    assert reason(entry) == Reason.UNREADABLE


@pytest.mark.parametrize(
    "names",
    [["a.xml", "a.xml"], ["a.xml", None], ["b/w", "b/w.hea"], ["a.xml", "./a.xml"], ["a.xml", "b/../a.xml"]],
    ids=["repeated", "empty", "with and without suffix", "dot", "dots"],
)
def test_a_manifest_that_names_a_file_twice_or_none_is_refused(folder, names):
    with pytest.raises(ArchiveError, match="expected every file once"):
        scan(manifest(folder / "list.parquet", names))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_without_a_path_column_is_refused(folder, suffix):
    with pytest.raises(ArchiveError, match="no column 'path'"):
        scan(manifest(folder / f"list.{suffix}", ["a.xml"], column="file"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b""),
        ("list.parquet", b""),
        ("list.parquet", b"path\na.xml\n"),
        ("list.csv", b"path\n\xff\xfe\x00\n"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(folder, name, content):
    (folder / name).write_bytes(content)

    with pytest.raises(ArchiveError, match=name):
        scan(folder / name)


@pytest.mark.parametrize(
    "table",
    [
        b'path\n"Doe, Jane\n',
        b'path\n"Doe, Jane"x\n',
        b'path,name\na.xml,"Doe, Jane\n',
        b"path,name\na.xml,Doe,Jane\n\xff",
        b"Doe Jane,a.xml\nDoe Jim,b.xml\n",
    ],
    ids=["open", "quoted within", "open in another column", "no UTF-8", "without names of columns"],
)
def test_what_stands_in_a_manifest_is_in_no_message(folder, table):
    (folder / "list.csv").write_bytes(table)
    with pytest.raises(ArchiveError, match="'path'") as refused:
        scan(folder / "list.csv")

    assert "Doe" not in "".join(traceback.format_exception(refused.value))


def test_a_manifest_from_a_spreadsheet_is_read(folder):
    (folder / "list.csv").write_bytes(b'\xef\xbb\xbfpath,note\r\n"a.xml",x\r\nb/2.xml,\r\n')

    assert ids(folder / "list.csv") == ["a.xml", "b/2.xml"]


@pytest.mark.parametrize(
    "table",
    [b"1,2\n3,4\n", b"I;II\n1;2\n", b"\xef\xbb\xbf1 2\n", b"nan,nan\n1,2\n", b"-0.25," * 2**16 + b"1\n"],
    ids=["numbers", "named", "marked", "gaps", "long"],
)
@pytest.mark.parametrize("name", ["1.csv", "1.CSV"])
def test_a_table_of_numbers_alone_is_an_ecg(tmp_path, table, name):
    (tmp_path / name).write_bytes(table)
    (tmp_path / "layout.toml").write_text("fs_hz = 500\n")
    (entry,) = scan(tmp_path / name)

    assert entry == scan(tmp_path)[0]
    assert "layout.toml" in batch.read(entry).detail


@pytest.mark.parametrize(
    "table",
    [b"path\n100\n", b'\xef\xbb\xbf"path",age\r\n100,56\r\n', b"age,path\n56,100\n"],
    ids=["alone", "from a spreadsheet", "last"],
)
def test_a_table_with_a_column_of_paths_is_a_manifest_even_where_they_are_numbers(folder, table):
    (folder / "list.csv").write_bytes(table)

    assert ids(folder / "list.csv") == ["100"]


@contextmanager
def no_more_files() -> Iterator[None]:
    """Nothing can be opened within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as file:
        lowest = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def containers(tmp_path_factory) -> Path:
    """ECGs, a folder of them in each container of many."""
    folder = tmp_path_factory.mktemp("containers")
    synth.write_archive(folder / "archive", 240, packed=0.9, workers=1)
    pack.run([folder / "archive"], folder / "pack", pack.Options(limit=2))
    return folder


@pytest.mark.parametrize("suffix", [".xml", ".hea", ".zip", ".tar.gz", ".hdf5", ".parquet"])
def test_where_no_more_files_can_be_opened_nothing_is_rejected_for_it(containers, tmp_path, suffix):
    path = next(
        path for path in containers.rglob(f"*{suffix}") if path.name != "plan.parquet" and "rejects" not in str(path)
    )
    source = shutil.copy(path, tmp_path)
    entry = scan(source)[0]
    os.utime(source)  # it is not open any more

    with no_more_files(), pytest.raises(FeedError, match="no more files can be opened: Too many open files"):
        batch.read(entry)
    if suffix != ".xml":  # which is not opened yet
        with no_more_files(), pytest.raises(FeedError, match="Too many open files"):
            scan(source)


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_pipe_is_no_manifest(tmp_path, name):
    os.mkfifo(tmp_path / name)

    assert [reason(entry) for entry in scan(tmp_path / name)] == [Reason.UNREADABLE]


def test_the_plan_holds_every_entry_and_its_shard(folder, tmp_path):
    entries = scan(folder)
    plan = Plan.write(tmp_path / "plan.parquet", entries, shard_size=2, settings=SETTINGS | {"shard_size": 2})
    table = pl.read_parquet(tmp_path / "plan.parquet")

    assert table.columns == ["record_id", "path", "size", "mtime", "shard", "member"]
    assert table["shard"].to_list() == [0, 0, 1, 1, 2]
    assert [entry for shard in plan.shards(done=()) for entry in shard.entries] == entries
    assert (plan.n_entries, plan.n_shards) == (5, 3)


@pytest.mark.parametrize("done", [set(), {0}, {2}, {0, 2}, {1}, {0, 1, 2}], ids=str)
def test_shards_that_are_done_are_not_given_again(folder, tmp_path, done):
    plan = Plan.write(tmp_path / "plan.parquet", scan(folder), shard_size=2, settings=SETTINGS | {"shard_size": 2})

    assert [shard.index for shard in plan.shards(done=done)] == sorted({0, 1, 2} - done)


def test_a_plan_of_more_entries_than_are_held_in_memory_is_whole(tmp_path):
    entries = [Entry(f"{i}", f"/x/{i}", i, i) for i in range(40_000)]
    plan = Plan.write(tmp_path / "plan.parquet", entries, shard_size=999, settings={"shard_size": 999})
    shards = list(plan.shards(done={3}))

    assert [entry for shard in shards for entry in shard.entries] == entries[:2997] + entries[3996:]
    assert [len(shard.entries) for shard in shards[:3]] == [999] * 3


def test_a_plan_that_fails_half_way_leaves_nothing(tmp_path):
    def failing():
        yield from (Entry(f"{i}", f"/x/{i}", i, i) for i in range(20_000))
        raise ArchiveError("folder: cannot be listed")

    with pytest.raises(ArchiveError):
        Plan.write(tmp_path / "plan.parquet", failing(), shard_size=4, settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"junk" * 99])
def test_a_file_that_is_no_plan_is_refused(tmp_path, content):
    (tmp_path / "plan.parquet").write_bytes(content)

    with pytest.raises(OutputError, match="not a plan"):
        Plan.open(tmp_path / "plan.parquet")


def test_a_parquet_file_of_something_else_is_no_plan(tmp_path):
    pl.DataFrame({"record_id": ["a"]}).write_parquet(tmp_path / "plan.parquet")

    with pytest.raises(OutputError, match="not a plan"):
        Plan.open(tmp_path / "plan.parquet")


@pytest.fixture
def alike(tmp_path, ecg) -> Path:
    """A zip of two ECGs, and loose ones of the names that the record_id of its members would have."""
    folder = tmp_path / "alike"
    (folder / "a.zip#in").mkdir(parents=True)
    for name in ("a.zip#x.xml", "a.zip#in/x.xml", "b.xml", "b.xml#2"):
        (folder / name).write_bytes(synth.muse_xml(ecg))
    placed(folder, "a.zip", {"x.xml": synth.muse_xml(ecg), "in/x.xml": synth.muse_xml(ecg)})
    return folder


def test_a_file_called_as_a_member_of_a_container_has_a_record_id_of_its_own(alike):
    assert ids(alike) == [
        "a.zip#x.xml",
        "a.zip#in/x.xml",
        "./a.zip#x.xml",
        "b.xml",
        "b.xml#2",
        "./a.zip#in/x.xml",
    ]


def test_a_file_that_a_manifest_lists_has_no_record_id_of_a_member(alike, tmp_path):
    (tmp_path / "lists").mkdir()
    for folder in (alike, tmp_path / "lists"):
        listed = manifest(folder / "list.csv", [str(alike / name) for name in ("a.zip", "a.zip#x.xml")])

        assert len({*ids(listed)}) == 3


def test_files_of_such_names_are_packed_and_deduplicated_as_any(alike, scored, tmp_path):
    _, scores, _ = scored(alike, deduplicate=True)
    pack.run([alike], tmp_path / "pack", pack.Options())
    _, repacked, rejects = scored(tmp_path / "pack", out=tmp_path / "again")

    assert scores.height == 1
    assert (repacked.height, rejects.height) == (6, 0)


def test_a_file_larger_than_any_ecg_is_not_read(tmp_path):
    with (tmp_path / "huge.xml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)

    with pytest.raises(RecordError) as defect:
        archive.read(str(tmp_path / "huge.xml"))
    assert defect.value.reason == Reason.TOO_LARGE


def test_a_header_that_names_a_file_which_the_system_cannot_spell_is_a_reject(folder, monkeypatch):
    header = folder / "b" / "w.hea"
    header.write_bytes(header.read_bytes().replace(b"w_0.dat", "wé.dat".encode()))
    (entry,) = [entry for entry in scan(folder) if entry.record_id == "b/w.hea"]
    monkeypatch.setattr(archive, "_ENCODING", "ascii")  # as in the POSIX locale

    assert reason(entry) == Reason.MISSING_SIGNAL


@pytest.mark.parametrize("name", ["x.zip", "x.xml", "x.h5"])
def test_no_header_hides_a_file_that_is_an_entry_by_itself(tmp_path, ecg, name):
    (tmp_path / "h.hea").write_text(f"h 1 500 5000\n{name} 16 1000/mV 16 0 0 0 0 I\n")
    if name == "x.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.writestr("1.xml", synth.muse_xml(ecg))
    else:
        (tmp_path / name).write_bytes(synth.muse_xml(ecg))

    assert ids(tmp_path) == ["h.hea", "x.zip#1.xml" if name == "x.zip" else name]


CONTAINERS = ["1.edf", "1.EDF", "1.bdf", "1.rec", "1.ecg", "1.mwf", "1.scp", "1.npy", "1.csv", "1.mat"]


@pytest.mark.parametrize("place", ["folder", "a.zip", "memory"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_no_header_hides_a_container_that_it_only_lists(tmp_path, place, name):
    header = f"idx 2 500 5000\n{name} 16\nx.dat 16\n".encode()
    source = placed(tmp_path, place, {"idx.hea": header, name: b"0", "x.dat": b"0"})

    assert {record_id.rpartition("#")[2] for record_id in ids(source)} == {"idx.hea", name}


@pytest.mark.parametrize("place", ["folder", "a.zip", "memory"])
@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "1.scp"])
def test_a_header_owns_a_container_in_which_it_says_where_the_samples_begin(tmp_path, place, name):
    header = f"w 2 500 5000\n{name} 16x1:2+24 200\n{name} 16\n".encode()

    assert len(scan(placed(tmp_path, place, {"w.hea": header, name: b"0"}))) == 1


def test_the_edf_files_that_a_header_lists_are_all_read(tmp_path):
    ecg = synth.record(seed=7, uv_per_count=2.5)
    for n in range(3):
        (tmp_path / f"{n}.edf").write_bytes(synth.edf_file(ecg))
    (tmp_path / "idx.hea").write_text("idx 3 500 5000\n0.edf 16\n1.edf 16\n2.edf 16\n")
    found = {entry.record_id: batch.read(entry) for entry in scan(tmp_path)}

    assert [name for name, outcome in found.items() if isinstance(outcome, Record)] == ["0.edf", "1.edf", "2.edf"]
    assert found["idx.hea"].reason == Reason.MISSING_LEADS


def test_an_edf_file_that_is_the_signal_of_a_wfdb_record_is_read_once_as_that(tmp_path):
    ecg = synth.record(seed=7, uv_per_count=2.5)
    (tmp_path / "w.edf").write_bytes(synth.edf_file(ecg))
    signal = f"w.edf 16x500+{256 * (1 + len(ecg.leads))} {1000 / ecg.uv_per_count[0]}(0)/mV 16 0 0"
    signals = [f"{signal} {total % 65536} 0 {lead}\n" for lead, total in zip(ecg.leads, ecg.counts.sum(1), strict=True)]
    (tmp_path / "w.hea").write_text(f"w {len(ecg.leads)} 1 {ecg.n_samples // 500}\n" + "".join(signals))
    (entry,) = scan(tmp_path)
    record = batch.read(entry)

    assert isinstance(record, Record), record
    assert_array_equal(record.counts, ecg.counts)
