"""The benchmarks: each runs, and what they hold ecgbatch against computes the same thing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="the plain script needs the extra 'train'")
pytest.importorskip("lxml", reason="the plain script needs the extra 'dev'")
pytest.importorskip("wfdb", reason="the plain script needs the extra 'dev'")

from ecgbatch import synth  # noqa: E402
from ecgbatch.record import LEADS  # noqa: E402

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DOCUMENT = "before\n<!-- bench:memory -->\nold\n<!-- /bench -->\nafter\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return tiny_bundle.folder


@pytest.fixture(scope="module")
def memory(folder, bundle):
    return _result(folder, "memory", "--n", "40", "80", "--model", bundle, "--folder", folder)


@pytest.fixture(scope="module")
def run(folder, bundle):
    """The run folder of the scores of a small archive, which lies beside it."""
    archive, run = folder / "archive", folder / "run"
    _write_records(archive)
    command = [sys.executable, "-P", "-m", "ecgbatch.cli", "score", archive, "--out", run, "--model", bundle]
    subprocess.run(command, check=True, capture_output=True)
    return run


def test_the_memory_benchmark_reads_the_memory_of_every_run(memory):
    assert list(memory["archives"]) == ["40", "80"]
    for found in memory["archives"].values():
        assert 50 < found["peak_mib"]["median"] < 1536
        assert found["planned_per_s"]["median"] > 0


def test_the_training_benchmark_reads_the_memory_of_a_training(folder):
    result = _result(folder, "train_memory", "--n", "400", "--folder", folder)

    assert 100 < result["packs"]["400"]["peak_mib"]["median"] < 4096


def test_the_decoding_benchmark_times_every_stage_of_both_containers(folder):
    result = _result(folder, "decode", "--n", "4", "--n-plain", "2", "--rounds", "2")

    assert set(result["containers"]) == {"muse-xml", "wfdb"}
    assert set(result["packs"]) == {f"{name} {how}" for name in ("muse-xml", "wfdb") for how in ("none", "lz4", "zstd")}
    for found in result["containers"].values():
        assert set(found["stages"]) == {"read", "decode", "stamp", "nanovolts", "model input", "hash", "quality"}
        assert len(found["ecg_per_s"]["all"]) == len(found["ratio"]["all"]) == 2


def test_the_engine_benchmark_relates_every_batch_size_to_the_matrix_product(folder, bundle):
    short = ["--precision", "fp32", "--batch", "2", "4", "--seconds", "0.05", "--rounds", "1"]
    result = _result(folder, "engine", "--model", bundle, *short)

    fp32 = result["precisions"]["fp32"]
    assert set(fp32["batches"]) == {"2", "4"}
    for found in fp32["batches"].values():
        share = found["ecg_per_s"]["median"] * result["gflop_per_ecg"] / fp32["product_gop_per_s"]["median"]
        assert found["share"]["median"] == pytest.approx(share, rel=1e-4)


def test_the_dali_benchmark_compares_the_feeds(folder, operator):
    result = _result(folder, "dali", "--n", "64", "--rounds", "1")

    assert set(result["feeds"]) == {"muse-xml", "wfdb", "pack"}
    for found in (*result["feeds"].values(), result["input"]):
        ratio = found["dali_ecg_per_s"]["median"] / found["host_ecg_per_s"]["median"]
        assert found["ratio"]["median"] == pytest.approx(ratio, rel=1e-4)
    assert 0 < result["base64_us"]["median"] < 10_000


def test_the_benchmark_of_workers_compares_threads_and_processes_with_one(folder):
    result = _result(folder, "workers", "--n", "96", "--rounds", "1", "--workers", "2")

    assert set(result["feeds"]) == {"muse-xml", "pack"}
    for found in result["feeds"].values():
        for kind in ("threads", "processes"):
            ratio = found["ecg_per_s"][kind]["median"] / found["ecg_per_s"]["one"]["median"]
            assert found["to_one"][kind]["median"] == pytest.approx(ratio, rel=1e-4)


def test_the_end_to_end_benchmark_compares_rates_and_scores(folder, bundle):
    few = ["--n", "24", "--batch", "8", "--rounds", "1", "--plain-workers", "0"]
    few += ["--precision", "fp32", "--runtime", "eager", "onnxruntime"]
    result = _result(folder, "end_to_end", "--model", bundle, *few)

    assert set(result["ecg_per_s"]) == {"fp32 files", "fp32 pack", "fp32 engine", "eager", "onnxruntime"}
    rates = {name: found["median"] for name, found in result["ecg_per_s"].items()}
    assert result["ratios"]["fp32 files"]["eager"]["median"] == pytest.approx(
        rates["fp32 files"] / rates["eager"], rel=1e-4
    )
    assert result["largest_difference"] <= 1e-4


def test_the_plain_script_gives_the_scores_of_ecgbatch(tmp_path, bundle, run):
    done = _plain(run.parent / "archive", tmp_path, bundle, run)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n"] == 6
    assert found["largest_difference"] <= 1e-4


def test_the_plain_script_notices_one_score_that_differs(tmp_path, bundle, run):
    (other,) = (run / "scores").glob("*.parquet")
    first = pl.arange(pl.len()) == 0
    changed = pl.read_parquet(other).with_columns(pl.col("tiny/PVC") + pl.when(first).then(2e-4).otherwise(0))
    (tmp_path / "run" / "scores").mkdir(parents=True)
    changed.write_parquet(tmp_path / "run" / "scores" / other.name)

    done = _plain(run.parent / "archive", tmp_path, bundle, tmp_path / "run")

    assert done.returncode == 1
    assert json.loads(done.stdout)["largest_difference"] == pytest.approx(2e-4, rel=0.01)


def test_a_document_holds_what_the_result_says(tmp_path, memory, folder):
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)
    where = ["--document", document, "--results", folder]
    assert _exit_code("--check", *where) == 1

    assert _exit_code(*where) == 0

    text = document.read_text()
    assert re.fullmatch(r"before\n<!-- bench:memory -->\n\| entries .*\n<!-- /bench -->\nafter\n", text, re.DOTALL)
    assert f"{memory['archives']['80']['peak_mib']['median']:.0f} MiB" in text
    assert _exit_code("--check", *where) == 0


def test_a_table_without_its_result_fails(tmp_path):
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)

    assert _exit_code("--check", "--document", document, "--results", tmp_path) == 1
    assert document.read_text() == DOCUMENT


def test_every_result_tells_its_circumstances(memory):
    assert {"command", "date", "machine", "versions", "settings"} <= set(memory)
    assert {"cpu", "cores"} <= set(memory["machine"])
    assert memory["versions"]["ecgbatch"]


def _result(folder, name, *options):
    out = folder / f"{name}.json"
    printed = _output(name, *options, "--out", out)
    assert printed.startswith("| ")
    return json.loads(out.read_text())


def _output(name, *options):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _exit_code(*options):
    return subprocess.run([sys.executable, BENCHMARKS / "tables.py", *options], check=False).returncode


def _plain(archive, folder, bundle, run):
    command = [sys.executable, BENCHMARKS / "plain_pytorch.py", archive, "--csv", folder / "scores.csv"]
    options = ["--model", bundle, "--workers", "0", "--against", run]
    return subprocess.run([*command, *options], check=False, capture_output=True, text=True)


def _write_records(folder):
    """Both containers at three rates, one of the records shorter and one longer than the model's input."""
    folder.mkdir()
    for seed, (fs_hz, seconds) in enumerate([(500, 8), (250, 12), (400, 10)]):
        record = synth.record(seed=seed, fs_hz=fs_hz, seconds=seconds, leads=LEADS)
        files = synth.wfdb_files(record, f"r{seed}") | {f"r{seed}.xml": synth.muse_xml(record)}
        for name, content in files.items():
            (folder / name).write_bytes(content)
