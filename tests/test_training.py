"""One training: it can stop at any step, goes on to the same end, and masks what is unknown."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import EngineError, OutputError, UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record

torch = pytest.importorskip("torch", reason="training needs the extra 'train'")

from safetensors.torch import save  # noqa: E402

from ecgbatch.train import device  # noqa: E402
from ecgbatch.train.architecture import leads_of, numbers, shaped  # noqa: E402
from ecgbatch.train.cohort import Cohort  # noqa: E402
from ecgbatch.train.logbook import Logbook  # noqa: E402
from ecgbatch.train.stream import Inputs, Stream  # noqa: E402
from ecgbatch.train.training import Recipe, Training  # noqa: E402

SPEC = InputSpec(leads=INDEPENDENT_LEADS, fs_hz=50, seconds=4.0, min_seconds=3.0, scale_mv=(0.2,) * 8, clip=20.0)
NETWORK = {
    "n_leads": 8,
    "n_labels": 2,
    "widths": [8, 8],
    "depths": [1],
    "kernel": 3,
    "stem_kernel": 5,
    "squeezed": [True],
    "dropout": 0.2,
}
RECIPE = Recipe(epochs=2, batch=4, seed=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a network this small wait for each other most of the time."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


class Noise:
    """48 records of noise in blocks of five, each a function of its number."""

    block = np.arange(48) // 5

    def read(self, at):
        for number in at:
            counts = np.random.default_rng(int(number)).integers(-500, 500, (8, 200)).astype(np.int16)
            yield Record(
                format="noise",
                fs_hz=50.0,
                leads=INDEPENDENT_LEADS,
                counts=counts,
                uv_per_count=(1.0,) * 8,
                zero_counts=(0.0,) * 8,
            )


@pytest.fixture
def noise() -> Cohort:
    """The second label is known of no record."""
    n = len(Noise.block)
    return Cohort(
        ecgs=Noise(),
        rows=np.arange(n),
        record_ids=np.arange(n).astype(str),
        patients=np.arange(n).astype(str),
        codes=("A", "B"),
        targets=np.stack([np.arange(n) % 2, np.full(n, np.nan)], axis=1).astype(np.float32),
        folds=None,
        provenance="noise",
        sha256="",
    )


def parts(cohort: Cohort) -> tuple[Stream, Inputs]:
    """36 records to train on, streamed, and twelve to choose by."""
    train = Inputs(cohort.only(np.arange(36)), SPEC, cached_bytes=0)
    return Stream(train, batch=4, seed=RECIPE.seed, buffer_bytes=0), Inputs(cohort.only(np.arange(36, 48)), SPEC)


def trained(cohort: Cohort, training: Training, *, after_step: Callable[[], None] = lambda: None) -> Training:
    while not training.is_finished:
        training.run_epoch(*parts(cohort), after_step=after_step)
    return training


def same(one: Training, other: Training) -> bool:
    states = [(part.network.state_dict(), part.average, part.best) for part in (one, other)]
    return one.history == other.history and all(
        torch.equal(weights, twin[name]) for mine, twin in zip(*states, strict=True) for name, weights in mine.items()
    )


@pytest.mark.parametrize("last", [1, 8, 9, 13], ids=lambda n: f"after-{n}-steps")
def test_a_training_stopped_at_any_step_and_gone_on_with_ends_in_the_same_bits(noise, tmp_path, last):
    path, stopped = tmp_path / "checkpoint.safetensors", Training(NETWORK, RECIPE)
    n_done = 0

    def stop() -> None:
        nonlocal n_done
        n_done += 1
        if n_done == last:
            stopped.save(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(noise, stopped, after_step=stop)
    resumed = Training(NETWORK, RECIPE)
    resumed.resume(path)

    assert same(trained(noise, resumed), trained(noise, Training(NETWORK, RECIPE)))


@pytest.mark.parametrize(
    ("fact", "expected"), [("codes", "these labels"), ("input", "this input")], ids=["labels", "input"]
)
def test_a_checkpoint_of_other_labels_or_leads_is_not_gone_on_with(tmp_path, fact, expected):
    path, facts = tmp_path / "checkpoint.safetensors", {"codes": ("AFIB",), "input": {"leads": ("I", "II")}}
    Training(NETWORK, RECIPE, facts=facts).save(path)

    Training(NETWORK, RECIPE, facts=facts).resume(path)
    with pytest.raises(UsageError, match=rf"checkpoint.safetensors: not a training with {expected}; resume it as"):
        Training(NETWORK, RECIPE, facts={**facts, fact: "other"}).resume(path)


def test_another_seed_ends_elsewhere(noise):
    other = Training(NETWORK, replace(RECIPE, seed=6))

    assert not same(trained(noise, other), trained(noise, Training(NETWORK, RECIPE)))


def test_a_checkpoint_holds_the_old_state_until_the_new_one_is_whole(noise, tmp_path, monkeypatch):
    path, training = tmp_path / "checkpoint.safetensors", Training(NETWORK, RECIPE)
    training.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("power failure")))

    with pytest.raises(OutputError, match=r"checkpoint.safetensors: cannot be written: power failure"):
        trained(noise, training, after_step=lambda: training.save(path))

    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["checkpoint.safetensors"]


KILLED = """
import json, resource, signal, sys
from pathlib import Path
from ecgbatch.train.training import Recipe, Training

