"""Where a training writes its bundle: no folder of a user is in danger, and what cannot be written is told early."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from ecgbatch.bundle import Bundle
from ecgbatch.errors import OutputError, UsageError

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

from ecgbatch.runtimes import eager  # noqa: E402
from ecgbatch.train import export, finetune, place, stored, task  # noqa: E402
from ecgbatch.train.arms import budget  # noqa: E402
from ecgbatch.train.pretrain import pretrain  # noqa: E402
from ecgbatch.train.training import Recipe  # noqa: E402

ECG = "a1.xml"
RECIPE = Recipe(epochs=1, batch=8, seed=1)


def say(_: str) -> None:
    """Say nothing."""


@pytest.fixture
def ecgs(tmp_path: Path) -> Path:
    """A folder of somebody's ECGs, called as a bundle might be."""
    folder = tmp_path / "out" / "brugada"
    folder.mkdir(parents=True)
    (folder / ECG).write_text("<RestingECG>")
    return folder


def making(parent: Bundle, name: str) -> finetune.Making:
    return finetune.Making(parent=parent, depth="probe", name=name, title="", licence="CC0", command="none")


def trained(command: str, out: Path, name: str, parent: Bundle) -> None:
    """Train on ECGs that are not there: who says anything else has not looked for them."""
    gone = out.parent / "gone.parquet"
    match command:
        case "pretrain":
            pretrain([gone], out, name=name, recipe=RECIPE)
        case "finetune":
            nothing = budget(epochs=1, rates=None, depth="probe", batch=2, device="cpu")
            finetune.finetune(None, making(parent, name), nothing, out, say=say)  # type: ignore[arg-type]
        case "probe":
            stored.probe_run(gone, gone, task.Meaning("AFIB"), making(parent, name), out, say=say)


COMMANDS = pytest.mark.parametrize("command", ["pretrain", "finetune", "probe"])


@COMMANDS
def test_a_folder_of_the_bundles_name_that_is_none_is_refused_before_anything_is_read(command, ecgs, tiny_bundle):
    with pytest.raises(OutputError, match=r"out/brugada: is there and is no bundle, expected a new folder or a bundle"):
        trained(command, ecgs.parent, "brugada", tiny_bundle)

    assert (ecgs / ECG).exists()


@COMMANDS
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b"])
def test_a_name_that_no_folder_can_have_is_refused(command, ecgs, tiny_bundle, name):
    with pytest.raises(UsageError, match=r"expected one that a folder can have"):
        trained(command, ecgs.parent, name, tiny_bundle)

    assert (ecgs / ECG).exists()


@pytest.mark.parametrize("name", [".lock", "tensorboard", "split.parquet", "checkpoint.safetensors"])
def test_a_bundle_is_not_called_like_what_stands_beside_it(tmp_path, name):
    with pytest.raises(UsageError, match="give another --name"):
        pretrain([tmp_path / "gone.parquet"], tmp_path / "out", name=name, recipe=RECIPE)


@COMMANDS
@pytest.mark.parametrize("out", ["file", "file/out", "/proc/self"])
def test_an_out_that_cannot_be_written_is_one_line_before_anything_is_read(command, tmp_path, tiny_bundle, out):
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match=r"cannot be (made|written): (File exists|Not a directory|No such file)"):
        trained(command, tmp_path / out, "brugada", tiny_bundle)


@COMMANDS
def test_a_name_that_is_too_long_is_one_line_before_anything_is_read(command, tmp_path, tiny_bundle):
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        trained(command, tmp_path / "out", "b" * 255, tiny_bundle)


