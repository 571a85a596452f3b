"""The DALI feed: the host feed's scores, from a graph that no bad record can end; and the operator in the cache."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from ecgbatch import cli, score, synth
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import EngineError, MissingExtraError
from ecgbatch.feed import dali_operator, host, payload
from ecgbatch.feed.batch import Batch
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record

EIGHT = InputSpec(
    leads=INDEPENDENT_LEADS, fs_hz=250, seconds=10.0, min_seconds=5.0, scale_mv=(0.2,) * 8, clip=20.0, filter="offset"
)
TWELVE = InputSpec(leads=LEADS, fs_hz=100, seconds=6.0, min_seconds=3.0, scale_mv=(0.25,) * 12, clip=10.0)
SPECS = (EIGHT, TWELVE)
KERNELS = Path(__file__).parents[1] / "kernels"
SCORES = 1e-4
"""In probability, as promised; what a model is fed is the same to `INPUT`."""
INPUT = 1e-6
"""The CPU's operator is the host's kernel; a GPU sums in another order."""
GPU_INPUT = 2e-5


def noisy(rng, *, fs_hz: float = 500, seconds: float = 10, leads=INDEPENDENT_LEADS, dtype: type = np.int16) -> Record:
    counts = rng.normal(0, 250, (round(fs_hz * seconds), len(leads))).astype(dtype).T
    n = len(leads)
    return Record(
        format="test",
        fs_hz=fs_hz,
        leads=leads,
        counts=counts if seconds < 8 else counts.copy(),
        uv_per_count=tuple(2.5 + 0.01 * i for i in range(n)),
        zero_counts=tuple(float(i) for i in range(n)),
    )


def batch_of(records: list[Record], specs, inputs) -> Batch:
    x = {}
    for spec in specs:
        x[spec] = inputs.room(len(records), spec)
        for record, row in zip(records, x[spec], strict=True):
            nv = host.nanovolts(record, INDEPENDENT_LEADS)
            inputs.put(record, spec, row, flat=(), independent_nv=nv, has_gaps=False)
    return Batch(shard=0, is_last=False, rows=[None] * len(records), x=x, rejects=[])


def mixed(rng, n: int) -> list[Record]:
    """Records of many rates, lengths, leads and types in turn."""
    rates_hz, lengths_s = (
        (100, 128.5, 240, 250, 257, 400, 499.9, 500, 977, 1000),
        (5.0, 5.013, 7.3, 9.998, 10, 10.2, 30),
    )
    return [
        noisy(
            rng,
            fs_hz=rates_hz[i % 10],
            seconds=lengths_s[i % 7],
            leads=(INDEPENDENT_LEADS, LEADS, LEADS[::-1])[i % 3],
            dtype=(np.int16, np.int16, np.int32)[i % 3],
        )
        for i in range(n)
    ]


def graph(*specs, device: str = "cpu", size: int = 16):
    from ecgbatch.feed import dali

    return dali.Graph(specs, device=device, size=size, workers=2)


def test_model_input_of_every_rate_length_and_set_of_leads_is_the_host_feeds(operator, rng):
    sizes = (16, 16, 1, 7, 0, 16, 3)
    chunks = [mixed(rng, n) for n in sizes]
    got = list(graph(*SPECS).filled(batch_of(records, SPECS, payload) for records in chunks))

    assert [len(batch.rows) for batch in got] == list(sizes)
    for records, batch in zip(chunks, got, strict=True):
        for spec, expected in batch_of(records, SPECS, host).x.items():
            assert batch.x[spec].shape == expected.shape
            assert_allclose(batch.x[spec], expected, rtol=0, atol=INPUT)


def test_a_batch_stays_as_it_is_while_later_ones_are_made(operator, rng):
    records = mixed(rng, 4)
    made = graph(EIGHT, size=4).filled(batch_of(records, [EIGHT], payload) for _ in range(12))
    first = next(made)
    before = first.x[EIGHT].copy()
    list(made)

    assert np.array_equal(first.x[EIGHT], before)


def test_a_run_that_is_left_early_leaves_nothing_behind(operator, rng):
    records = mixed(rng, 4)
    closed = []

    def source():
        try:
            while True:
                yield batch_of(records, [EIGHT], payload)
        finally:
            closed.append(True)

    made = graph(EIGHT, size=4).filled(source())
    next(made)
    made.close()
    del made

    assert closed
    assert len(list(graph(EIGHT, size=4).filled([batch_of(records, [EIGHT], payload)]))) == 1


def test_a_defect_of_ours_in_the_graph_is_one_line(operator, rng):
    batch = batch_of([noisy(rng)], [EIGHT], payload)
    whole = batch.x[EIGHT][0, 0]
    batch.x[EIGHT][0, 0] = replace(whole, counts=whole.counts[:-1])

    with pytest.raises(EngineError, match=r"^dali on cpu: ") as err:
        list(graph(EIGHT).filled([batch]))
    assert "\n" not in str(err.value)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Sixty ECGs of every container at many rates, one in five of them damaged."""
    root = tmp_path_factory.mktemp("dali") / "archive"
    synth.write_archive(root, 60, seed=11, formats=("muse-xml", "wfdb", "dicom", "edf"), damaged=0.2, workers=1)
    return root


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    labels = [name for name in one.columns if "/" in name]
    assert one.drop(labels).equals(other.drop(labels))
    assert_allclose(other[labels].to_numpy(), one[labels].to_numpy(), rtol=0, atol=SCORES)


