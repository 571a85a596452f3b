"""TensorRT on a GPU: what `needs_gpu` tests hold it to, where there is one.

    python benchmarks/gpu_report.py --out report.json      runs them all, and the benchmark

Nothing here imports a GPU library at the top: with ECGBATCH_REQUIRE_GPU=1 what is missing fails.
"""

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecgbatch import admission, progress, synth
from ecgbatch.bundle import find
from ecgbatch.errors import EngineError
from ecgbatch.feed import host

pytestmark = pytest.mark.needs_gpu

TOLERANCE = {
    "fp32": 1e-4,  # the same 24 bits, TF32 off; only the order of sums differs
    "fp16": 2e-3,  # 11 bits; rounding every tensor on a CPU moves probabilities by 6e-4 (tests/test_half.py)
    "bf16": 1e-2,  # 8 bits; 1.4e-3 there
    "int8": 1e-1,  # 8 bits in 256 even steps; rounding every tensor so on a CPU moves probabilities by 4.5e-2
}
"""Largest difference in probability from PyTorch in float32 on the CPU."""
BATCH = 32

PTX = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry lose() { trap; }
"""
LOSE = """
import os, sys, numpy as np
from cuda.core import Device, LaunchConfig, ObjectCode, launch
from ecgbatch.bundle import find
from ecgbatch.errors import EngineError
from ecgbatch.runtimes import trt

bundle, x = find("foundation"), np.zeros((40, 8, 2500), np.float32)
engine = trt.load(bundle, open(sys.argv[1], "rb").read(), index=0, variant="fp32", batch=32)
print("scored", len(engine(x)[0]), flush=True)
launch(Device(0).create_stream(), LaunchConfig(grid=1, block=1), ObjectCode.from_ptx(PTX).get_kernel("lose"))
for _ in range(2):
    try:
        print("scored", len(engine(x)[0]), flush=True)
    except EngineError as err:
        print("EngineError", err, flush=True)
os._exit(0)  # the device is gone; nothing can be freed
""".replace("PTX", repr(PTX))


@pytest.fixture(scope="module")
def bundle():
    return find("foundation")


@pytest.fixture(scope="module")
def files(bundle, trt_graph, tmp_path_factory):
    """The engine file of a precision, built when it is first asked for."""
    folder = tmp_path_factory.mktemp("engines")

    @cache
    def file(precision):
        from ecgbatch.runtimes import trt

        with progress.building(f"{bundle.name} {precision}") as observe:
            raw = trt.build(
                bundle,
                trt_graph(bundle, precision),
                index=0,
                batch=BATCH,
                timings=folder / "timings",
                observe=observe,
            )
        (folder / f"{precision}.engine").write_bytes(raw)
        return folder / f"{precision}.engine"

    return file


@pytest.fixture(scope="module")
def engines(bundle, files):
    @cache
    def engine(precision):
        from ecgbatch.runtimes import trt

        return trt.load(bundle, files(precision).read_bytes(), index=0, variant=precision, batch=BATCH)

    return engine


@pytest.fixture(params=TOLERANCE)
def precision(request, bundle):
    if request.param == "int8" and not (bundle.folder / "model.int8.onnx").exists():
        pytest.skip(f"bundle {bundle.name!r} has no int8 graph")
    return request.param


@pytest.fixture(scope="module")
def x(bundle):
    """Model input (record, lead, time) of more synthetic ECGs than three batches."""
    rhythms = ("sinus", "afib", "lbbb", "pvc", "paced", "lvh")
    x = np.empty((3 * BATCH + 5, len(bundle.input.leads), bundle.input.samples), np.float32)
    for seed, row in enumerate(x):
        host.normalise(synth.record(seed=seed, rhythm=rhythms[seed % len(rhythms)]), bundle.input, row)
    return x


@pytest.fixture(scope="module")
def expected(bundle, x):
    """The oracle's logits and embedding."""
    from ecgbatch.runtimes import eager

    return eager.load(bundle)(x)


def test_an_engine_says_what_the_oracle_says(engines, bundle, precision, x, expected):
    logits, embedding = engines(precision)(x)
    worst = np.abs(bundle.probabilities(logits) - bundle.probabilities(expected[0])).max()

    assert logits.dtype == embedding.dtype == np.float32
    assert worst <= TOLERANCE[precision]
    assert embedding.shape == expected[1].shape


def test_a_float32_engine_reproduces_the_golden_scores_and_is_admitted(engines):
    assert admission.admitted(engines("fp32")) is engines("fp32")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_no_convolution_of_a_half_engine_is_left_in_float32(engines, precision):
    left = engines(precision).left_in_float32()

    assert left  # the means and the head
    assert not [layer for layer in left if "conv" in layer.lower()]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 65])
def test_a_tail_is_scored_as_in_a_whole_batch(engines, bundle, x, expected, n):
    logits, embedding = engines("fp32")(x[:n])

    assert len(logits) == len(embedding) == n
    found, wanted = (bundle.probabilities(each) for each in (logits, expected[0][:n]))
    assert np.abs(found - wanted).max(initial=0) <= TOLERANCE["fp32"]


