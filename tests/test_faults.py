"""Faults: whatever stops a run, it says so in one line, leaves nothing half-written, and goes on to the same rows."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from ecgbatch import cli, output, score, synth
from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError

N = 150
N_KILLS = 20
OPTIONS = ("--batch", "8", "--shard-size", "6")

WITHOUT_PRIVILEGES = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read everything
    libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "archive"
    synth.write_archive(folder, N, seed=9, damaged=0.1)
    return folder


def command(archive: Path, run: Path, bundle: Bundle, *arguments: str) -> list[str]:
    model = ["--model", str(bundle.folder)]
    return [
        sys.executable,
        "-m",
        "ecgbatch.cli",
        "score",
        str(archive),
        "--out",
        str(run),
        *model,
        *OPTIONS,
        *arguments,
    ]


def call(line: list[str], cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, **options)


def rows(run: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores and rejects of a run, in the order of its shards; the parts of both are pairs."""
    scores, rejects = (sorted((run / kind).glob("*")) for kind in ("scores", "rejects"))
    assert [part.name for part in scores] == [part.name for part in rejects]
    return pl.concat(map(pl.read_parquet, scores)), pl.concat(map(pl.read_parquet, rejects))


def assert_same_rows(run: Path, expected: Path) -> None:
    for found, wanted in zip(rows(run), rows(expected), strict=True):
        assert_frame_equal(found, wanted, check_exact=True)


def leftovers(run: Path) -> list[Path]:
    return sorted(run.rglob("*.partial"))


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command ends with, and nothing on stdout."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    return line


