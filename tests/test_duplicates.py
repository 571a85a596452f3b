"""Duplicates: one score a waveform, the others kept aside, and no row lost or doubled whatever happens on the way."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner, Result

from ecgbatch import cli, duplicates, output, parts, score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.plan import Plan

OPTIONS = {"batch": 4, "shard_size": 4}
KINDS = ("scores", "rejects", "duplicates")

DUPLICATE_OF = {
    "03-a.xml": "01-a.hea",
    "06-b.hea": "00-b.xml",
    "07-a.xml": "01-a.hea",
    "09-c.xml": "05-c.xml",
    "10-c.xml": "05-c.xml",
    "13-a.hea": "01-a.hea",
}
"""Of the archive below, whose shards hold four entries each: copies of files, and the same ECG as another container."""

DEADLY = """
import itertools, os, shutil, signal, sys
from pathlib import Path

def die_at(moment, run):
    moments = itertools.count(1)

    def step(event, values):
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(values[0]).startswith(str(run)):
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
"""
"""A process ends at the given moment of those at which it would open, rename, remove or make something in the run."""

KILLED_EVERYWHERE = """
from ecgbatch import duplicates
from ecgbatch.plan import Plan

template, folder, what = sys.argv[1:]
status = signal.SIGKILL
for moment in itertools.takewhile(lambda _: status == signal.SIGKILL, itertools.count(1)):
    run = shutil.copytree(template, Path(folder, str(moment)))
    child = os.fork()  # before any thread is started
    if child:
        status = os.waitpid(child, 0)[1]
        continue
    die_at(moment, run)
    duplicates.restore(run, Plan.open(run / "plan.parquet")) if what == "restore" else duplicates.deduplicate(run)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""What is done to copies of a run, killed at one moment more in each, until it is killed no more."""

KILLED_ONCE = """
moment, run = sys.argv.pop(1), sys.argv.pop(1)
die_at(int(moment), run)
from ecgbatch import cli
cli.main()
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Fourteen entries: ECGs a, b and c several times, three others once, and two rejects with the same bytes."""
    folder = tmp_path_factory.mktemp("duplicates") / "archive"
    folder.mkdir()
    ecgs = {name: synth.record(seed=seed, rhythm="sinus") for seed, name in enumerate("abcxyz", 1)}
    names = (
        "00-b.xml 01-a.hea 02-x.xml 03-a.xml 04-y.hea 05-c.xml 06-b.hea 07-a.xml 09-c.xml 10-c.xml 12-z.xml 13-a.hea"
    )
    for name in names.split():
        stem, _, ending = name.partition(".")
        files = {name: synth.muse_xml(ecgs[stem[-1]])} if ending == "xml" else synth.wfdb_files(ecgs[stem[-1]], stem)
        for file, content in files.items():
            (folder / file).write_bytes(content)
    for name in ("08-damaged.xml", "11-damaged.xml"):
        (folder / name).write_bytes((folder / "00-b.xml").read_bytes()[:50_000])
    return folder


@pytest.fixture(scope="module")
def plain(archive, tiny_bundle, tmp_path_factory) -> Path:
    """A finished run without a word of duplicates."""
    run = tmp_path_factory.mktemp("plain") / "run"
    score.run([archive], run, [tiny_bundle], score.Options(**OPTIONS))
    return run


@pytest.fixture(scope="module")
def undisturbed(archive, tiny_bundle, tmp_path_factory) -> Path:
    """A run whose duplicates were taken out at its end, and that nothing befell."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    score.run([archive], run, [tiny_bundle], score.Options(**OPTIONS, deduplicate=True))
    return run


@pytest.fixture
def run(plain, tmp_path) -> Path:
    """A copy of the plain run, to be changed."""
    return Path(shutil.copytree(plain, tmp_path / "run"))


def rows(run: Path, kind: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted((run / kind).glob("part-*.parquet"))])