def test_a_record_does_not_see_its_neighbours(engines, x):
    alone = engines("fp16")(np.concatenate([x[:1], np.zeros_like(x[: BATCH - 1])]))[0][0]
    among = engines("fp16")(np.concatenate([x[:1], 20 * np.ones_like(x[: BATCH - 1])]))[0][0]

    assert np.array_equal(alone, among)


def test_batches_on_several_streams_keep_their_order_and_their_bits(engines, x):
    engine = engines("fp16")
    starts = [at % 64 for at in range(0, 5 * 200, 5)]
    one_by_one = {at: engine(x[at : at + BATCH])[0] for at in set(starts)}

    found = list(engine.stream((at, x[at : at + BATCH]) for at in starts))

    assert [tag for tag, *_ in found] == starts
    assert all(np.array_equal(logits, one_by_one[tag]) for tag, logits, _ in found)


def test_several_engines_read_one_batch_of_the_device(engines, bundle, x, expected):
    batch = on_gpu(x[:BATCH])

    for precision in ("fp32", "fp16"):
        logits, _ = engines(precision).on_device(batch)
        found = bundle.probabilities(on_host(logits))
        assert np.abs(found - bundle.probabilities(expected[0][:BATCH])).max() <= TOLERANCE[precision]


@pytest.mark.parametrize(("n", "offset"), [(BATCH, 0), (BATCH - 3, 0), (BATCH, 1)], ids=["whole", "tail", "unaligned"])
def test_a_batch_of_the_device_gives_what_it_gives_from_the_host(engines, x, n, offset):
    engine = engines("fp32")
    batch = on_gpu(x[:n], offset=offset)

    ((_, logits, embedding),) = engine.stream([(None, batch)])
    wanted = engine(x[:n])

    assert np.array_equal(logits, wanted[0])
    assert np.array_equal(embedding, wanted[1])
    assert np.array_equal(on_host(engine.on_device(batch)[0]), wanted[0])


def test_a_feed_may_write_its_next_batch_where_the_last_one_lay(engines, x):
    engine, place = engines("fp32"), on_gpu(x[:BATCH])

    def feed():
        for at in range(64):
            copied(x[at : at + BATCH], place)
            yield at, place

    assert all(np.array_equal(logits, engine(x[at : at + BATCH])[0]) for at, logits, _ in list(engine.stream(feed())))


def test_a_gpu_without_memory_is_an_error_and_can_be_used_again(bundle, files, x):
    from ecgbatch.runtimes import trt

    raw = files("fp32").read_bytes()
    hog = all_memory()
    try:
        with pytest.raises(EngineError, match=r"(?i)memory"):
            trt.load(bundle, raw, index=0, variant="fp32", batch=BATCH)
    finally:
        release(hog)

    assert len(trt.load(bundle, raw, index=0, variant="fp32", batch=BATCH)(x)[0]) == len(x)


def test_a_lost_device_is_an_error_for_this_batch_and_every_later_one(files):
    command = [sys.executable, "-P", "-c", LOSE, files("fp32")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = done.stdout.splitlines()

    assert said[0] == "scored 40"
    assert [line.split()[0] for line in said[1:]] == ["EngineError", "EngineError"]


def test_the_plan_of_another_bundle_is_refused(files, other_bundle):
    from ecgbatch.runtimes import trt

    with pytest.raises(EngineError, match=r"engine: logits is .*36.* expected FLOAT \(records, \(5,\)\)"):
        trt.load(other_bundle, files("fp32").read_bytes(), index=0, variant="fp32", batch=BATCH)


def test_a_plan_for_other_batches_is_refused(bundle, files):
    from ecgbatch.runtimes import trt

    with pytest.raises(EngineError, match="built for batches of"):
        trt.load(bundle, files("fp32").read_bytes(), index=0, variant="fp32", batch=2 * BATCH)


@pytest.mark.parametrize("damage", ["first half", "noise"])
def test_a_plan_that_tensorrt_cannot_read_is_refused(bundle, damage, files):
    from ecgbatch.runtimes import trt

    plan = files("fp32").read_bytes()
    damaged = plan[: len(plan) // 2] if damage == "first half" else bytes(len(plan))

    with pytest.raises(EngineError, match="does not take the plan"):
        trt.load(bundle, damaged, index=0, variant="fp32", batch=BATCH)


def test_a_graph_with_an_operator_that_tensorrt_lacks_is_refused(bundle, tmp_path):
    import onnx

    from ecgbatch.runtimes import trt

    model = onnx.load(bundle.folder / "model.onnx")
    model.graph.node[2].op_type, model.graph.node[2].domain = "NotRelu", "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(EngineError, match="does not take the graph"):
        trt.build(
            bundle,
            tmp_path / "model.onnx",
            index=0,
            batch=1,
            timings=None,
            observe=lambda *_: None,
        )


def test_two_gpus_score_what_one_does(bundle, files, x):
    from ecgbatch.runtimes import placement, trt

    if trt.n_gpus() < 2:
        pytest.skip("needs two GPUs")
    raw = files("fp32").read_bytes()
    pair = [trt.load(bundle, raw, index=index, variant="fp32", batch=BATCH) for index in (0, 1)]
    streams = [engine.stream((at, x[at : at + BATCH]) for at in range(0, len(x), BATCH)) for engine in pair]
    found = [{}, {}]
    for position, (at, logits, _) in placement.merged(streams):
        found[position][at] = logits

    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][at], found[1][at]) for at in found[0])