training = Training(json.loads(sys.argv[2]), Recipe(epochs=2, batch=4, seed=5))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
training.save(Path(sys.argv[1]))
"""
"""The system ends the process in the middle of the file."""


def test_a_kill_while_it_is_written_leaves_the_old_checkpoint_and_a_partial_file(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    Training(NETWORK, RECIPE).save(path)
    before = path.read_bytes()
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED, path, json.dumps(NETWORK)], check=False)

    assert killed.returncode == -signal.SIGXFSZ
    assert path.read_bytes() == before
    assert {left.name for left in tmp_path.iterdir()} == {path.name, f"{path.name}.partial"}


def told_of_epochs(training: Training, disk: Path, *, left_kib: int) -> None:
    """500 epochs are told to the logbook of a training on a disk that has so much room left."""
    with closing(Logbook(training, 9, disk, checkpoint_s=0, say=lambda _: None)) as logbook:
        (disk / "full").write_bytes(bytes(1024 * (160 - left_kib)))
        training.history = [{"loss": 1.0, "auc_choose": 0.5}]
        for _ in range(500):
            logbook.epoch()


def the_threads_end() -> None:
    """Wait for TensorBoard's, which raises again what it has told, and would do so in another test."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and type(thread).__module__.startswith("tensorboard"):
            thread.join(timeout=60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard raises it twice
@pytest.mark.parametrize(("what", "left_kib"), [("checkpoint.safetensors", 30), ("tensorboard", 8)])
def test_a_disk_that_becomes_full_is_one_line(small_disk, monkeypatch, what, left_kib):
    training = Training(NETWORK, RECIPE)
    if what == "tensorboard":
        monkeypatch.setattr(training, "save", lambda _: None)

    with pytest.raises(OutputError, match=rf"disk/{what}: cannot be written: No space left on device$"):
        told_of_epochs(training, small_disk, left_kib=left_kib)
    the_threads_end()

    assert not list(small_disk.glob("*.partial"))


def truncated(path: Path) -> bytes:
    return path.read_bytes()[:-100]


def without_facts(path: Path) -> bytes:
    return save({"network/stem": torch.zeros(1)})


@pytest.mark.parametrize(
    "damaged",
    [lambda _: b"", lambda _: b"none", truncated, without_facts],
    ids=["empty", "other", "truncated", "another-file"],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damaged):
    path = tmp_path / "checkpoint.safetensors"
    Training(NETWORK, RECIPE).save(path)
    path.write_bytes(damaged(path))

    with pytest.raises(
        OutputError, match=r"checkpoint.safetensors: cannot be read \(.+\), expected the checkpoint of a"
    ):
        Training(NETWORK, RECIPE).resume(path)


def test_a_label_that_is_unknown_everywhere_teaches_nothing(noise):
    training = Training(NETWORK, replace(RECIPE, weight_decay=0.0))
    before = training.network.head.weight.detach().clone()
    trained(noise, training)

    assert torch.equal(training.network.head.weight[1], before[1])
    assert not torch.equal(training.network.head.weight[0], before[0])


def test_balanced_training_weighs_positives_as_negatives(noise):
    """With a network that says the same of everyone, the best answer to one in nine is one in two."""
    targets = noise.targets.copy()
    targets[:, 0] = np.arange(48) % 9 == 0
    rare = replace(noise, targets=targets)
    recipe = replace(RECIPE, epochs=30, learning_rate=0.05, patience=99, mixup_alpha=1e-3)
    stream, choose = parts(rare)
    said = {}
    for is_balanced in (False, True):
        training = Training(NETWORK, replace(recipe, is_balanced=is_balanced))
        training.network.head.weight.requires_grad_(False).zero_()
        for _ in range(30):
            training.run_epoch(stream, choose)
        said[is_balanced] = float(torch.sigmoid(training.network.head.bias.detach()[0]))

    assert said[False] == pytest.approx(1 / 9, abs=0.05)
    assert said[True] == pytest.approx(1 / 2, abs=0.1)


@pytest.mark.parametrize(("asked", "message"), [("tpu", "expected auto, cpu or cuda"), ("cuda:x", "expected auto")])
def test_an_unknown_device_is_refused(asked, message):
    with pytest.raises(EngineError, match=message):
        device.chosen(asked)


def test_a_missing_gpu_is_an_error_not_a_slow_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(EngineError, match="sees no NVIDIA GPU"):
        device.chosen("cuda")


def test_bfloat16_is_used_only_where_the_cpu_gains_by_it(monkeypatch):
    amd, intel = "AuthenticAMD", "GenuineIntel"
    for vendor, flags, precision in (
        (amd, "sse avx512f", "32-true"),
        (amd, "avx512f avx512_bf16", "bf16-mixed"),
        (intel, "avx512f avx512_bf16", "32-true"),
        (intel, "avx512f avx512_bf16 amx_bf16", "bf16-mixed"),
    ):
        told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, told=told, **__: told)

        assert device.chosen("cpu").precision == precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8", INDEPENDENT_LEADS), ("12", LEADS), ("v1,II,I", ("I", "II", "V1"))],
    ids=["eight", "twelve", "a-list-in-any-order"],
)
def test_leads_are_named_by_number_or_list(text, expected):
    assert leads_of(text) == expected


def test_settings_that_make_no_network_are_refused():
    for wrong in (
        lambda: leads_of("I,X"),
        lambda: numbers("widths", "32,a"),
        lambda: shaped([32, 64], [2, 2]),
        lambda: shaped([4, 64], [2]),
    ):
        with pytest.raises(UsageError):
            wrong()