def assert_same_rows(run: Path, expected: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """The same rows in the same parts, exactly, and nothing half-written."""
    for kind in kinds:
        found, wanted = (sorted(part.name for part in (folder / kind).glob("*")) for folder in (run, expected))
        assert found == wanted
        if wanted:
            assert_frame_equal(rows(run, kind), rows(expected, kind), check_exact=True)
    assert not list(run.rglob("*.partial"))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def facts(run: Path) -> dict:
    return json.loads((run / "run.json").read_text("utf-8"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(*arguments: object) -> str:
    """The last line of a command that fails on purpose."""
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.count("error: ") == 1
    return done.stderr.splitlines()[-1]


def score_arguments(archive: Path, run: Path, bundle: Bundle) -> list[str]:
    sizes = ["--batch", str(OPTIONS["batch"]), "--shard-size", str(OPTIONS["shard_size"])]
    return ["score", str(archive), "--out", str(run), "--model", str(bundle.folder), *sizes]


def test_the_first_of_a_waveform_in_the_plan_stays_whatever_the_container(undisturbed, plain):
    moved = rows(undisturbed, "duplicates")
    stayed = rows(undisturbed, "scores")["record_id"].to_list()

    assert dict(moved.select("record_id", "duplicate_of").iter_rows()) == DUPLICATE_OF
    assert stayed == [name for name in rows(plain, "scores")["record_id"] if name not in DUPLICATE_OF]


def test_a_row_moves_as_it_was(undisturbed, plain):
    moved = rows(undisturbed, "duplicates")
    both = pl.concat([rows(undisturbed, "scores"), moved.drop("duplicate_of")]).sort("record_id")

    assert moved.columns == [*rows(plain, "scores").columns, "duplicate_of"]
    assert_frame_equal(both, rows(plain, "scores").sort("record_id"), check_exact=True)


def test_a_duplicate_and_what_it_is_one_of_have_one_waveform(undisturbed):
    hashes = dict(rows(undisturbed, "scores").select("record_id", "waveform_hash").iter_rows())
    moved = rows(undisturbed, "duplicates")

    assert moved["waveform_hash"].to_list() == [hashes[name] for name in moved["duplicate_of"]]
    assert len(set(hashes.values())) == len(hashes)


def test_rejects_are_left_alone_though_their_files_are_the_same(undisturbed, plain):
    assert rows(undisturbed, "rejects")["record_id"].to_list() == ["08-damaged.xml", "11-damaged.xml"]
    assert_frame_equal(rows(undisturbed, "rejects"), rows(plain, "rejects"))


def test_embeddings_move_with_their_rows(scored, archive, tmp_path):
    _, scores, _ = scored(archive, out=tmp_path / "run", embeddings=True, deduplicate=True)

    assert rows(tmp_path / "run", "duplicates").schema == {**scores.schema, "duplicate_of": pl.String()}
    assert scores.schema["tiny/embedding"] == pl.List(pl.Float32())


def test_the_command_leaves_what_the_option_leaves(run, undisturbed):
    done = invoke("deduplicate", run)

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == ["6 rows moved to duplicates", "scored 6 · rejected 2 · duplicates 6"]
    assert_same_rows(run, undisturbed)


def test_the_option_works_on_a_run_that_was_finished_without_it(run, undisturbed, archive, tiny_bundle):
    done = invoke(*score_arguments(archive, run, tiny_bundle), "--deduplicate")

    assert done.exit_code == 3
    assert "nothing left to score" in done.stderr
    assert_same_rows(run, undisturbed)


@pytest.mark.parametrize("is_command", [True, False], ids=["command", "option"])
def test_a_second_time_nothing_changes_and_it_says_so(undisturbed, archive, tiny_bundle, is_command):
    before = snapshot(undisturbed)
    again = [*score_arguments(archive, undisturbed, tiny_bundle), "--deduplicate"]
    done = invoke("deduplicate", undisturbed) if is_command else invoke(*again)

    assert "nothing to move: no two scores of one waveform" in done.stderr
    assert snapshot(undisturbed) == before


def test_a_run_without_duplicates_has_no_folder_of_them(tiny_bundle, tmp_path):
    synth.write_archive(tmp_path / "archive", 4)
    done = invoke(*score_arguments(tmp_path / "archive", tmp_path / "run", tiny_bundle), "--deduplicate")

    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1].startswith("scored 4 · rejected 0 · ")
    assert "duplicates" not in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "duplicates").exists()


def test_duplicates_are_no_rejects_to_the_exit_code_and_stand_in_the_tally(archive, tiny_bundle, tmp_path):
    (tmp_path / "archive").mkdir()
    for name in ("a.xml", "b.xml", "c.xml"):
        shutil.copy(archive / "00-b.xml", tmp_path / "archive" / name)
    done = invoke(*score_arguments(tmp_path / "archive", tmp_path / "run", tiny_bundle), "--deduplicate")

    assert done.exit_code == 0
    assert done.stderr.splitlines()[-1].startswith("scored 1 · rejected 0 · duplicates 2 · ")


def test_score_leaves_a_deduplicated_run_as_it_is(undisturbed, archive, tiny_bundle):
    before = snapshot(undisturbed)
    done = invoke(*score_arguments(archive, undisturbed, tiny_bundle))

    assert done.exit_code == 3
    assert "nothing left to score" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("scored 6 · rejected 2 · duplicates 6 · ")
    assert snapshot(undisturbed) == before


def test_run_json_and_inspect_count_the_duplicates(undisturbed, plain):
    counts = facts(undisturbed)["counts"]

    assert counts["entries"] == counts["scored"] + counts["rejected"] + counts["duplicate"] == 14
    assert counts == {**facts(plain)["counts"], "scored": 6, "duplicate": 6}
    assert json.loads(invoke("inspect", undisturbed, "--json").stdout) == facts(undisturbed)
    assert "finished · scored 6 · rejected 2 · duplicates 6 · of 14\n" in invoke("inspect", undisturbed).stdout


def test_run_json_keeps_how_the_scores_came_to_be(run, plain):
    invoke("deduplicate", run)

    assert {key for key, value in facts(run).items() if value != facts(plain)[key]} <= {"counts", "written_at"}


def test_every_part_keeps_the_fingerprint_of_its_run(undisturbed):
    found = {
        json.loads(pq.read_metadata(part).metadata[b"ecgbatch"])["run"] for part in undisturbed.rglob("part-*.parquet")
    }

    assert found == {facts(undisturbed)["fingerprint"]}


def test_which_rows_leave_is_what_a_plain_search_says(tmp_path):
    draw = random.Random(5)
    (tmp_path / "scores").mkdir()
    first: dict[str, str] = {}
    expected = []
    for shard in (0, 3, 4, 999_999, 1_000_000):  # of the last two, the names sort the other way round
        found = [(f"{shard}-{i}", f"{draw.randrange(60):032x}") for i in range(draw.randrange(40))]
        frame = pl.DataFrame(found, schema=["record_id", "waveform_hash"], orient="row")
        frame.cast(pl.String).write_parquet(tmp_path / "scores" / parts.name(shard))
        for row, (record_id, waveform_hash) in enumerate(found):
            if first.setdefault(waveform_hash, record_id) != record_id:
                expected.append((shard, row, first[waveform_hash]))
    leaving = [(shard, *row) for shard, frame in duplicates._leaving(tmp_path) for row in frame.iter_rows()]

    assert leaving == expected
    assert len(expected) > 20


def unfinished(run: Path) -> None:
    (run / "scores" / "part-000002.parquet").unlink()


def unreported(run: Path) -> None:
    (run / "run.json").write_text(json.dumps({**facts(run), "status": "running"}), "utf-8")


def incomplete(run: Path) -> None:
    part = run / "scores" / "part-000001.parquet"
    pl.read_parquet(part).head(1).write_parquet(part)


def damaged(run: Path) -> None:
    part = run / "scores" / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    content[4:200] = bytes(196)
    part.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (unfinished, "3 of 4 shards are done, expected a finished run"),
        (unreported, "run.json says no end, expected a finished run"),
        (lambda run: (run / "run.json").unlink(), "run.json says no end, expected a finished run"),
        (lambda run: (run / "plan.parquet").unlink(), "no plan.parquet, expected a run folder of ecgbatch"),
        (lambda run: (run / "plan.parquet").write_bytes(b"PAR1"), "not a plan of ecgbatch"),
        (shutil.rmtree, "no plan.parquet, expected a run folder of ecgbatch"),
        (incomplete, "delete scores/part-000001.parquet to have the shard done again"),
        (lambda run: (run / "rejects" / "part-000002.parquet").unlink(), "delete scores/part-000002.parquet"),
        (damaged, "scores: cannot be read"),
    ],
    ids=["unfinished", "unreported", "no-report", "no-plan", "bad-plan", "nothing", "incomplete", "no-pair", "damaged"],
)
def test_what_is_no_finished_run_is_refused_and_left_alone(run, harm, message):
    harm(run)
    before = snapshot(run)

    assert message in error_of("deduplicate", run)
    assert snapshot(run) == before


