"""Our calls of TensorRT and CUDA, in order, against stand-ins for both libraries that compute on the host.

The stand-ins are as strict as the real ones are said to be: nothing that is put on a stream happens before the stream
is waited for, addresses are addresses, a context runs only the shapes of its profile, in memory that it was given, and
what a callback raises is lost. They show that our column of calls runs, keeps order, masks tails and reports errors. Of
TensorRT and CUDA themselves they show nothing; that is what tests/test_gpu.py is for, on a machine that has them.
"""

import contextlib
import ctypes
import importlib
import json
import os
import re
import signal
import sys
import threading
import weakref
from dataclasses import asdict, dataclass
from time import sleep
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")
ort = pytest.importorskip("onnxruntime", reason="the stand-in for TensorRT computes with it")

from ecgbatch import bench, bench_report, building, doctor, engine_cache, progress, score, synth  # noqa: E402
from ecgbatch.errors import EngineError  # noqa: E402
from ecgbatch.parity import Parity  # noqa: E402
from ecgbatch.runtimes import cpu, on_gpu, placement, profiles  # noqa: E402

BATCH = 8
MEMORY_OF_A_RECORD = 300_000
load = cpu.load
GOOD = Parity(n_ecgs=3, worst_probability=1e-5, flip_share=0.0)
FAST = {"ecg_per_s": 1000.0, "parity": asdict(GOOD)}
OURS = ("ecgbatch.runtimes.trt", "ecgbatch.runtimes.cuda_slot")


@pytest.fixture
def machine(monkeypatch):
    """Stand-ins in the place of both libraries; what a test changes in it is what the machine is like."""
    state = Machine()
    made = modules(state)
    for name in (*made, *OURS):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield state
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture
def trt(machine):
    return importlib.import_module("ecgbatch.runtimes.trt")


@pytest.fixture
def raw(trt, tiny_bundle):
    return built(trt, tiny_bundle)


@pytest.fixture
def engine(trt, tiny_bundle, raw):
    return trt.load(tiny_bundle, raw, index=0, variant="fp32", batch=BATCH)


@pytest.fixture
def x(rng):
    return rng.normal(size=(40, 8, 2500)).astype(np.float32)


def test_batches_of_every_size_give_what_the_cpu_gives(engine, tiny_bundle, x):
    sizes = [8, 3, 8, 1, 0, 2, 5, 8, 8, 7]
    inputs = [(tag, x[tag : tag + n]) for tag, n in enumerate(sizes)]
    reference = cpu.load(tiny_bundle, batch=BATCH)

    found = list(engine.stream(iter(inputs)))

    assert [tag for tag, *_ in found] == list(range(len(sizes)))
    for (_, part), (_, logits, embedding) in zip(inputs, found, strict=True):
        for one, other in zip((logits, embedding), reference(part), strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_call_takes_any_number_of_records(engine, tiny_bundle, x):
    logits, embedding = engine(x)
    expected = cpu.load(tiny_bundle, batch=BATCH)(x)

    np.testing.assert_allclose(logits, expected[0], atol=1e-4)
    np.testing.assert_allclose(embedding, expected[1], atol=1e-4)


def test_several_batches_are_on_the_device_before_the_first_is_waited_for(machine, engine, x):
    stream = engine.stream((n, x[:8]) for n in range(20))
    next(stream)

    assert machine.n_enqueued == 4  # two streams, two buffers of each
    assert machine.n_executed < 4
    stream.close()
    assert machine.n_executed == 4


def test_a_context_changes_its_profile_only_where_the_size_changes(machine, engine, x):
    list(engine.stream((n, x[:8]) for n in range(12)))

    assert machine.n_switches == 2  # once a context


def test_a_device_array_is_read_where_it_lies(machine, engine, tiny_bundle, x):
    array = DeviceArray(x[:8])

    logits, embedding = engine.on_device(array)

    assert machine.addresses["x"] == array.address
    assert logits.device_id == embedding.device_id == 0
    np.testing.assert_allclose(host(logits), cpu.load(tiny_bundle, batch=BATCH)(x[:8])[0], atol=1e-4)


@pytest.mark.parametrize(("n", "offset"), [(5, 0), (8, 4)], ids=["tail", "unaligned"])
def test_a_device_array_that_does_not_fit_is_copied_once(machine, engine, tiny_bundle, x, n, offset):
    array = DeviceArray(x[:n], offset=offset)

    ((_, logits, _),) = engine.stream([(None, array)])

    assert machine.addresses["x"] not in (array.address, None)
    np.testing.assert_allclose(logits, cpu.load(tiny_bundle, batch=BATCH)(x[:n])[0], atol=1e-4)


@pytest.mark.parametrize("n", [8, 5], ids=["whole", "tail"])
def test_a_feed_may_write_its_next_batch_where_the_last_one_lay(engine, tiny_bundle, x, n):
    array = DeviceArray(x[:n])

    def feed():
        for at in range(10):
            array.write(x[at : at + n])
            yield at, array

    reference = cpu.load(tiny_bundle, batch=BATCH)

    for at, logits, _ in engine.stream(feed()):
        np.testing.assert_allclose(logits, reference(x[at : at + n])[0], atol=1e-4)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (lambda x: DeviceArray(x[:8].astype(np.float64)), "float64"),
        (lambda x: DeviceArray(x[:8, :4]), r"\(8, 4, 2500\)"),
        (lambda x: DeviceArray(x[:8], device=1), "on device 1"),
        (lambda x: DeviceArray(x[:8], strides=(40_000, 5_000, 2)), "dense"),
        (lambda x: DeviceArray(x[0]), r"\(8, 2500\)"),
    ],
    ids=["type", "shape", "device", "strides", "rank"],
)
def test_a_device_array_of_another_kind_is_refused(engine, x, array, said):
    with pytest.raises(EngineError, match=said):
        engine.on_device(array(x))