@pytest.fixture(scope="module")
def undisturbed(archive, tiny_bundle, tmp_path_factory) -> Path:
    """A run that nothing befell."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = call(command(archive, run, tiny_bundle), cwd=run.parent)
    assert done.returncode == 3, done.stderr
    return run


@pytest.fixture
def half_done(archive, undisturbed, tmp_path) -> Path:
    """A run of which every third shard is done."""
    run = Path(shutil.copytree(undisturbed, tmp_path / "half"))
    for i, part in enumerate(sorted((run / "scores").iterdir())):
        if i % 3:
            part.unlink()
            (run / "rejects" / part.name).unlink()
    return run


def started(line: list[str], cwd: Path) -> subprocess.Popen[str]:
    """The process, at the moment when its engines are loaded and it turns to the archive."""
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=cwd)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("device: "), first + process.communicate()[1]
    return process


def n_parts(run: Path) -> int:
    return len(list((run / "scores").glob("part-*.parquet")))


def wait_for(process: subprocess.Popen[str], run: Path, goal: int) -> None:
    """Return when so many more shards are committed (0: when the plan is made; less: at once), or at the end."""
    before = n_parts(run)
    while process.poll() is None and goal >= 0:
        if (run / "plan.parquet").exists() and n_parts(run) >= before + goal:
            return
        time.sleep(0.001)


def test_killed_at_twenty_random_moments_a_run_ends_with_the_rows_of_an_undisturbed_one(
    archive, tiny_bundle, undisturbed, tmp_path
):
    moments = random.Random(20)
    n_kills = n_runs = 0
    run = tmp_path / "run-0"
    stages = set()
    while n_kills < N_KILLS:
        process = started(command(archive, run, tiny_bundle), tmp_path)
        goal = -1 if n_kills < 3 else moments.choice([0, 1, 1, 2, 3])
        wait_for(process, run, goal)
        time.sleep(moments.random() * (0.001 * n_kills if goal < 0 else 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            n_kills += 1
            stages.add("scoring" if n_parts(run) else "planned" if (run / "plan.parquet").exists() else "planning")
        else:
            assert_same_rows(run, undisturbed)
            n_runs += 1
            run = tmp_path / f"run-{n_runs}"
    done = call(command(archive, run, tiny_bundle), cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    assert_same_rows(run, undisturbed)
    assert leftovers(run) == []
    assert {"planning", "scoring"} <= stages


def test_a_killed_plan_is_made_anew(archive, tiny_bundle, undisturbed, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / "plan.parquet.partial").write_bytes(b"PAR1 half a plan")
    done = call(command(archive, run, tiny_bundle), cwd=tmp_path)

    assert done.returncode == 3
    assert leftovers(run) == []
    assert_same_rows(run, undisturbed)


def test_what_a_killed_commit_leaves_is_overwritten(archive, tiny_bundle, undisturbed, half_done):
    (half_done / "scores" / "part-000001.parquet.partial").write_bytes(b"half a part")
    (half_done / "rejects" / "part-000002.parquet.partial").write_bytes(b"half a part")
    (half_done / "rejects" / "part-000004.parquet").write_bytes(b"rejects whose scores were never committed")
    (half_done / "run.json.partial").write_bytes(b"{")
    done = call(command(archive, half_done, tiny_bundle), cwd=half_done.parent)

    assert done.returncode == 3
    assert leftovers(half_done) == []
    assert_same_rows(half_done, undisturbed)


@pytest.mark.parametrize("lost", ["scores", "run.json", "rejects-of-undone"])
def test_what_is_deleted_from_a_run_is_made_again(archive, tiny_bundle, undisturbed, tmp_path, lost):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    if lost == "run.json":
        (run / lost).unlink()
    else:
        shutil.rmtree(run / "scores")
    if lost == "rejects-of-undone":
        shutil.rmtree(run / "rejects")
    done = call(command(archive, run, tiny_bundle), cwd=tmp_path)

    assert done.returncode == 3
    assert (run / "run.json").exists()
    assert_same_rows(run, undisturbed)


def test_committed_scores_without_their_rejects_are_an_error_that_says_what_to_do(
    archive, tiny_bundle, undisturbed, tmp_path
):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    (run / "rejects" / "part-000003.parquet").unlink()
    line = error_of(call(command(archive, run, tiny_bundle), cwd=tmp_path))
    (run / "scores" / "part-000003.parquet").unlink()

    assert "delete scores/part-000003.parquet" in line
    assert call(command(archive, run, tiny_bundle), cwd=tmp_path).returncode == 3
    assert_same_rows(run, undisturbed)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=["keyboard", "scheduler"])
def test_asked_to_end_a_run_says_that_it_goes_on(archive, tiny_bundle, undisturbed, tmp_path, end):
    process = started(command(archive, tmp_path / "run", tiny_bundle), tmp_path)
    assert process.stderr is not None
    process.stderr.readline()  # the plan is made
    process.send_signal(end)
    _, said = process.communicate()

    if process.returncode != 3:  # where it was not faster than the signal
        assert process.returncode == 1
        assert said.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert call(command(archive, tmp_path / "run", tiny_bundle), cwd=tmp_path).returncode == 3
    assert_same_rows(tmp_path / "run", undisturbed)


def test_a_second_process_on_the_same_run_is_refused(archive, tiny_bundle, half_done):
    before = sorted(half_done.rglob("*"))
    with output.exclusive(half_done):
        line = error_of(call(command(archive, half_done, tiny_bundle), cwd=half_done.parent))

    assert "another process is writing this run" in line
    assert sorted(half_done.rglob("*")) == before


def test_the_hold_on_a_run_ends_with_the_process(archive, tiny_bundle, undisturbed, tmp_path):
    process = started(command(archive, tmp_path / "run", tiny_bundle), tmp_path)
    process.kill()
    process.communicate()

    with output.exclusive(tmp_path / "run"):
        pass


def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(archive, tiny_bundle, undisturbed, small_disk, tmp_path):
    run = small_disk / "run"
    line = error_of(call(command(archive, run, tiny_bundle), cwd=tmp_path))
    n_done = len(list((run / "scores").glob("part-*")))

    assert "No space left on device" in line
    assert "goes on" in line
    assert n_done > 0
    assert leftovers(run) == []
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert call(command(archive, run, tiny_bundle), cwd=tmp_path).returncode == 3
    assert_same_rows(run, undisturbed)


def test_a_disk_too_full_for_the_plan_leaves_no_run(archive, tiny_bundle, small_disk, tmp_path):
    with (small_disk / "other").open("wb") as file:
        file.write(bytes(156 * 1024))
    line = error_of(call(command(archive, small_disk / "run", tiny_bundle), cwd=tmp_path))

    assert "No space left on device" in line
    assert not (small_disk / "run").exists()


@pytest.mark.parametrize("what", ["plan", "part"])
def test_a_file_that_may_not_grow_ends_the_run_in_one_line(archive, tiny_bundle, tmp_path, what):
    limit = 4_096 if what == "plan" else 12_288  # all scores in one part take more, the plan less
    if shutil.which("prlimit") is None:
        pytest.skip("needs prlimit")
    line = command(archive, tmp_path / "run", tiny_bundle, "--shard-size", "999")
    said = error_of(call(["prlimit", f"--fsize={limit}", *line], cwd=tmp_path))

    assert said.startswith(
        f"error: {tmp_path}/run/{'plan.parquet' if what == 'plan' else 'scores/part-000000.parquet'}"
    )
    assert "File too large" in said
    assert leftovers(tmp_path) == []


def unprivileged(line: list[str]) -> list[str]:
    """The same command without root's right to read and write everything."""
    return [sys.executable, "-c", WITHOUT_PRIVILEGES, *line[1:]]


@pytest.fixture
def closed(tmp_path, ecg) -> Iterator[Path]:
    """An archive of one ECG and a folder that may not be listed."""
    folder = tmp_path / "archive"
    (folder / "closed").mkdir(parents=True)
    (folder / "a.xml").write_bytes(synth.muse_xml(ecg))
    (folder / "closed").chmod(0)
    yield folder
    (folder / "closed").chmod(0o700)