def test_scoring_on_the_gpu_gives_the_scores_of_the_cpu(tmp_path):
    archive = written(tmp_path)
    run("build", "foundation", "--device", "cuda:0", "--precision", "fp32", cache_at=tmp_path)

    gpu = scored(archive, tmp_path / "gpu", "--device", "cuda:0", "--precision", "fp32", cache_at=tmp_path)
    cpu = scored(archive, tmp_path / "cpu", "--device", "cpu", "--precision", "fp32", cache_at=tmp_path)

    assert worst(gpu, cpu) <= TOLERANCE["fp32"]


def test_the_dali_feed_on_the_gpu_gives_the_scores_of_the_host_feed(tmp_path, monkeypatch):
    from ecgbatch.feed import dali_operator

    monkeypatch.setenv("ECGBATCH_CACHE", str(tmp_path / "cache"))
    dali_operator.build()  # absent, DALI fails this where a GPU is required
    archive = written(tmp_path)
    run("build", "foundation", "--device", "cuda:0", "--precision", "fp32", cache_at=tmp_path)
    on = ("--device", "cuda:0", "--precision", "fp32")

    dali = scored(archive, tmp_path / "dali", *on, "--feed", "dali", cache_at=tmp_path)
    fed_by_host = scored(archive, tmp_path / "host", *on, "--feed", "host", cache_at=tmp_path)

    assert worst(dali, fed_by_host) <= TOLERANCE["fp32"]


def on_gpu(x, *, offset=0):
    """x in the memory of GPU 0, `offset` values behind an aligned address."""
    from cuda.core import Buffer, Device
    from cuda.core.utils import StridedMemoryView

    device = Device(0)
    device.set_current()
    stream = device.create_stream()
    x = np.ascontiguousarray(x)
    memory = device.allocate(x.nbytes + 4 * offset, stream=stream)
    part = Buffer.from_handle(int(memory.handle) + 4 * offset, x.nbytes, owner=memory)
    stream.sync()
    return copied(x, StridedMemoryView.from_buffer(part, x.shape, dtype=x.dtype))


def copied(x, view):
    """The array on GPU 0, with the values of x in it."""
    from cuda.core import Buffer, Device

    x = np.ascontiguousarray(x)
    stream = Device(0).create_stream()
    place = Buffer.from_handle(view.ptr, x.nbytes, owner=view)
    Buffer.from_handle(x.ctypes.data, x.nbytes, owner=x).copy_to(place, stream=stream)
    stream.sync()
    return view


def on_host(view):
    """The values of an array on GPU 0."""
    from cuda.core import Buffer, Device

    stream = Device(0).create_stream()
    found = np.empty(view.shape, np.float32)
    source = Buffer.from_handle(view.ptr, found.nbytes, owner=view)
    source.copy_to(Buffer.from_handle(found.ctypes.data, found.nbytes, owner=found), stream=stream)
    stream.sync()
    return found


def all_memory():
    """Blocks that leave GPU 0 less than a mebibyte, taken from the driver, past every pool."""
    driver, blocks = ctypes.CDLL("libcuda.so.1"), []
    n_bytes = 2**34
    while n_bytes >= 2**20:
        block = ctypes.c_uint64()
        if driver.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(n_bytes)) == 0:
            blocks.append(block)
        else:
            n_bytes //= 2
    assert blocks
    return blocks


def release(blocks):
    driver = ctypes.CDLL("libcuda.so.1")
    assert [driver.cuMemFree_v2(block) for block in blocks] == [0] * len(blocks)


def written(folder: Path):
    """An archive of synthetic ECGs at several rates, more than two batches and a tail."""
    run("synth", folder / "archive", "--n", "83", "--seed", "3", cache_at=folder)
    return folder / "archive"


def scored(archive, out, *options, cache_at):
    run("score", archive, "--out", out, *options, cache_at=cache_at)
    return pl.concat([pl.read_parquet(part) for part in sorted((out / "scores").glob("*.parquet"))])


def run(*arguments, cache_at):
    command = [sys.executable, "-P", "-m", "ecgbatch.cli", *arguments]
    environment = os.environ | {"ECGBATCH_CACHE": str(cache_at / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr


def worst(one, other):
    """Largest difference of any probability; both have the same records in the same order."""
    assert one["record_id"].to_list() == other["record_id"].to_list()
    columns = [name for name in one.columns if name.startswith("foundation/")]
    return np.abs(one.select(columns).to_numpy() - other.select(columns).to_numpy()).max()