def test_one_record_of_the_device_may_have_any_stride_between_records(engine, tiny_bundle, x):
    logits, _ = engine.on_device(DeviceArray(x[:1], strides=(1, 2500, 1)))

    np.testing.assert_allclose(host(logits), cpu.load(tiny_bundle, batch=BATCH)(x[:1])[0], atol=1e-4)


def test_two_engines_read_one_batch_of_the_device(machine, trt, tiny_bundle, raw, x):
    engines = [trt.load(tiny_bundle, raw, index=0, variant="fp32", batch=BATCH) for _ in range(2)]
    array = DeviceArray(x[:8])

    one, other = (host(engine.on_device(array)[0]) for engine in engines)

    assert machine.addresses["x"] == array.address
    assert np.array_equal(one, other)


def test_engines_of_two_gpus_take_turns_on_one_thread(machine, trt, tiny_bundle, x):
    machine.n_gpus = 2
    engines = [
        trt.load(tiny_bundle, built(trt, tiny_bundle, index=at), index=at, variant="fp32", batch=BATCH) for at in (0, 1)
    ]
    streams = [engine.stream((n, x[:8]) for n in range(6)) for engine in engines]

    found = [logits for pair in zip(*streams, strict=True) for _, logits, _ in pair]

    assert len(found) == 12
    assert [str(engine) for engine in engines] == ["cuda:0 tensorrt fp32", "cuda:1 tensorrt fp32"]


def test_engines_of_two_gpus_run_on_threads_of_their_own(machine, trt, tiny_bundle, x):
    machine.n_gpus = 2
    engines = [
        trt.load(tiny_bundle, built(trt, tiny_bundle, index=at), index=at, variant="fp32", batch=BATCH) for at in (0, 1)
    ]
    shards = range(12)

    found = placement.merged(
        [engine.stream((shard, x[shard : shard + 8]) for shard in shards[at::2]) for at, engine in enumerate(engines)]
    )

    by_shard = {shard: (at, logits) for at, (shard, logits, _) in found}
    assert {shard: at for shard, (at, _) in by_shard.items()} == {shard: shard % 2 for shard in shards}
    for shard, (_, logits) in by_shard.items():
        expected = cpu.load(tiny_bundle, batch=BATCH)(x[shard : shard + 8])[0]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_build_tells_its_phases_and_keeps_its_timings(machine, trt, tiny_bundle, tmp_path):
    seen = []
    timings = tmp_path / "timings"

    built(trt, tiny_bundle, timings=timings, observe=lambda *what: seen.append(what))
    built(trt, tiny_bundle, timings=timings)

    assert seen == [("build", 0, 2), ("build", 1, 2), ("build", 2, 2)]
    assert machine.timings_read == [b"", b"measured"]
    assert timings.read_bytes() == b"measured"
    assert list(tmp_path.iterdir()) == [timings]


def test_a_build_shows_how_far_it_has_come(trt, tiny_bundle, capsys):
    with progress.building("foundation fp16") as observe:
        built(trt, tiny_bundle, observe=observe)

    assert capsys.readouterr().err.splitlines() == ["foundation fp16: build 2 of 2"]


def test_timings_of_another_gpu_are_left_aside(machine, trt, tiny_bundle, tmp_path):
    (tmp_path / "timings").write_bytes(b"other gpu")

    built(trt, tiny_bundle, timings=tmp_path / "timings")

    assert machine.timings_read == [b"other gpu", b""]


def test_timings_that_were_left_aside_are_not_why_a_build_fails(machine, trt, tiny_bundle, tmp_path):
    (tmp_path / "timings").write_bytes(b"other gpu")
    machine.build_error = "no kernel"

    with pytest.raises(EngineError, match=r"cannot build the engine: no kernel$"):
        built(trt, tiny_bundle, timings=tmp_path / "timings")


def test_an_interrupt_ends_a_build_and_is_not_lost_in_a_callback(machine, trt, tiny_bundle, capsys):
    def interrupt(monitor):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            if not monitor.raised:
                sleep(0.01)

    seen = []
    machine.during_build = interrupt
    signal.siginterrupt(signal.SIGINT, False)  # as Polars leaves it

    with pytest.raises(KeyboardInterrupt):
        built(trt, tiny_bundle, observe=lambda *what: seen.append(what))

    assert seen == [("build", 0, 2)]
    assert capsys.readouterr().err == ""


def test_what_cannot_be_shown_of_a_build_ends_it_and_says_why(trt, tiny_bundle):
    def show(*_):
        raise OSError("the terminal is gone")

    with pytest.raises(EngineError, match=r"cuda:0, model.onnx: OSError: the terminal is gone"):
        built(trt, tiny_bundle, observe=show)