def test_a_folder_that_cannot_be_listed_fails_the_plan_and_leaves_no_run(closed, tiny_bundle, tmp_path):
    line = error_of(call(unprivileged(command(closed, tmp_path / "run", tiny_bundle)), cwd=tmp_path))

    assert str(closed / "closed") in line
    assert "Permission denied" in line
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_read_is_a_reject(tiny_bundle, tmp_path, ecg):
    (tmp_path / "archive").mkdir()
    for name in ("a.xml", "b.xml"):
        (tmp_path / "archive" / name).write_bytes(synth.muse_xml(ecg))
    (tmp_path / "archive" / "b.xml").chmod(0)
    done = call(unprivileged(command(tmp_path / "archive", tmp_path / "run", tiny_bundle)), cwd=tmp_path)
    scores, rejects = rows(tmp_path / "run")

    assert done.returncode == 3, done.stderr
    assert scores["record_id"].to_list() == ["a.xml"]
    assert rejects.select("record_id", "stage", "reason").rows() == [("b.xml", "read", "unreadable")]


@pytest.mark.parametrize("is_new", [True, False], ids=["new run", "existing run"])
def test_a_run_folder_that_cannot_be_written_is_an_error(archive, tiny_bundle, undisturbed, tmp_path, is_new):
    parent = tmp_path / "closed"
    parent.mkdir()
    run = parent / "run" if is_new else Path(shutil.copytree(undisturbed, parent / "run"))
    if not is_new:
        shutil.rmtree(run / "scores")
    guarded = [parent] if is_new else [run, *run.rglob("*")]
    for path in guarded:
        path.chmod(0o500 if path.is_dir() else 0o400)
    line = error_of(call(unprivileged(command(archive, run, tiny_bundle)), cwd=tmp_path))
    for path in guarded:
        path.chmod(0o700)

    assert "Permission denied" in line


def test_parts_that_cannot_be_listed_are_an_error_and_are_not_made_again(archive, tiny_bundle, undisturbed, tmp_path):
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    (run / "scores").chmod(0o300)
    line = error_of(call(unprivileged(command(archive, run, tiny_bundle)), cwd=tmp_path))
    (run / "scores").chmod(0o700)

    assert line == f"error: {run}/scores: cannot be listed: Permission denied"
    assert_same_rows(run, undisturbed)


def test_a_model_that_is_not_there_is_named_and_nothing_is_made(archive, tmp_path):
    assert "nonesuch" in refused_model(archive, tmp_path / "nonesuch", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def refused_model(archive: Path, model: Path, run: Path) -> str:
    done = CliRunner().invoke(cli.app, ["score", str(archive), "--out", str(run), "--model", str(model)])
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, done.stdout, line[:7]) == (1, "", "error: ")
    return line


@pytest.mark.parametrize("name", ["labels.csv", "weights.safetensors", "model.onnx", "golden.parquet"])
def test_a_bundle_with_one_byte_altered_is_refused(archive, tiny_bundle, tmp_path, name):
    bundle = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)

    assert name in refused_model(archive, bundle, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["labels.csv", "weights.safetensors", "model.onnx", "golden.parquet", "bundle.toml"])
def test_a_bundle_with_a_file_missing_is_refused(archive, tiny_bundle, tmp_path, name):
    bundle = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "tiny"))
    (bundle / name).unlink()

    assert "tiny" in refused_model(archive, bundle, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_its_extra_training_says_which_one_to_install(tmp_path):
    absent = "import sys; sys.modules['torch'] = None; from ecgbatch.cli import main; main()"
    line = error_of(call([sys.executable, "-c", absent, "train", "pretrain", "x.parquet", "--out", "t"], cwd=tmp_path))

    assert "pip install 'ecgbatch[train]'" in line
    assert not (tmp_path / "t").exists()


def test_scoring_needs_no_extra(archive, tiny_bundle, undisturbed, tmp_path):
    extras = ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "scipy", "lxml", "wfdb")
    absent = f"import sys; sys.modules.update(dict.fromkeys({extras})); from ecgbatch.cli import main; main()"
    line = command(archive, tmp_path / "run", tiny_bundle)
    done = call([line[0], "-c", absent, *line[3:]], cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    assert_same_rows(tmp_path / "run", undisturbed)


def test_an_error_in_the_feed_ends_the_run_and_does_not_hang(archive, tiny_bundle, tmp_path):
    def failing(tally) -> None:
        if tally.n_done > 20:
            raise OutputError("the observer fails")

    with pytest.raises(OutputError, match="observer"):
        score.run([archive], tmp_path / "run", [tiny_bundle], score.Options(batch=4, shard_size=8), observe=failing)
    assert leftovers(tmp_path / "run") == []
    assert 2 <= len(list((tmp_path / "run" / "scores").iterdir())) <= 3
