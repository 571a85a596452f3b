"""Training in several processes: one batch, one gradient, one end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ecgbatch import synth
from ecgbatch.bundle import Bundle
from ecgbatch.cli import app
from ecgbatch.errors import EngineError, UsageError

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

from safetensors.torch import load_file  # noqa: E402

from ecgbatch.train import device  # noqa: E402
from ecgbatch.train.architecture import shaped  # noqa: E402
from ecgbatch.train.pretrain import pretrain  # noqa: E402
from ecgbatch.train.training import Recipe  # noqa: E402

COMMAND = (
    "train pretrain {data} --out {out} --name tiny --widths 8,8 --depths 1 --epochs 3 --batch 9 --min-positives 5 "
)
TWO = COMMAND + "--folds 1-4/5/6 --checkpoint-minutes 0 --device cpu --devices 2"

MAIN = """
if __name__ == "__main__":
    from ecgbatch.cli import main
    main()
"""

SEEN = """
from safetensors.torch import save_file
from ecgbatch.train import pretrain

class Seen(pretrain.Training):
    def run_epoch(self, *parts, **options):
        super().run_epoch(*parts, **options)
        weights = {"network": self.network.state_dict(), "average": self.average, "best": self.best}
        said = {f"{part}/{name}": value.contiguous() for part in weights for name, value in weights[part].items()}
        save_file(said, f"process-{self.fabric.global_rank}.safetensors")

pretrain.Training = Seen
"""
"""What each process ends with is written; the processes that are launched run the script's top level too."""

DEADLY = """
import os, signal
from ecgbatch.train import pretrain

class Deadly(pretrain.Training):
    def _step(self, *batch):
        if self.fabric.global_rank == 1 and (len(self.history), self.step) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._step(*batch)

pretrain.Training = Deadly
"""

STEP = """
import torch
from safetensors.torch import save_file
from ecgbatch.errors import ArchiveError, EcgbatchError
from ecgbatch.network import Network
from ecgbatch.train.device import Device
from ecgbatch.train.processes import launch
from ecgbatch.train.training import Recipe, Training

NETWORK = {"n_leads": 8, "n_labels": 2, "widths": [8, 8], "depths": [1], "kernel": 3, "stem_kernel": 5,
           "squeezed": [True], "dropout": 0.0}

class Still(Network):
    def train(self, mode=True):  # normalises by what it has seen before: a share's own statistics are another's not
        return super().train(False)

def step(fabric):
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 8, 200, generator=draw), torch.randint(0, 2, (7, 2), generator=draw).float()
    y[::2, 0] = torch.nan  # all that is unknown falls to the first of two
    training = Training(NETWORK, Recipe(epochs=1, batch=7, seed=1), build=Still, fabric=fabric)
    share = slice(fabric.global_rank, None, fabric.world_size)
    loss = training._step(x[share], y[share], None)
    if fabric.global_rank == 0:
        grad = {name: value.grad for name, value in training.network.head.named_parameters()}
        save_file({**grad, "loss": torch.tensor(loss)}, f"of-{fabric.world_size}.safetensors")
    fabric.barrier()

def step_and_fail(fabric):
    step(fabric)
    if fabric.global_rank == 1:
        raise ArchiveError("a7.xml: gone")
    fabric.barrier()  # for ever, if nobody ended this process

if __name__ == "__main__":
    step(Device("cpu", "32-true").fabric())
    try:
        launch(Device("cpu", "32-true", 2).fabric(), step_and_fail)
    except EcgbatchError as err:
        print(f"raised: {err}")
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 ECGs in six folds, sinus rhythm and atrial fibrillation by turns."""
    rows = []
    for at in range(42):
        ecg = synth.record(seed=at, rhythm=("sinus", "afib")[at % 2], fs_hz=250, uv_per_count=1.0)
        facts = {
            "patient_id": f"p{at}",
            "fold": at // 7 + 1,
            "fs_hz": 250,
            "uv_per_count": 1.0,
            "leads": list(ecg.leads),
        }
        rows.append({**facts, "samples": ecg.counts.astype(np.int16).ravel(), "SR": 1 - at % 2, "AFIB": at % 2})
    path = tmp_path_factory.mktemp("table") / "ecgs.parquet"
    pl.DataFrame(rows, schema_overrides={"samples": pl.List(pl.Int16)}).write_parquet(path)
    return path