def test_a_build_is_for_the_gpu_that_was_asked_for(machine, trt, tiny_bundle):
    machine.n_gpus = 2

    built(trt, tiny_bundle, index=1)

    assert machine.built_on == [1]


def test_float32_is_float32(machine, trt, tiny_bundle):
    built(trt, tiny_bundle)

    assert machine.flags == set()  # TF32 is among them unless it is taken out


def test_layers_left_in_float32_are_told(engine):
    assert engine.left_in_float32() == ["Gemm stem", "Gemm head"]


def test_an_engine_whose_layers_are_not_told_is_kept(machine, trt, tiny_bundle, cache):
    machine.layers = {"Layers": ["names", "only"]}

    assert kept(tiny_bundle, "fp16").told["left_in_float32"] is None
    assert opened(tiny_bundle, precision="fp16").precision == "fp16"


@pytest.mark.parametrize(
    ("precision", "n_layers", "said"),
    [
        ("fp32", 20, "ECG/s"),
        ("fp16", None, "ECG/s · TensorRT does not tell which layers are left in float32"),
        ("fp16", 0, "ECG/s · layers left in float32: none"),
        ("fp16", 2, "ECG/s · layers left in float32: Gemm 0, Gemm 1"),
        ("fp16", 20, "ECG/s · layers left in float32: Gemm 0, Gemm 1, .*, Gemm 7 and 12 more"),
    ],
    ids=["of float32", "untold", "none", "few", "many"],
)
def test_a_build_says_in_a_line_what_is_left_in_float32(machine, trt, tiny_bundle, cache, precision, n_layers, said):
    told = [{"Name": str(n), "LayerType": "Gemm", "Outputs": [{"DataType": "Float"}]} for n in range(n_layers or 0)]
    machine.layers = {} if n_layers is None else {"Layers": told}
    lines = []

    building.build(tiny_bundle, building.Order(device="cuda", precision=precision), say=lines.append)

    assert re.search(f"^[0-9]+ {said}$", lines[-1])


def test_an_int8_engine_is_of_a_graph_that_is_verified_as_tensorrt_takes_it(
    machine, trt, tiny_bundle, cache, tmp_path, monkeypatch
):
    archive = tmp_path / "archive"
    archive.mkdir()
    for seed in range(60):
        (archive / f"{seed:02}.xml").write_bytes(synth.muse_xml(synth.record(seed=seed)))
    on_cpu = []
    monkeypatch.setattr(cpu, "load", lambda *args, **how: (on_cpu.append(how.get("graph")), load(*args, **how))[1])

    building.build(tiny_bundle, building.Order(device="cuda", precision="int8", calibrate=(str(archive),)))

    assert "UINT8" not in machine.types
    assert "INT8" in machine.types
    signed = {graph.name for graph in on_cpu if graph is not None} - {"model.onnx"}
    assert signed == {"signed.model.int8.onnx"}  # chosen and verified by what it says, and by no other's


def test_what_was_built_is_what_scoring_opens(trt, tiny_bundle, cache, x):
    found = kept(tiny_bundle, "fp32")

    engine = opened(tiny_bundle)

    np.testing.assert_allclose(engine(x)[0], cpu.load(tiny_bundle, batch=BATCH)(x)[0], atol=1e-4)
    assert engine.variant == engine.precision == "fp32"
    assert engine.batch == on_gpu.BATCH
    assert found.told["left_in_float32"] == ["Gemm stem", "Gemm head"]


@pytest.mark.parametrize("batch", [1, 8, 16, 17, 256], ids=str)
def test_an_engine_takes_any_batch_up_to_the_largest_it_was_built_for(machine, trt, tiny_bundle, cache, x, batch):
    stored(trt, tiny_bundle, "fp32")
    machine.free_bytes = before = 2**30

    engine = opened(tiny_bundle, batch=batch)

    assert engine.batch == batch
    np.testing.assert_allclose(engine(x)[0], cpu.load(tiny_bundle, batch=BATCH)(x)[0], atol=1e-4)
    a_record = 4 * 90_000 + 2 * MEMORY_OF_A_RECORD  # four buffers, two contexts
    assert before - machine.free_bytes < 4 * batch * a_record  # no larger than the profile that holds the batch


def test_a_larger_batch_than_the_engine_was_built_for_is_refused(trt, tiny_bundle, cache):
    stored(trt, tiny_bundle, "fp32")

    with pytest.raises(EngineError, match="cuda:0: batch of 257 records, expected at most 256; take a smaller --batch"):
        opened(tiny_bundle, batch=257)


def test_auto_opens_the_fastest_that_was_built(trt, tiny_bundle, cache):
    for precision, rate in (("fp16", 300.0), ("int8", 200.0), ("fp32", 100.0)):
        stored(trt, tiny_bundle, precision, {"ecg_per_s": rate, "parity": asdict(GOOD)})

    engine = opened(tiny_bundle, "cuda", "auto")

    assert str(engine) == "cuda:0 tensorrt fp16"
    assert engine.variant == "fp16"
    assert set(on_gpu.kept(tiny_bundle, "cuda")) == {"fp16", "int8", "fp32"}


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("cuda:0", "fp16", r"no engine was built in fp16; run `ecgbatch build tiny --device cuda:0 --precision fp16`"),
        ("cuda:0", "int8", r"run `ecgbatch build tiny --device cuda:0 --precision int8 --calibrate SOURCE`"),
        ("cuda:0", "auto", r"no engine was built in auto; run"),
        ("cuda:0", "fp64", r"precision 'fp64' on cuda:0, expected 'auto' or one of int8, fp16, bf16, fp32"),
        ("cuda:0,1", "fp32", r"an engine runs on one GPU"),
        ("cuda:4", "fp32", r"this machine has cuda:0 only"),
    ],
    ids=str,
)
def test_what_was_not_built_is_not_opened(trt, tiny_bundle, cache, device, precision, said):
    with pytest.raises(EngineError, match=said):
        opened(tiny_bundle, device, precision)


