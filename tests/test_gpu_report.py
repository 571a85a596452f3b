"""A GPU job cannot pass empty: neither the tests nor their report, on a machine that has no GPU."""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ecgbatch import bench_report, engine_cache
from ecgbatch.cli import app
from ecgbatch.runtimes import on_gpu, placement, profiles

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_report.py"
CASES = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.fixture
def broken(): raise RuntimeError("no such library")
def test_broken(broken): pass
@pytest.mark.skip(reason="needs two GPUs")
def test_skipped(): pass
"""


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_gpu = pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")


@without_gpu
@pytest.mark.parametrize(
    ("required", "code", "word"), [("", 0, "skipped"), ("1", 1, "error")], ids=["lent", "required"]
)
def test_gpu_tests_skip_without_a_gpu_but_fail_where_one_is_required(required, code, word):
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    environment = os.environ | {"ECGBATCH_REQUIRE_GPU": required}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    tally = done.stdout.splitlines()[-1]

    assert done.returncode == code
    assert word in tally
    assert "passed" not in tally
    assert ("skipped" in tally) is (word == "skipped")


@without_gpu
def test_the_report_says_that_there_is_no_gpu_and_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "report.json"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith("gpu_report: no NVIDIA GPU on this machine")
    assert list(tmp_path.iterdir()) == []


def test_the_report_tells_how_each_test_ended(tmp_path):
    (tmp_path / "test_cases.py").write_text(CASES)
    junit = tmp_path / "junit.xml"
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={junit}", "test_cases.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)

    found = report().outcomes(junit)

    assert found["tally"] == {"passed": 1, "failure": 1, "error": 1, "skipped": 1}
    assert "no such library" in found["each"]["test_cases::test_broken"]["said"]
    assert found["each"]["test_cases::test_skipped"]["said"] == "needs two GPUs"


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        ({"passed": 30, "skipped": 1}, True),
        ({"passed": 30, "failure": 1}, False),
        ({"passed": 30, "error": 1}, False),
        ({"skipped": 31}, False),
        ({}, False),
    ],
    ids=str,
)
def test_only_a_run_that_passed_and_failed_nothing_is_good(tally, expected):
    assert report().is_good({"tally": tally}) is expected


def test_the_report_has_what_was_told_of_each_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path))
    facts = {"model": "0123", "precision": "fp16", "device": "cuda"}
    parity = {"n_ecgs": 8, "worst_probability": 1e-4, "flip_share": None, "auc_change": {}}
    told = {"parity": parity, "left_in_float32": ["Reduce mean"]}
    engine_cache.keep(facts, lambda folder: (folder / "model.engine").write_bytes(b"plan"), told)

    assert report().engines(tmp_path) == {"fp16": told}


def test_a_version_that_nobody_tells_does_not_end_the_report():
    def no_nvml():
        raise RuntimeError("no NVML")

    assert report().version(lambda: (13, 0)) == "13.0"
    assert report().version(no_nvml) == "unknown: no NVML"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda:0,1"])
def test_the_benchmark_builds_what_it_measures_and_the_commands_are_those_that_ecgbatch_has(device, tmp_path):
    figures = tmp_path / "bench.json"
    *builds, bench = report().commands(device, tmp_path, figures)
    ecgbatch = get_command(app)

    taken = [ecgbatch.commands[name].make_context(name, list(rest)).params for name, *rest in (*builds, bench)]

    assert [each["precision"] for each in taken] == [*on_gpu.PRECISIONS, ",".join(on_gpu.PRECISIONS)]
    assert [list(each["calibrate"]) for each in taken[:-1]] == [[str(tmp_path)], [], [], []]
    assert not any("int8" in word for command in report().commands(device, None, figures) for word in command)
    assert {each["device"] for each in taken[:-1]} == {placement.split(device)[0]}
    assert taken[-1]["device"] == device
    assert taken[-1]["json_file"] == figures
    assert bench_report.whole_numbers("--batch", taken[-1]["batch"]) == profiles.sizes(on_gpu.BATCH)


def report():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module
