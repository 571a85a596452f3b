"""What tests share: random numbers, the optional data folder, small bundles, a record to damage."""

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ecgbatch.bundle import Bundle, InputSpec, Label
from ecgbatch.feed.dali_operator import Operator
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record
from ecgbatch.tally import Tally

TINY_SPEC = InputSpec(leads=INDEPENDENT_LEADS, fs_hz=250, seconds=10.0, min_seconds=5.0, scale_mv=(0.2,) * 8, clip=20.0)
OTHER_SPEC = InputSpec(
    leads=LEADS, fs_hz=100, seconds=6.0, min_seconds=3.0, scale_mv=(0.25,) * 12, clip=10.0, filter="offset"
)
TINY_NETWORK = {"widths": [8, 8], "depths": [1], "kernel": 3, "stem_kernel": 5, "squeezed": [True], "dropout": 0.0}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A GPU test skips where there is no GPU, but a GPU job cannot pass empty."""
    if item.get_closest_marker("needs_gpu") and not _has_gpu():
        reason = "needs an NVIDIA GPU"
        if os.environ.get("ECGBATCH_REQUIRE_GPU") == "1":
            pytest.fail(f"{reason}, and ECGBATCH_REQUIRE_GPU=1", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(autouse=True, scope="session")
def own_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the engines of the machine it runs on, nor leaves any there."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ECGBATCH_CACHE", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of engines, for a test that puts some into it."""
    folder = tmp_path / "engine-cache"
    monkeypatch.setenv("ECGBATCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def trt_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundle, str], Path]:
    """The graph of a bundle that TensorRT is given for a precision."""
    folder = tmp_path_factory.mktemp("graphs")

    def of(bundle: Bundle, precision: str) -> Path:
        graph = folder / f"{bundle.name}-{precision}.onnx"
        if precision in ("fp16", "bf16"):
            from ecgbatch.train.half import write_half

            write_half(bundle.folder / "model.onnx", graph, precision=precision)
            return graph
        if precision == "int8":
            from ecgbatch.train.quantise import write_signed  # as `building` does for TensorRT

            write_signed(bundle.folder / "model.int8.onnx", graph)
            return graph
        return bundle.folder / "model.onnx"

    return of


@pytest.fixture
def rng() -> Iterator[np.random.Generator]:
    """Random numbers from a fixed seed; the global generators are left as they were."""
    state, global_state = random.getstate(), np.random.get_state()
    yield np.random.default_rng(20_261_122)
    random.setstate(state)
    np.random.set_state(global_state)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real ECGs and sample files, which is not part of the project."""
    folder = Path(os.environ.get("ECGBATCH_DATA", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder} (set ECGBATCH_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An untrained bundle of eight leads, small enough to score hundreds of ECGs a second."""
    return made_bundle(tmp_path_factory.mktemp("bundles") / "tiny", TINY_SPEC, seed=1)


@pytest.fixture(scope="session")
def tiny_input(tiny_bundle: Bundle) -> np.ndarray:
    """Model input of 24 synthetic ECGs: float32 (record, lead, time)."""
    from ecgbatch import synth
    from ecgbatch.feed import host

    found = host.room(24, tiny_bundle.input)
    for seed, row in enumerate(found):
        host.normalise(synth.record(seed=seed), tiny_bundle.input, row)
    return found


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another one, of twelve leads, another rate and length."""
    return made_bundle(tmp_path_factory.mktemp("bundles") / "other", OTHER_SPEC, seed=2)


@pytest.fixture(scope="session")
def ecg() -> Record:
    """A synthetic ECG of eight leads at 500 Hz."""
    from ecgbatch import synth

    return synth.record(seed=7, rhythm="sinus")


@pytest.fixture(scope="session")
def operator_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a DALI operator, compiled once."""
    from ecgbatch.feed import dali_operator

    pytest.importorskip("nvidia.dali", reason="needs the extra 'dali'")
    shutil.which("g++") or pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("operator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGBATCH_CACHE", str(folder))
        dali_operator.build()
    return folder


@pytest.fixture
def operator(operator_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """The operator in that cache, which is the test's."""
    from ecgbatch.feed import dali_operator

    monkeypatch.setenv("ECGBATCH_CACHE", str(operator_cache))
    return dali_operator.found()


Scored = Callable[..., tuple[Tally, pl.DataFrame, pl.DataFrame]]


@pytest.fixture
def scored(tiny_bundle: Bundle, tmp_path: Path) -> Scored:
    """Score sources into a run folder: `scored(*sources, out=..., bundles=..., **options)`."""

    def run(*sources: Path, out: Path | None = None, bundles: tuple[Bundle, ...] = (), **options: Any):  # type: ignore[no-untyped-def]
        from ecgbatch import score

        folder = out or tmp_path / "run"
        tally = score.run(sources, folder, bundles or (tiny_bundle,), score.Options(**options))
        return tally, parts(folder, "scores"), parts(folder, "rejects")

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KiB; skips where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def parts(folder: Path, kind: str) -> pl.DataFrame:
    """All rows of a run, in the order of the plan's shards."""
    return pl.concat([pl.read_parquet(part) for part in sorted((folder / kind).glob("part-*.parquet"))])


def made_bundle(folder: Path, spec: InputSpec, *, seed: int) -> Bundle:
    """Write an untrained bundle whose scores spread over 0 to 1."""
    torch: Any = pytest.importorskip("torch", reason="needs the extra 'train'")
    from ecgbatch.network import Network
    from ecgbatch.train import export

    codes = ("NORM", "AFIB", "PVC", "LBBB", "STE")
    arguments = {"n_leads": len(spec.leads), "n_labels": len(codes), **TINY_NETWORK}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(**arguments).eval()
        with torch.no_grad():
            network.head.weight.mul_(8)
    figures = {"threshold": 0.5, "slope": 1.0, "intercept": 0.0, "n_train": 20, "n_test": 5}
    labels = tuple(Label(code=code, name=code, auc=0.5, auc_low=0.4, auc_high=0.6, **figures) for code in codes)
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        version="0",
        licence="none",
        input=spec,
        labels=labels,
        network=arguments,
        training={"data": "none"},
        hashes={},
    )
    return export.write(bundle, network, card="untrained")


def _has_gpu() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    n_devices = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(n_devices)) == 0 and n_devices.value > 0