def test_an_engine_that_is_not_verified_is_not_kept(trt, tiny_bundle, cache):
    def refuse(engine):
        raise EngineError("differs by 0.4")

    with pytest.raises(EngineError, match=r"differs by 0.4"):
        kept(tiny_bundle, "fp32", verify=refuse)
    assert on_gpu.kept(tiny_bundle, "cuda") == {}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"ecg_per_s": 1.0, "parity": {**asdict(GOOD), "flip_share": "few"}}, "cannot be read"),
        ({"ecg_per_s": 1.0, "parity": {**asdict(GOOD), "worst_probability": 0.4}}, "not within its limits"),
        ({"parity": asdict(GOOD)}, "cannot be read"),
        ({**FAST, "variant": "int8"}, "told to be int8"),
        ({**FAST, "variant": None}, "cannot be read"),
    ],
    ids=[
        "parity of another kind",
        "beyond its limits",
        "no rate",
        "another variant",
        "no variant",
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_engine_without_parity_within_its_limits_is_refused(trt, tiny_bundle, cache, precision, told, said):
    stored(trt, tiny_bundle, "fp32", told)

    with pytest.raises(EngineError, match=said):
        opened(tiny_bundle, precision=precision)


def test_an_altered_plan_never_reaches_tensorrt(machine, trt, tiny_bundle, cache):
    plan = stored(trt, tiny_bundle, "fp32").path("model.engine")
    machine.load_error = "must not be asked"
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)

    with pytest.raises(EngineError, match=r"model.engine is not the file that was built"):
        opened(tiny_bundle)


def test_an_engine_that_was_built_for_another_gpu_never_reaches_tensorrt(machine, trt, tiny_bundle, cache):
    stored(trt, tiny_bundle, "fp32")
    machine.load_error = "must not be asked"
    machine.names[0] = "another"

    with pytest.raises(EngineError, match=r"built with gpu stand-in, expected another"):
        opened(tiny_bundle)


def test_a_cache_that_cannot_be_made_is_one_line(trt, tiny_bundle, cache, monkeypatch):
    cache.write_text("no folder", "utf-8")
    monkeypatch.setenv("ECGBATCH_CACHE", str(cache / "below"))

    with pytest.raises(EngineError, match=r"engine cache .*below: cannot be written: Not a directory"):
        kept(tiny_bundle, "fp32")


def test_timings_that_cannot_be_written_leave_nothing_behind(trt, tiny_bundle, tmp_path):
    timings = tmp_path / "timings"
    timings.mkdir()

    with pytest.raises(OSError, match="timings"):
        trt._replace(timings, b"measured")
    assert list(tmp_path.iterdir()) == [timings]


def test_builds_for_one_gpu_share_their_timings(machine, trt, tiny_bundle, other_bundle, cache):
    kept(tiny_bundle, "fp32")
    found = kept(other_bundle, "fp16")

    assert re.fullmatch(r"fp16 [0-9a-f]{16}", found.told["variant"])
    assert machine.timings_read == [b"", b"measured"]


def test_two_gpus_score_an_archive_by_shard_as_the_cpu_does(machine, trt, tiny_bundle, tmp_path):
    import polars as pl

    machine.n_gpus = 2
    archive = tmp_path / "archive"
    archive.mkdir()
    for seed in range(37):
        (archive / f"{seed:02}.xml").write_bytes(synth.muse_xml(synth.record(seed=seed)))
    building.build(tiny_bundle, building.Order(device="cuda:0", precision="fp32"))

    def scored(device, name):
        options = score.Options(device=device, precision="fp32", batch=None, shard_size=4)
        tally = score.run([archive], tmp_path / name, (tiny_bundle,), options)
        assert tally.n_scored == 37
        parts = [pl.read_parquet(part) for part in sorted((tmp_path / name / "scores").glob("*.parquet"))]
        return str(tally), pl.concat(parts)

    (gpu, one), (_, other) = scored("cuda:0,1", "gpu"), scored("cpu", "cpu")

    assert "cuda:0 tensorrt fp32, cuda:1 tensorrt fp32" in gpu
    assert one["record_id"].to_list() == other["record_id"].to_list()
    labels = [f"tiny/{code}" for code in tiny_bundle.codes]
    np.testing.assert_allclose(one.select(labels).to_numpy(), other.select(labels).to_numpy(), atol=1e-4)


def test_gpus_of_two_precisions_do_not_share_a_run(machine, trt, tiny_bundle, cache, tmp_path):
    machine.n_gpus = 2
    machine.names = ["stand-in", "another"]
    (tmp_path / "0.xml").write_bytes(synth.muse_xml(synth.record(seed=0)))
    for index, fastest in enumerate(("fp32", "fp16")):
        for precision in ("fp32", "fp16"):
            stored(trt, tiny_bundle, precision, {**FAST, "ecg_per_s": float(precision == fastest)}, index=index)

    with pytest.raises(EngineError, match="cuda:0 tensorrt fp32 and cuda:1 tensorrt fp16: expected one precision"):
        score.run([tmp_path / "0.xml"], tmp_path / "run", [tiny_bundle], score.Options(device="cuda:0,1"))
    assert not (tmp_path / "run").exists()