def test_a_run_that_another_process_holds_is_refused(run):
    before = snapshot(run)
    with output.exclusive(run):
        line = error_of("deduplicate", run)

    assert "another process is writing this run" in line
    assert snapshot(run) == before


@pytest.mark.parametrize("shard", range(4))
@pytest.mark.parametrize("is_asked", [True, False], ids=["with the option", "without"])
def test_a_shard_that_is_done_again_ends_as_in_a_run_of_the_same_command(
    archive, tiny_bundle, plain, undisturbed, tmp_path, shard, is_asked
):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    (run / "scores" / parts.name(shard)).unlink()
    score.run([archive], run, [tiny_bundle], score.Options(**OPTIONS, deduplicate=is_asked))

    assert_same_rows(run, undisturbed if is_asked else plain)
    assert facts(run)["counts"] == facts(undisturbed if is_asked else plain)["counts"]


def test_where_the_first_is_a_reject_by_now_the_next_one_takes_its_place(archive, tiny_bundle, undisturbed, tmp_path):
    changed = Path(shutil.copytree(archive, tmp_path / "archive"))
    run = tmp_path / "run"
    options = score.Options(**OPTIONS, deduplicate=True)
    score.run([changed], run, [tiny_bundle], options)
    os.utime(changed / "01-a.hea")
    (run / "scores" / "part-000000.parquet").unlink()
    score.run([changed], run, [tiny_bundle], options)
    moved = dict(rows(run, "duplicates").select("record_id", "duplicate_of").iter_rows())

    assert rows(run, "rejects")["record_id"].to_list()[0] == "01-a.hea"
    assert {name for name, of in moved.items() if of == "03-a.xml"} == {"07-a.xml", "13-a.hea"}
    assert "03-a.xml" in rows(run, "scores")["record_id"]