@pytest.mark.parametrize("options", [{"batch": 7, "shard_size": 30}, {"batch": 32}], ids=["small-shards", "one-shard"])
def test_scores_and_rejects_are_the_host_feeds(operator, scored, archive, tmp_path, tiny_bundle, other_bundle, options):
    bundles = (tiny_bundle, other_bundle)
    tally, scores, rejects = scored(archive, out=tmp_path / "host", bundles=bundles, **options)
    again = scored(archive, out=tmp_path / "dali", bundles=bundles, feed="dali", **options)

    same(scores, again[1])
    assert rejects.equals(again[2])
    assert len(scores) > 40
    assert len(rejects) > 5
    assert json.loads((tmp_path / "dali" / "run.json").read_text())["feed"] == "dali"
    assert tally.n_rejected == again[0].n_rejected


def test_shards_of_rejects_only_do_not_end_the_pipeline(operator, scored, tmp_path):
    synth.write_archive(tmp_path / "archive", 12, seed=3, formats=("muse-xml",), workers=1)
    files = sorted((tmp_path / "archive").rglob("*.xml"))
    for file in files[2:9]:
        file.write_bytes(file.read_bytes()[:5000])
    tally, scores, rejects = scored(tmp_path / "archive", feed="dali", batch=2, shard_size=3)

    assert (len(scores), len(rejects), tally.n_entries) == (5, 7, 12)


def test_poor_records_are_rejected_before_the_graph(operator, scored, archive, tmp_path):
    _, all_of_them, _ = scored(archive, out=tmp_path / "all")
    least = all_of_them["quality"].median()
    runs = [scored(archive, out=tmp_path / feed, feed=feed, reject_poor=least) for feed in ("host", "dali")]

    assert runs[0][2].equals(runs[1][2])
    assert runs[1][2]["reason"].to_list().count("poor-quality") > 10


def test_a_run_goes_on_under_another_feed(operator, scored, archive, tmp_path, tiny_bundle):
    _, expected, _ = scored(archive, out=tmp_path / "whole", shard_size=20)

    def stop(tally) -> None:
        if tally.n_done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score.run(
            [archive],
            tmp_path / "run",
            (tiny_bundle,),
            score.Options(shard_size=20, batch=8, feed="dali"),
            observe=stop,
        )
    _, scores, _ = scored(archive, out=tmp_path / "run", shard_size=20, feed="host")

    same(expected, scores)