def test_bench_measures_transfer_and_what_a_second_gpu_brings(machine, trt, tiny_bundle, cache):
    machine.n_gpus = 2
    stored(trt, tiny_bundle, "fp32")
    order = bench.Order(n=4, rounds=1, seconds=0.05, batches=(2, 8), devices=("cuda:0,1",), precisions=("fp32",))

    found = bench.measure(tiny_bundle, order)

    told = found["devices"]["cuda:0,1"]
    assert set(told["engines"]["fp32"]["ecg_per_s_by_batch"]) == {"2", "8"}
    assert told["engines"]["fp32"]["engine"] == "cuda:0 tensorrt fp32, cuda:1 tensorrt fp32"
    assert set(told["gpus"]["fp32"]) == {"1", "2"}
    assert set(told["transfer"]) == {"cuda:0", "cuda:1"}
    for sent in told["transfer"].values():
        assert sent["bytes_per_s"] == pytest.approx(sent["ecg_per_s"] * 8 * 2500 * 4)
    text = bench_report.table(found)
    assert "transfer to the device" in text
    assert "cuda:1, batch 8" in text


def test_what_is_sent_is_on_the_device_and_nothing_has_run(machine, engine, x):
    engine.send(x[:5])

    sent = host(SimpleNamespace(ptr=engine._slots[0]._buffers["x"].handle, shape=(8, 8, 2500)))
    assert np.array_equal(sent[:5], x[:5])
    assert not sent[5:].any()
    assert machine.n_enqueued == 0


def test_doctor_tests_the_engines_that_were_built_for_a_gpu_and_no_other(machine, trt, tiny_bundle, cache):
    (before,) = doctor._on_gpu(tiny_bundle, "cuda:0")
    stored(trt, tiny_bundle, "fp32")
    (after,) = doctor._on_gpu(tiny_bundle, "cuda:0")

    assert before.is_passed is None
    assert "`ecgbatch build tiny --device cuda:0`" in before.detail
    assert (after.name, after.is_passed) == ("tiny on cuda:0 in fp32", True)


def test_a_graph_that_the_parser_refuses_is_an_error(trt, tiny_bundle, tmp_path):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"no graph")

    with pytest.raises(EngineError, match=r"cuda:0, model.onnx: TensorRT does not take the graph: no graph there"):
        built(trt, tiny_bundle, graph=graph)


def test_a_build_that_fails_says_why(machine, trt, tiny_bundle):
    machine.build_error = "no kernel\nfor node conv2d"

    with pytest.raises(EngineError, match="TensorRT cannot build the engine: no kernel for node conv2d"):
        built(trt, tiny_bundle)


def test_a_plan_that_tensorrt_refuses_is_an_error(machine, trt, tiny_bundle, raw):
    machine.load_error = "serialization assertion"

    with pytest.raises(EngineError, match="TensorRT does not take the plan: serialization assertion"):
        trt.load(tiny_bundle, raw, index=0, variant="fp32", batch=BATCH)


def test_the_plan_of_another_bundle_is_refused(trt, other_bundle, raw):
    with pytest.raises(EngineError, match=r"engine: x is .*8, 2500.* expected FLOAT"):
        trt.load(other_bundle, raw, index=0, variant="fp32", batch=BATCH)


def test_memory_that_runs_out_is_an_error_that_says_so(machine, trt, tiny_bundle, raw):
    machine.free_bytes = 100_000

    with pytest.raises(EngineError, match=r"model 'tiny' on cuda:0: CUDAError: CUDA_ERROR_OUT_OF_MEMORY"):
        trt.load(tiny_bundle, raw, index=0, variant="fp32", batch=BATCH)


def test_no_memory_for_a_context_is_an_error_that_says_so(machine, trt, tiny_bundle, raw):
    machine.context_error = "out of memory"

    with pytest.raises(EngineError, match="cannot make a context: out of memory"):
        trt.load(tiny_bundle, raw, index=0, variant="fp32", batch=BATCH)


def test_a_device_that_is_lost_ends_the_stream_and_every_later_one(machine, engine, x):
    stream = engine.stream((n, x[:8]) for n in range(20))
    next(stream)
    machine.is_lost = True

    with pytest.raises(EngineError, match="CUDA_ERROR_DEVICE_UNAVAILABLE"):
        list(stream)
    with pytest.raises(EngineError, match="CUDA_ERROR_DEVICE_UNAVAILABLE"):
        engine(x)


def test_a_batch_that_tensorrt_does_not_run_is_an_error(machine, engine, x):
    machine.run_error = "misaligned address"

    with pytest.raises(EngineError, match="TensorRT cannot run the batch: misaligned address"):
        engine(x)


def test_what_the_source_of_batches_raises_is_raised_and_nothing_stays_running(machine, engine, x):
    def inputs():
        yield 0, x[:8]
        raise KeyError("the feed's own")

    with pytest.raises(KeyError, match="the feed's own"):
        list(engine.stream(inputs()))
    assert machine.n_executed == machine.n_enqueued == 1