def test_duplicates_that_someone_deleted_are_missed_and_made_again(archive, tiny_bundle, undisturbed, tmp_path):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    before = facts(run)
    (run / "duplicates" / "part-000001.parquet").unlink()
    again = [*score_arguments(archive, run, tiny_bundle), "--deduplicate"]
    line = error_of(*again)
    assert error_of("deduplicate", run) == line
    assert "14 entries, but 6 scored, 2 rejected and 4 duplicates; delete scores/part-000001.parquet" in line
    assert facts(run) == before

    (run / "scores" / "part-000001.parquet").unlink()
    assert invoke(*again).exit_code == 3
    assert_same_rows(run, undisturbed)


def assert_adds_up(run: Path) -> None:
    """Every row is there now, and `inspect` counts each once."""
    counts = json.loads(invoke("inspect", run, "--json").stdout)["counts"]
    assert counts["entries"] == counts["scored"] + counts["rejected"] + counts["duplicate"]
    found = {name for part in run.glob("*/part-*.parquet") for name in pl.read_parquet(part)["record_id"]}
    assert len(found) == 14


def killed_everywhere(template: Path, folder: Path, what: str) -> list[Path]:
    """Copies of a run in the order of the moments at which something done to them was killed; the last was not."""
    line = [sys.executable, "-c", DEADLY + KILLED_EVERYWHERE, template, folder, what]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return sorted(folder.iterdir(), key=lambda copy: int(copy.name))


def test_killed_at_any_moment_it_loses_no_row_and_ends_as_if_undisturbed(
    plain, undisturbed, archive, tiny_bundle, tmp_path
):
    runs = killed_everywhere(plain, tmp_path, "deduplicate")
    for moment, run in enumerate(runs):
        assert_adds_up(run)
        if moment % 4 == 0:  # the command that began the run finds it finished
            done = invoke(*score_arguments(archive, run, tiny_bundle))
            assert "nothing left to score" in done.stderr
            assert_adds_up(run)
        assert invoke("deduplicate", run).exit_code == 0
        assert_same_rows(run, undisturbed)
        assert facts(run)["counts"] == facts(undisturbed)["counts"]

    assert len(runs) > 6 * len(list((undisturbed / "duplicates").iterdir()))


def test_killed_at_any_moment_a_restoration_loses_no_row(plain, undisturbed, tmp_path):
    runs = killed_everywhere(undisturbed, tmp_path, "restore")
    for run in runs:
        assert_adds_up(run)
        duplicates.restore(run, Plan.open(run / "plan.parquet"))
        parts.discard_partials(run)
        assert_same_rows(run, plain)

    assert len(runs) > 4 * len(list((undisturbed / "duplicates").iterdir()))


def test_killed_again_and_again_a_run_with_the_option_ends_as_if_undisturbed(
    archive, tiny_bundle, undisturbed, tmp_path
):
    run = tmp_path / "run"
    arguments = [*score_arguments(archive, run, tiny_bundle), "--deduplicate"]
    codes = []
    while 3 not in codes:
        line = [sys.executable, "-c", DEADLY + KILLED_ONCE, str(24 + len(codes)), str(run), *arguments]
        codes.append(subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path).returncode)
        assert codes[-1] in (3, -signal.SIGKILL)

    assert len(codes) > 3
    assert_same_rows(run, undisturbed)
    assert facts(run)["counts"] == facts(undisturbed)["counts"]


@pytest.mark.parametrize(("free", "n_written"), [(0, 0), (16, 1)], ids=["for nothing", "for the first file"])
def test_a_full_disk_ends_it_in_one_line_and_more_room_lets_it_go_on(plain, undisturbed, small_disk, free, n_written):
    run = Path(shutil.copytree(plain, small_disk / "run"))
    room = os.statvfs(small_disk)
    with (small_disk / "other").open("wb") as file:
        file.write(bytes(room.f_bavail * room.f_frsize - free * 1024))
    line = error_of("deduplicate", run)

    assert "No space left on device; the same command goes on from here" in line
    assert len(list((run / "duplicates").iterdir())) == n_written
    assert_adds_up(run)
    (small_disk / "other").unlink()
    assert invoke("deduplicate", run).exit_code == 0
    assert_same_rows(run, undisturbed)