def invoke(*args: object):
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def test_without_dali_the_extra_is_named_and_nothing_is_planned(archive, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    done = invoke("score", archive, "--out", tmp_path / "run", "--model", tiny_bundle.folder, "--feed", "dali")

    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "error: the DALI feed needs an optional dependency; pip install 'ecgbatch[dali]'"
    ]
    assert not (tmp_path / "run").exists()


def test_without_an_operator_the_command_that_builds_one_is_named(archive, tiny_bundle, tmp_path, monkeypatch):
    pytest.importorskip("nvidia.dali", reason="needs the extra 'dali'")
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "empty"))
    done = invoke("score", archive, "--out", tmp_path / "run", "--model", tiny_bundle.folder, "--feed", "dali")

    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: DALI operator: none built for DALI ")
    assert line.endswith("; run `ecgbatch doctor --build-operator`")
    assert not (tmp_path / "run").exists()


def test_an_unknown_feed_is_a_usage_error(archive, tmp_path):
    assert invoke("score", archive, "--out", tmp_path / "run", "--feed", "usb").exit_code == 2


def test_a_gpu_where_there_is_none_is_one_line(operator, rng):
    if dali_operator.found().kernels and _has_gpu():
        pytest.skip("there is one")
    with pytest.raises(EngineError, match=r"(?i)cuda|compiled for CPUs only") as err:
        graph(EIGHT, device="cuda")
    assert "\n" not in str(err.value)


@pytest.fixture
def toolchain(tmp_path, monkeypatch) -> Path:
    """Compilers that tell of each call in a file, and write what they are told to compile."""
    pytest.importorskip("nvidia.dali", reason="needs the extra 'dali'")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, version in (("g++", "g++ 99.1"), ("nvcc", f"release 13.0, V{dali_operator._cuda_major()}.0.7")):
        script = (
            f'#!/bin/sh\n[ "$1" = --version ] && echo \'{version}\' && exit\necho "$0 $@" >> {folder}/calls\n'
            '[ -e "$(dirname $0)/broken" ] && echo "x.cpp:1: error: planted" >&2 && exit 1\n'
            'for last in "$@"; do :; done\necho "$@" > "$last"\n'
        )
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "cache"))
    dali_operator._version.cache_clear()
    yield folder
    dali_operator._version.cache_clear()


def n_calls(toolchain: Path) -> int:
    return len((toolchain / "calls").read_text().splitlines())


def test_an_operator_is_compiled_once_and_found(toolchain):
    said: list[str] = []
    built = dali_operator.build(say=said.append)
    n = n_calls(toolchain)

    assert dali_operator.build(say=said.append) == built == dali_operator.found()
    assert n_calls(toolchain) == n
    assert said == ["compiling the DALI operator with g++ 99.1"]


@pytest.mark.parametrize("change", ["compiler", "nvcc", "sources"])
def test_another_compiler_or_source_is_another_operator(toolchain, monkeypatch, tmp_path, change):
    dali_operator.build()
    match change:
        case "compiler":
            (toolchain / "g++").write_text((toolchain / "g++").read_text().replace("99.1", "99.2"))
        case "nvcc":
            (toolchain / "nvcc").unlink()
            monkeypatch.setenv("PATH", f"{toolchain}:/usr/bin:/bin")
        case "sources":
            shutil.copytree(dali_operator._SOURCES, tmp_path / "kernels")
            (tmp_path / "kernels" / "sample.h").write_text("// another\n")
            monkeypatch.setattr(dali_operator, "_SOURCES", tmp_path / "kernels")
    dali_operator._version.cache_clear()

    with pytest.raises(EngineError, match="none built for"):
        dali_operator.found()


def test_an_altered_operator_is_refused_until_it_is_built_again(toolchain):
    built = dali_operator.build()
    built.library.write_bytes(b"another")

    with pytest.raises(EngineError, match="altered since it was built"):
        dali_operator.found()
    assert dali_operator.build().library.read_bytes() != b"another"
    assert dali_operator.found() == built


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"facts": 1, "library": "x", "kernels": 3}'])
def test_facts_that_cannot_be_read_are_one_line(toolchain, content):
    built = dali_operator.build()
    (built.library.parent / "operator.json").write_text(content)

    with pytest.raises(EngineError, match="run `ecgbatch doctor"):
        dali_operator.found()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(toolchain, tmp_path):
    (toolchain / "broken").touch()

    with pytest.raises(EngineError, match=r"failed: x\.cpp:1: error: planted"):
        dali_operator.build()
    assert not list((tmp_path / "cache").rglob("*.so"))
    assert not list((tmp_path / "cache" / "dali").iterdir())