def test_a_gpu_that_is_not_there_is_refused(trt, tiny_bundle):
    with pytest.raises(EngineError, match="device 'cuda:1', but this machine has cuda:0 only"):
        trt.facts(tiny_bundle, index=1, precision="fp32", batch=BATCH)


def test_a_machine_without_a_driver_is_refused(machine, trt, tiny_bundle):
    machine.n_gpus = None

    with pytest.raises(EngineError, match="cuda: RuntimeError: no NVIDIA driver"):
        trt.facts(tiny_bundle, index=0, precision="fp32", batch=BATCH)


@pytest.mark.parametrize("name", ["tensorrt", "cuda.core"])
def test_a_library_that_is_not_installed_is_one_line_that_names_the_extra(machine, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(EngineError, match=r"needs TensorRT and cuda-core .*; pip install 'ecgbatch\[gpu\]'"):
        importlib.import_module("ecgbatch.runtimes.trt")


def built(trt, bundle, *, graph=None, index=0, batch=BATCH, timings=None, observe=lambda *_: None):
    return trt.build(
        bundle,
        graph or bundle.folder / "model.onnx",
        index=index,
        batch=batch,
        timings=timings,
        observe=observe,
    )


def kept(bundle, precision, *, verify=lambda engine: GOOD):
    return on_gpu.keep(
        bundle, bundle.folder / "model.onnx", "cuda:0", precision, verify=verify, observe=lambda *_: None
    )


def stored(trt, bundle, precision, told=FAST, *, index=0):
    """An engine in the cache, of which this was told."""
    raw = built(trt, bundle, index=index, batch=on_gpu.BATCH)
    facts = trt.facts(bundle, index=index, precision=precision, batch=on_gpu.BATCH)
    told = {"variant": precision, **told}
    return engine_cache.keep(facts, lambda folder: (folder / "model.engine").write_bytes(raw), told)


def opened(bundle, device="cuda:0", precision="fp32", *, batch=None):
    return on_gpu.opened(bundle, device, precision, batch=batch)


def host(view):
    """A device array of the stand-in, whose device is the host."""
    n = int(np.prod(view.shape))
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(view.ptr)).reshape(view.shape)


class CUDAError(Exception):
    """As the real one, which is no class that one may import."""


@dataclass
class Machine:
    """What the stand-ins are like, and what was done with them."""

    n_gpus: int | None = 1
    free_bytes: int = 2**30
    is_lost: bool = False
    build_error: str | None = None
    load_error: str | None = None
    context_error: str | None = None
    run_error: str | None = None
    n_enqueued: int = 0
    n_executed: int = 0
    n_switches: int = 0
    layers: dict | None = None

    def __post_init__(self):
        self.thread = threading.local()  # each has a current device of its own
        self.names = ["stand-in"] * 8
        self.addresses: dict[str, int] = {}
        self.timings_read: list[bytes] = []
        self.flags: set[str] = set()
        self.loggers: list[object] = []
        self.types: set[str] = set()
        self.during_build = lambda monitor: None
        self.built_on: list[int] = []


class DeviceArray:
    """An array of the stand-in's device."""

    def __init__(self, x, *, offset=0, device=0, strides=None):
        self.memory = Memory(x.nbytes + offset)
        self.address = self.memory.address + offset
        self.write(x)
        self.shape, self.dtype, self.device, self.strides = x.shape, x.dtype, device, strides

    def write(self, x):
        ctypes.memmove(self.address, np.ascontiguousarray(x).ctypes.data, x.nbytes)

    def __len__(self):
        return self.shape[0]


class Memory:
    """Aligned bytes on the host, full of what was there before."""

    def __init__(self, n_bytes):
        self._bytes = (ctypes.c_char * (n_bytes + profiles.ALIGNMENT_BYTES))()
        ctypes.memset(self._bytes, 0xFF, len(self._bytes))  # NaN as float32
        at = ctypes.addressof(self._bytes)
        self.address = at + -at % profiles.ALIGNMENT_BYTES


def modules(machine):
    """`tensorrt`, and of `cuda` what we use."""
    names = ("cuda", "cuda.bindings", "cuda.core", "cuda.core.utils", "tensorrt")
    cuda, bindings, core, utils, tensorrt = made = [ModuleType(name) for name in names]
    _fill_cuda(machine, core, utils)
    _fill_tensorrt(machine, tensorrt)
    bindings.driver = SimpleNamespace(cuDriverGetVersion=lambda: (0, 13_000))
    cuda.__path__, bindings.__path__, core.__path__ = [], [], []
    cuda.bindings, cuda.core, core.utils = bindings, core, utils
    return dict(zip(names, made, strict=True))


