"""Files: written whole or not at all, and what goes wrong is one line."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from ecgbatch import files
from ecgbatch.errors import OutputError

FULL = "No space left on device"


@pytest.fixture
def path(tmp_path) -> Path:
    """A file that is there already."""
    path = tmp_path / "report.json"
    path.write_text("old", "utf-8")
    return path


def test_a_file_takes_the_place_of_another_one_when_it_is_whole(path):
    with files.replaced(path) as partial:
        partial.write_text("new", "utf-8")
        assert path.read_text("utf-8") == "old"

    assert path.read_text("utf-8") == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(28, FULL), ValueError("a bug"), KeyboardInterrupt()], ids=["disk", "bug", "stop"]
)
def test_a_file_that_does_not_become_whole_leaves_the_old_one_and_nothing_else(path, error):
    with pytest.raises(type(error)), files.replaced(path) as partial:  # noqa: PT012
        partial.write_text("ne", "utf-8")
        raise error

    assert path.read_text("utf-8") == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_folder_after(path, monkeypatch):
    done = []
    replace = Path.replace

    def renamed(self: Path, to: Path) -> Path:
        done.append("renamed")
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", lambda handle: done.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    monkeypatch.setattr(Path, "replace", renamed)
    with files.replaced(path) as partial:
        partial.write_text("new", "utf-8")

    assert done == [str(files.partial_of(path)), "renamed", str(path.parent)]


KILLED = """
import os, signal, sys
from pathlib import Path
from ecgbatch import files

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "written":
    files.sync = kill
if sys.argv[2] == "synced":
    Path.replace = kill
with files.replaced(Path(sys.argv[1])) as partial:
    partial.write_text("ne", "utf-8")
    if sys.argv[2] == "half":
        kill()
"""


@pytest.mark.parametrize("when", ["half", "written", "synced"])
def test_a_kill_leaves_the_old_file_and_the_next_one_writes_the_new(path, when):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, path, when], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL

    assert path.read_text("utf-8") == "old"
    with files.replaced(path) as partial:
        partial.write_text("new", "utf-8")
    assert path.read_text("utf-8") == "new"
    assert list(path.parent.iterdir()) == [path]


def in_bytes(partial: Path) -> None:
    partial.write_bytes(bytes(2**18))


def by_polars(partial: Path) -> None:
    pl.DataFrame({"x": os.urandom(2**18)}, strict=False).write_parquet(partial)


def by_arrow(partial: Path) -> None:
    pa.parquet.write_table(pa.table({"x": [os.urandom(2**18)]}), partial)


def by_safetensors(partial: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    numpy.save_file({"x": np.zeros(2**18, np.uint8)}, partial)


@pytest.mark.parametrize("write", [in_bytes, by_polars, by_arrow, by_safetensors])
def test_a_full_disk_is_one_line_whoever_writes(small_disk, write):
    path = small_disk / "report"

    with pytest.raises(OutputError) as told, files.writing(path, advice="; wait"), files.replaced(path) as partial:
        write(partial)

    assert str(told.value).startswith(f"{path}: cannot be written: ")
    assert FULL in str(told.value)
    assert str(told.value).endswith("; wait")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, FULL), FULL),
        (pl.exceptions.ComputeError("sink: No more room (os error 28)"), FULL),
        (pl.exceptions.ComputeError("broken Parquet\nat 7"), "broken Parquet"),
        (pa.ArrowInvalid("a closed file"), "a closed file"),
    ],
    ids=["the-system", "polars-of-the-system", "polars", "arrow"],
)
def test_what_cannot_be_written_says_why(tmp_path, error, said):
    with pytest.raises(OutputError) as told, files.writing(tmp_path):
        raise error

    assert str(told.value) == f"{tmp_path}: cannot be written: {said}"


def test_a_bug_is_not_told_as_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError), files.writing(tmp_path):
        1 / 0  # noqa: B018


def test_a_folder_that_cannot_be_made_is_one_line(path):
    with pytest.raises(OutputError, match=r"report\.json/below: cannot be made: Not a directory"):
        files.made(path / "below")


def test_a_file_is_known_by_its_hash(path):
    assert files.sha256(path) == hashlib.sha256(b"old").hexdigest()


def test_a_folder_beside_its_place_is_gone_unless_it_has_taken_it(tmp_path):
    place = tmp_path / "of" / "its" / "own"
    with pytest.raises(FileNotFoundError), files.beside(place) as partial:
        (partial / "no folder" / "file").touch()
    assert not [*place.parent.iterdir()]

    with files.beside(place) as partial:
        (partial / "file").write_text("whole")
        files.sync_all(partial)
        partial.rename(place)
    assert [path.name for path in place.parent.iterdir()] == ["own"]
    assert (place / "file").read_text() == "whole"
    assert place.stat().st_mode & 0o777 == 0o755