def run(folder: Path, words: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in processes of one thread each, or that of a script in `folder`."""
    if script is not None:
        (folder / "script.py").write_text(script, "utf-8")
    program = ["-m", "ecgbatch.cli"] if script is None else ["script.py"]
    path = os.pathsep.join([str(Path(synth.__file__).parents[2]), *sys.path])
    return subprocess.run(
        [sys.executable, *program, *words.split()],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def same(path: Path, other: Path) -> bool:
    """Whether two files hold the same tensors to the bit."""
    first, second = load_file(path), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def undisturbed(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training of two processes; each wrote its weights beside it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, TWO.format(data=table, out="training"), SEEN + MAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "training/tiny\n"
    assert done.stderr.count("epoch 3/3") == 1
    return folder / "training"


def test_both_processes_end_with_the_same_weights(undisturbed):
    assert same(*(undisturbed.parent / f"process-{at}.safetensors" for at in range(2)))


def test_the_bundle_says_on_how_many_devices_it_was_trained(undisturbed):
    training = Bundle.load(undisturbed / "tiny").training

    assert training["devices"] == 2
    assert training["device"].startswith("2 × cpu")


def test_a_process_that_dies_ends_all_and_the_training_goes_on_to_the_same_bits(undisturbed, table, tmp_path):
    words = TWO.format(data=table, out="training")
    killed = run(tmp_path, words, DEADLY + MAIN)

    assert killed.returncode == 1
    assert [line for line in killed.stderr.splitlines() if not line.startswith(("42 ECGs", "epoch 1/3"))] == [
        "error: process 2 of 2 ended by SIGKILL, so all did; go on from the last checkpoint with --resume"
    ]

    resumed = run(tmp_path, f"{words} --resume")

    assert resumed.returncode == 0, resumed.stderr
    assert same(tmp_path / "training" / "checkpoint.safetensors", undisturbed / "checkpoint.safetensors")
    assert Bundle.load(tmp_path / "training" / "tiny").hashes == Bundle.load(undisturbed / "tiny").hashes


def test_a_training_is_not_resumed_on_another_number_of_devices(undisturbed, table):
    settings = {"folds": "1-4/5/6", "architecture": shaped([8, 8], [1]), "n_positives": 5, "on": "cpu"}
    one = Recipe(epochs=3, batch=9, seed=1)

    with pytest.raises(UsageError, match="not a training with devices 1; resume it as it was begun"):
        pretrain([table], undisturbed, recipe=one, is_resumed=True, **settings)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A step of one process, then of two, of which the second fails after it; and what was said."""
    folder = tmp_path_factory.mktemp("step")
    return folder, run(folder, "", STEP)


def test_the_gradient_is_that_of_the_whole_batch_however_labels_are_unknown(step):
    alone, shared = (load_file(step[0] / f"of-{n}.safetensors") for n in (1, 2))

    assert alone["weight"].abs().max() > 0.01
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-6)


def test_an_error_of_one_process_ends_all_and_is_raised_where_they_were_launched(step):
    done = step[1]

    assert (done.returncode, done.stdout, done.stderr) == (0, "raised: a7.xml: gone\n", "")


@pytest.mark.parametrize("n", [0, 10], ids=["none", "more-than-ecgs-of-a-batch"])
def test_a_number_of_devices_that_cannot_share_a_batch_is_refused(table, tmp_path, n):
    words = COMMAND.format(data=table, out=tmp_path / "training")
    said = CliRunner().invoke(app, [*words.split(), "--devices", str(n)])

    assert said.exit_code == 2
    assert f"{n} devices for batches of 9, expected 1 to 9" in said.output
    assert not (tmp_path / "training").exists()


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(EngineError, match="2 devices, expected at most the 1 that PyTorch sees"):
        device.chosen("cuda", 2)


@pytest.mark.needs_gpu
def test_two_gpus_train_a_bundle(table, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    done = run(tmp_path, TWO.format(data=table, out="training").replace("--device cpu", "--device cuda"))

    assert done.returncode == 0, done.stderr
    assert Bundle.load(tmp_path / "training" / "tiny").training["device"].startswith("2 × cuda")