def test_builders_at_once_do_not_clash(toolchain):
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: dali_operator.build(), range(8)))

    assert all(one == dali_operator.found() for one in built)
    assert len(list(built[0].library.parent.parent.iterdir())) == 1


def test_without_nvcc_the_operator_is_for_cpus_only(toolchain, monkeypatch):
    (toolchain / "nvcc").unlink()
    monkeypatch.setenv("PATH", f"{toolchain}:/usr/bin:/bin")
    dali_operator._version.cache_clear()
    try:
        built = dali_operator.build()
    except MissingExtraError:
        pytest.skip("needs CUDA's headers as packages")

    assert built.facts["nvcc"] == "none"
    assert ".cu" not in (toolchain / "calls").read_text()
    assert "dali_operator_cpu.cc" in (toolchain / "calls").read_text()
    assert "gpu" not in (toolchain / "calls").read_text()


def test_without_dali_nothing_is_compiled(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)

    with pytest.raises(MissingExtraError, match=r"ecgbatch\[dali\]"):
        dali_operator.build()


def test_all_that_the_operator_includes_is_in_its_fingerprint():
    known = {*dali_operator._HEADERS, *dali_operator._UNITS}
    included = {
        line.split('"')[1]
        for name in known
        for line in (KERNELS / name).read_text("utf-8").splitlines()
        if line.startswith('#include "') and "/" not in line
    }

    assert included <= known
    assert all((dali_operator._SOURCES / name).is_file() for name in known)


REGISTERS = 64
"""A thread's share where half of the threads that a multiprocessor holds are there at once."""


@pytest.mark.parametrize("architecture", dali_operator.ARCHITECTURES, ids=lambda at: f"sm_{at}")
def test_the_gpu_half_compiles_without_spilling(architecture, tmp_path):
    nvcc = shutil.which("nvcc") or pytest.skip("needs nvcc")
    command = [nvcc, "-std=c++20", "-O3", f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin", KERNELS / "launch.cu"]
    done = subprocess.run([*command, "-o", tmp_path / "cubin"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    (kernel,) = dali_operator.kernels(done.stderr)
    assert kernel.architecture == f"sm_{architecture}"
    assert 0 < kernel.registers <= REGISTERS
    assert kernel.spilled_bytes == 0


def test_the_operator_has_a_kernel_for_every_architecture_where_nvcc_is(operator):
    if operator.facts["nvcc"] == "none":
        pytest.skip("needs nvcc of DALI's CUDA")

    assert [kernel.architecture for kernel in operator.kernels] == [f"sm_{at}" for at in dali_operator.ARCHITECTURES]


def test_spills_are_told():
    log = (
        "ptxas info    : Compiling entry function '_Z1k' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1k\n"
        "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 0 barriers\n"
    )

    assert dali_operator.kernels(log) == (dali_operator.Kernel("sm_90", 255, 20),)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("n_records", [1, 7, 16])
def test_a_gpu_makes_the_host_feeds_input(operator, rng, n_records):
    records = mixed(rng, n_records)
    batches = (batch_of(records, SPECS, payload) for _ in range(3))

    for batch in graph(*SPECS, device="cuda:0").filled(batches):
        for spec, expected in batch_of(records, SPECS, host).x.items():
            x = batch.x[spec]
            assert x.__dlpack_device__()[0] == 2  # kDLCUDA
            assert_allclose(np.asarray(x.as_cpu()), expected, rtol=0, atol=GPU_INPUT)


def _has_gpu() -> bool:
    from nvidia.dali import backend

    return backend.GetCUDADeviceCount() > 0