def _fill_cuda(machine, core, utils):
    def alive(index):
        if machine.is_lost:
            raise CUDAError("CUDA_ERROR_DEVICE_UNAVAILABLE")
        assert getattr(machine.thread, "device", None) == index, "another device is current"

    class Buffer:
        def __init__(self, address, size, owner):
            self.handle, self.size, self.owner = address, size, owner

        @classmethod
        def from_handle(cls, ptr, size, owner=None):
            return cls(ptr, size, owner)

        def copy_to(self, dst, *, stream):
            assert self.size == dst.size, "cuda.core copies whole buffers only"
            stream.put(lambda: ctypes.memmove(dst.handle, self.handle, self.size))
            return dst

        def fill(self, value, *, stream):
            stream.put(lambda: ctypes.memset(self.handle, value, self.size))

    class Event:
        every: ClassVar[dict] = {}

        def __init__(self, index):
            self.index, self.todo, self.handle = index, None, 2000 + len(Event.every)
            Event.every[self.handle] = self

        def sync(self):
            alive(self.index)
            if self.todo is not None:
                self.todo()

    class Stream:
        every: ClassVar[dict] = {}

        def __init__(self, index):
            self.index, self.waiting, self.handle = index, [], 1000 + len(Stream.every)
            Stream.every[self.handle] = self

        def __cuda_stream__(self):
            return 0, self.handle

        def put(self, work):
            alive(self.index)
            self.waiting.append(work)

        def record(self, event):
            """The event is reached when all that is on the stream by now has been done."""
            alive(self.index)
            due = list(self.waiting)

            def run():
                while due and self.waiting and self.waiting[0] in due:
                    self.waiting.pop(0)()

            event.todo = run
            return event

    class Device:
        def __init__(self, index):
            self.device_id, self.name, self.arch = index, machine.names[index], "90"

        @classmethod
        def get_all_devices(cls):
            if machine.n_gpus is None:
                raise RuntimeError("no NVIDIA driver")
            return tuple(cls(index) for index in range(machine.n_gpus))

        def set_current(self):
            machine.thread.device = self.device_id

        def create_stream(self):
            return Stream(self.device_id)

        def create_event(self, options):
            assert options.blocking_sync
            return Event(self.device_id)

        def allocate(self, size, *, stream):
            alive(self.device_id)
            machine.free_bytes -= size
            if machine.free_bytes < 0:
                raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed for lack of memory.")
            memory = Memory(size)
            return Buffer(memory.address, size, memory)

    class Pinned:
        def allocate(self, size):
            memory = Memory(size)
            return Buffer(memory.address, size, memory)

    class View:
        def __init__(self, ptr, shape, dtype, device_id, owner, strides=None):
            self.ptr, self.shape, self.dtype, self.device_id = ptr, shape, dtype, device_id
            self.owner, self.strides = owner, strides

        @classmethod
        def from_any_interface(cls, array, stream_ptr):
            assert stream_ptr in Stream.every, "no stream waits for the array"
            return cls(array.address, array.shape, array.dtype, array.device, array, array.strides)

        @classmethod
        def from_buffer(cls, buffer, shape, *, dtype):
            return cls(buffer.handle, shape, dtype, machine.thread.device, buffer)

    core.Buffer, core.Device, core.Event, core.Stream, core.EventOptions = (
        Buffer,
        Device,
        Event,
        Stream,
        SimpleNamespace,
    )
    core.LegacyPinnedMemoryResource = Pinned
    utils.StridedMemoryView = View
    machine.streams, machine.events = Stream.every, Event.every