@pytest.fixture
def old(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that stands where another one is to be written."""
    return Bundle.load(Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundles" / "tiny")))


def copied(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


@pytest.mark.parametrize("is_link", [False, True], ids=["folder", "link"])
def test_a_bundle_takes_the_place_of_another(old, other_bundle, tmp_path, is_link):
    where = old.folder
    if is_link:
        where = tmp_path / "linked" / "tiny"
        where.parent.mkdir()
        where.symlink_to(old.folder)

    with place.filled(where) as folder:
        copied(other_bundle.folder, folder)

    assert Bundle.load(where).fingerprint == other_bundle.fingerprint
    assert [path.name for path in where.parent.iterdir()] == ["tiny"]
    assert not is_link or Bundle.load(old.folder).fingerprint == old.fingerprint


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug")], ids=["disk", "bug"])
def test_a_bundle_stays_where_it_is_when_another_cannot_be_written(old, error):
    with pytest.raises((OutputError, ValueError)), place.filled(old.folder):
        raise error

    assert Bundle.load(old.folder).fingerprint == old.fingerprint
    assert [path.name for path in old.folder.parent.iterdir()] == ["tiny"]


def test_a_bundle_comes_back_when_the_new_one_cannot_take_its_place(old, other_bundle, monkeypatch):
    renamed = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return renamed(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="cannot be written: Input/output error"), place.filled(old.folder) as folder:
        copied(other_bundle.folder, folder)

    assert Bundle.load(old.folder).fingerprint == old.fingerprint
    assert [path.name for path in old.folder.parent.iterdir()] == ["tiny"]


def test_killed_between_the_renames_the_old_bundle_and_the_new_one_are_whole(old, other_bundle):
    program = (
        "import os, shutil, signal, sys\n"
        "from pathlib import Path\n"
        "from ecgbatch.train import place\n"
        "renamed = Path.rename\n"
        "def rename(self, to):\n"
        "    if self.name.endswith('.partial'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return renamed(self, to)\n"
        "Path.rename = rename\n"
        "with place.filled(Path(sys.argv[1])) as folder:\n"
        "    shutil.copytree(sys.argv[2], folder, dirs_exist_ok=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-c", program, old.folder, other_bundle.folder]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL

    left = {path.name: Bundle.load(path).fingerprint for path in old.folder.parent.iterdir()}
    assert left == {".tiny.old": old.fingerprint, ".tiny.partial": other_bundle.fingerprint}

    with place.filled(old.folder) as folder:
        copied(other_bundle.folder, folder)
    assert [path.name for path in old.folder.parent.iterdir()] == ["tiny"]


def test_two_bundles_that_are_written_to_one_place_at_once_are_not_mixed(old, other_bundle):
    def written(bundle: Bundle) -> None:
        with place.filled(old.folder) as folder:
            for path in bundle.folder.iterdir():
                shutil.copy(path, folder)
                sleep(0.02)

    bundles = [Bundle.load(Path(shutil.copytree(old.folder, old.folder.parents[1] / "source"))), other_bundle]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(written, bundles))

    assert Bundle.load(old.folder).fingerprint in {bundle.fingerprint for bundle in bundles}
    assert [path.name for path in old.folder.parent.iterdir()] == ["tiny"]


def test_a_folder_that_was_made_while_a_bundle_was_written_is_left_alone(ecgs, tiny_bundle):
    kept = ecgs.rename(ecgs.with_name("kept"))
    with pytest.raises(OutputError, match="is there and is no bundle"), place.filled(ecgs) as folder:  # noqa: PT012
        copied(tiny_bundle.folder, folder)
        kept.rename(ecgs)

    assert [path.name for path in ecgs.iterdir()] == [ECG]


@pytest.mark.parametrize("left_kib", [4, 60, 100], ids=lambda n: f"{n}-KiB-left")
def test_a_bundle_for_which_there_is_no_room_is_one_line(tiny_bundle, small_disk, left_kib):
    (small_disk / "full").write_bytes(bytes(1024 * (160 - left_kib)))
    bundle = replace(tiny_bundle, folder=small_disk / "tiny", hashes={})

    with pytest.raises(OutputError, match=r"/tiny: cannot be written: No space left on device$"):
        export.write(bundle, eager.load(tiny_bundle).network, card="")

    assert [path.name for path in small_disk.iterdir()] == ["full"]


def test_a_bundle_is_not_written_over_a_folder_that_is_none(ecgs, tiny_bundle):
    with pytest.raises(OutputError, match="is there and is no bundle"):
        export.write(replace(tiny_bundle, folder=ecgs, hashes={}), eager.load(tiny_bundle).network, card="")

    assert [path.name for path in ecgs.iterdir()] == [ECG]
