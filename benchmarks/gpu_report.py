"""Runs every GPU test and the benchmark on a machine with an NVIDIA GPU, and writes what came out.

    pip install '.[dev,gpu]' && python benchmarks/gpu_report.py --out report.json --calibrate ptbxl.parquet

Where there is no GPU, or its libraries are missing, it says so and fails: a report is never of nothing.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from measurement import write

from ecgbatch.errors import EngineError
from ecgbatch.runtimes import on_gpu, placement

ROOT = Path(__file__).resolve().parents[1]
BY_PYTORCH = ROOT / "tests" / "tensorrt_by_pytorch"
MODEL = "foundation"
BATCHES = "4,16,64,256"
"""The sizes that engines are built for, on a GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the report")
    parser.add_argument("--device", default="cuda:0", help="what the benchmark runs on (default %(default)s)")
    parser.add_argument("--calibrate", type=Path, help="real ECGs that an int8 engine is made of; without, none is")
    parser.add_argument("--without-tensorrt", action="store_true", help="PyTorch computes in its place")
    args = parser.parse_args()
    require_gpu()
    if args.without_tensorrt:
        _put_first(BY_PYTORCH)
    gpus = _gpus()
    tests = _tests()
    bench = _bench(args.device, args.calibrate)
    settings = {
        "device": args.device,
        "calibrate": None if args.calibrate is None else args.calibrate.name,
        "engines": "PyTorch" if args.without_tensorrt else "TensorRT",
    }
    write(args.out, "gpu_report", settings, {"gpus": gpus, "tests": tests, "bench": bench})
    print(f"{args.out}: {tests['tally']}, bench {bench['outcome']}")
    sys.exit(0 if is_good(tests) and bench["outcome"] == "done" else 1)


def require_gpu() -> None:
    """Nothing, where CUDA's driver knows a GPU; else the end."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.exit("gpu_report: no NVIDIA GPU on this machine: it has no driver (libcuda.so.1); nothing was run")
    n_devices = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(n_devices)) or not n_devices.value:
        sys.exit("gpu_report: no NVIDIA GPU on this machine: its driver knows none; nothing was run")


def outcomes(report: Path) -> dict[str, Any]:
    """How each test of pytest's JUnit report ended; `tally` says it in one line."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome, said = "passed", None
        for kind in ("skipped", "failure", "error"):
            if (element := case.find(kind)) is not None:
                outcome, said = kind, element.get("message")
        found[f"{case.get('classname')}::{case.get('name')}"] = {
            "outcome": outcome,
            "seconds": float(case.get("time", 0)),
            **({"said": said} if said else {}),
        }
    tally = Counter(test["outcome"] for test in found.values())
    return {"tally": dict(tally), "each": found}


def is_good(tests: Mapping[str, Any]) -> bool:
    """Whether some tests passed and none failed; one may be skipped, as that of two GPUs is on a machine with one."""
    return tests["tally"].get("passed", 0) > 0 and not {"failure", "error"} & set(tests["tally"])


def commands(device: str, calibrate: Path | None, figures: Path) -> list[list[str]]:
    """What has `ecgbatch` build the engine of each precision, then measure all of them into the file `figures`.

    In int8 one is built where there are real ECGs to calibrate on.
    """
    first, *_ = placement.split(device)  # engines serve every GPU of its kind
    source = {"int8": ["--calibrate", str(calibrate)]}
    precisions = [each for each in on_gpu.PRECISIONS if each != "int8" or calibrate]
    build = [
        ["build", MODEL, "--device", first, "--precision", precision, *source.get(precision, [])]
        for precision in precisions
    ]
    options = ["--model", MODEL, "--precision", ",".join(precisions), "--batch", BATCHES, "--json", str(figures)]
    return [*build, ["bench", "--device", device, *options]]


def version(told: Callable[[], Iterable[int]]) -> str:
    """A version that NVML tells; a container may lack it, which is no reason for no report."""
    try:
        return ".".join(map(str, told()))
    except RuntimeError as err:
        return f"unknown: {err}"


def engines(cache: Path) -> dict[str, Any]:
    """What was told of each engine in a cache, by precision: parity, rate, layers left in float32."""
    kept = [json.loads(path.read_text("utf-8")) for path in sorted(cache.glob("*/engine.json"))]
    return {engine["facts"]["precision"]: engine["told"] for engine in kept}


def _put_first(folder: Path) -> None:
    """What is imported is looked for there first, here and in every process that is started."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def _gpus() -> list[dict[str, Any]]:
    try:
        from ecgbatch.runtimes import trt
    except EngineError as err:
        sys.exit(f"gpu_report: {err}")
    from cuda.core import Device, system

    return [
        {
            "name": device.name,
            "architecture": f"sm_{device.arch}",
            "driver": version(system.get_kernel_mode_driver_version),
            "cuda": version(system.get_user_mode_driver_version),
        }
        for device in (Device(index) for index in range(trt.n_gpus()))
    ]


def _tests() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-P", "-m", "pytest", "-m", "needs_gpu", f"--junitxml={report}", "tests"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"ECGBATCH_REQUIRE_GPU": "1"}, check=False)
        if not report.exists():
            sys.exit(f"gpu_report: pytest ended with {done.returncode} and no report")
        return outcomes(report)


def _bench(device: str, calibrate: Path | None) -> dict[str, Any]:
    """The figures of `bench`, of every precision that could be built; and what failed, with its last words."""
    failed = {}
    with tempfile.TemporaryDirectory() as folder:
        figures, cache = Path(folder) / "bench.json", Path(folder) / "cache"
        for command in commands(device, calibrate, figures):
            done = subprocess.run(
                [sys.executable, "-P", "-m", "ecgbatch.cli", *command],
                env=os.environ | {"ECGBATCH_CACHE": str(cache)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                failed[" ".join(command[:6])] = done.stderr.splitlines()[-20:]
        result = json.loads(figures.read_text("utf-8")) if figures.exists() else None
        built = engines(cache)
    return {"outcome": "failed" if failed else "done", "failed": failed, "engines": built, "result": result}


if __name__ == "__main__":
    main()