def _fill_tensorrt(machine, tensorrt):
    def logged(log, error):
        quietly(lambda: log.log(tensorrt.ILogger.Severity.WARNING, "not this one"))
        quietly(lambda: log.log(tensorrt.ILogger.Severity.ERROR, error))

    def quietly(callback):
        """What a callback returns; what it raises, the bindings print and forget."""
        try:
            return callback()
        except BaseException as err:
            sys.stderr.write(f"[ERROR] Exception caught: {err!r}\n")
            return False

    def known(log):
        assert log.is_ready
        machine.loggers.append(log)
        assert machine.loggers[0] is log, "TensorRT keeps the first logger that it is given"
        return log

    class Callback:
        def __init__(self):
            self.is_ready = True  # the real ones crash where a subclass forgot to call it

    class Parser:
        def __init__(self, network, log):
            self.network, self.num_errors = network, 0
            known(log)

        def parse_from_file(self, path):
            with contextlib.suppress(ort.capi.onnxruntime_pybind11_state.InvalidProtobuf):
                ort.InferenceSession(path, providers=["CPUExecutionProvider"])
                self.network.path, self.network.parser = path, weakref.ref(self)
                made = onnx.load(path).graph.initializer
                machine.types = {onnx.TensorProto.DataType.Name(each.data_type) for each in made}
                return True
            self.num_errors = 1
            return False

        def get_error(self, at):
            return SimpleNamespace(desc=lambda: "no graph there", node_operator=str, node_name=str)

    class Profile:
        def set_shape(self, name, least, best, most):
            assert name == "x"
            assert least == best == most
            self.shape = most

    class Config:
        def __init__(self, log):
            self.profiles, self.cache, self.log = [], None, log
            machine.flags = {"TF32"}

        def clear_flag(self, flag):
            machine.flags.discard(flag)

        def add_optimization_profile(self, profile):
            self.profiles.append(profile.shape)
            return len(self.profiles) - 1

        def create_timing_cache(self, content):
            machine.timings_read.append(content)
            return content

        def set_timing_cache(self, cache, *, ignore_mismatch):
            assert not ignore_mismatch
            self.cache = cache
            if cache == b"other gpu":
                logged(self.log, "timing cache of another device")
            return cache != b"other gpu"

        def get_timing_cache(self):
            return SimpleNamespace(serialize=lambda: b"measured")

    class Builder:
        def __init__(self, log):
            self.log = known(log)

        def create_network(self):
            return SimpleNamespace()

        def create_builder_config(self):
            return Config(self.log)

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            monitor = config.progress_monitor
            assert monitor.is_ready
            assert network.parser(), "the parser, which owns the weights, is gone"
            machine.built_on.append(machine.thread.device)
            quietly(lambda: monitor.phase_start("build", None, 2))
            quietly(lambda: monitor.phase_start("tactics", "build", 9))
            quietly(lambda: machine.during_build(monitor))
            goes_on = [quietly(lambda: monitor.step_complete("tactics", 0))]
            goes_on.append(quietly(lambda: monitor.step_complete("build", 0)))
            quietly(lambda: monitor.phase_finish("tactics"))
            goes_on.append(quietly(lambda: monitor.step_complete("build", 1)))
            quietly(lambda: monitor.phase_finish("build"))
            if not all(goes_on):
                return None
            if machine.build_error:
                logged(self.log, machine.build_error)
                return None
            return json.dumps([network.path, config.profiles]).encode()

    class Context:
        def __init__(self, engine):
            self.engine, self.profile, self.shape, self.at, self.n_bytes = engine, 0, None, {}, 0

        def set_device_memory(self, address, n_bytes):
            assert address % profiles.ALIGNMENT_BYTES == 0
            self.n_bytes = n_bytes

        def set_optimization_profile_async(self, profile, handle):
            assert handle in machine.streams
            if profile >= len(self.engine.profiles):
                raise RuntimeError("Error in set optimization profile async.")
            machine.n_switches += 1
            self.profile, self.shape, self.handle = profile, None, handle
            return True

        def set_input_shape(self, name, shape):
            assert name == "x"
            self.shape = shape if list(shape) == self.engine.profiles[self.profile] else None
            return self.shape is not None

        def set_tensor_address(self, name, address):
            self.at[name] = machine.addresses[name] = address
            return name in self.engine.ends and address % profiles.ALIGNMENT_BYTES == 0

        def execute_async_v3(self, handle):
            if machine.run_error:
                logged(self.engine.log, machine.run_error)
                return False
            assert handle == self.handle, "the profile was switched on another stream"
            assert self.shape is not None
            assert self.at.keys() == self.engine.ends.keys()
            assert self.n_bytes >= self.engine.get_device_memory_size_for_profile_v2(self.profile)
            machine.n_enqueued += 1
            machine.streams[handle].put(lambda shape=self.shape, at=dict(self.at): self.execute(shape, at))
            machine.streams[handle].record(self.consumed)
            return True

        def set_input_consumed_event(self, handle):
            self.consumed = machine.events[handle]
            return True

        def execute(self, shape, at):
            machine.n_executed += 1
            x = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(at["x"])).reshape(shape)
            for name, value in zip(("logits", "embedding"), self.engine.session.run(None, {"x": x}), strict=True):
                ctypes.memmove(at[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

    class Engine:
        def __init__(self, path, profiles, log):
            self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.profiles, self.log = profiles, log
            self.ends = {"x": self.session.get_inputs()[0]} | {end.name: end for end in self.session.get_outputs()}
            self.num_io_tensors, self.num_optimization_profiles = 3, len(profiles)

        def get_tensor_name(self, at):
            return list(self.ends)[at]

        def get_tensor_mode(self, name):
            return "in" if name == "x" else "out"

        def get_tensor_dtype(self, name):
            return SimpleNamespace(name="FLOAT")

        def get_tensor_shape(self, name):
            return [-1, *self.ends[name].shape[1:]]

        def get_tensor_profile_shape(self, name, at):
            return [self.profiles[at]] * 3

        def get_device_memory_size_for_profile_v2(self, at):
            return MEMORY_OF_A_RECORD * self.profiles[at][0]

        def create_execution_context(self, strategy):
            assert strategy == "user"  # else it takes what the largest profile needs
            if machine.context_error:
                logged(self.log, machine.context_error)
                return None
            return Context(self)

        def create_engine_inspector(self):
            named = [{"Name": n, "LayerType": "Gemm", "Outputs": [{"DataType": "Float"}]} for n in ("stem", "head")]
            told = {"Layers": named} if machine.layers is None else machine.layers
            return SimpleNamespace(get_engine_information=lambda form: json.dumps(told))

    class Runtime:
        def __init__(self, log):
            self.log = known(log)

        def deserialize_cuda_engine(self, plan):
            if machine.load_error:
                logged(self.log, machine.load_error)
                return None
            return Engine(*json.loads(plan), self.log)

    class Logger(Callback):
        Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal", WARNING="warning")

    tensorrt.ILogger, tensorrt.IProgressMonitor, tensorrt.__version__ = Logger, Callback, "11.4.0"
    tensorrt.Builder, tensorrt.Runtime, tensorrt.OnnxParser = Builder, Runtime, Parser
    tensorrt.BuilderFlag = SimpleNamespace(TF32="TF32")
    tensorrt.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    tensorrt.LayerInformationFormat = SimpleNamespace(JSON="json")
    tensorrt.TensorIOMode = SimpleNamespace(INPUT="in")
    tensorrt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    # annotations only
    tensorrt.ICudaEngine = tensorrt.INetworkDefinition = tensorrt.IBuilderConfig = object
    tensorrt.Dims = tensorrt.ParserError = object
