"""Engine files: whose they are, and that no other one is used."""

from dataclasses import replace

import pytest

from ecgbatch.errors import EngineError
from ecgbatch.runtimes.engine_file import Gpu, Tensor, facts, packed, refuse_tensors, unpacked

H100 = Gpu(name="NVIDIA H100 80GB HBM3", architecture="sm_90", driver="13.0", tensorrt="11.4.0")
PLAN = bytes(range(256)) * 8 + b"\n{}\n"


@pytest.fixture
def about(tiny_bundle):
    return facts(tiny_bundle, H100, precision="fp16", sizes=(1, 2, 8, 32))


def test_a_plan_comes_back_as_it_was(about):
    assert unpacked(packed(about, "a1b2", PLAN), about, where="engine") == ("a1b2", PLAN)


def test_the_facts_are_text_that_a_cache_can_take_a_key_of(about, tiny_bundle):
    assert {type(value) for value in about.values()} == {str}
    assert about["model"] == tiny_bundle.hashes["model.onnx"]
    assert about["batches"] == "1 2 8 32"


def test_an_int8_engine_is_one_of_the_int8_graph(tiny_bundle):
    bundle = replace(tiny_bundle, hashes={**tiny_bundle.hashes, "model.int8.onnx": "abc"})

    assert facts(bundle, H100, precision="int8", sizes=(1,))["graph"] == "abc"
    assert facts(tiny_bundle, H100, precision="int8", sizes=(1,))["graph"] == "own"


@pytest.mark.parametrize(
    ("gpu", "precision", "sizes", "said"),
    [
        (replace(H100, name="NVIDIA A100", architecture="sm_80"), "fp16", (1, 2, 8, 32), "architecture 'sm_90'"),
        (replace(H100, driver="13.1"), "fp16", (1, 2, 8, 32), "driver '13.0', expected '13.1'"),
        (replace(H100, tensorrt="11.5.0"), "fp16", (1, 2, 8, 32), "tensorrt '11.4.0', expected '11.5.0'"),
        (H100, "bf16", (1, 2, 8, 32), "precision 'fp16', expected 'bf16'"),
        (H100, "fp16", (1, 4, 16), "batches '1 2 8 32', expected '1 4 16'"),
    ],
    ids=["device", "driver", "library", "precision", "batches"],
)
def test_an_engine_of_other_facts_is_refused(about, tiny_bundle, gpu, precision, sizes, said):
    expected = facts(tiny_bundle, gpu, precision=precision, sizes=sizes)

    with pytest.raises(EngineError, match=f"engine: built for {said}.*build it again"):
        unpacked(packed(about, "a1b2", PLAN), expected, where="engine")


def test_an_engine_of_another_model_is_refused(about, other_bundle):
    expected = facts(other_bundle, H100, precision="fp16", sizes=(1, 2, 8, 32))

    with pytest.raises(EngineError, match="built for input '8 x 2500', expected '12 x 600'"):
        unpacked(packed(about, "a1b2", PLAN), expected, where="engine")


@pytest.mark.parametrize("at", [0, len(PLAN) // 2, len(PLAN) - 1])
def test_a_plan_with_one_other_bit_is_refused(about, at):
    raw = bytearray(packed(about, "a1b2", PLAN))
    raw[len(raw) - len(PLAN) + at] ^= 1

    with pytest.raises(EngineError, match="damaged"):
        unpacked(bytes(raw), about, where="engine")


@pytest.mark.parametrize("keep", [0, 5, 17, 30, -1], ids=lambda n: f"first-{n}-bytes")
def test_an_engine_cut_short_is_refused(about, keep):
    with pytest.raises(EngineError, match="build it again"):
        unpacked(packed(about, "a1b2", PLAN)[:keep], about, where="engine")


@pytest.mark.parametrize(
    "raw",
    [
        PLAN,
        b"ecgbatch engine 2\n{}\n",
        b"ecgbatch engine 1\n[]\nx",
        b"ecgbatch engine 1\n\xff\xfe\nx",
        b'ecgbatch engine 1\n{"facts": 1, "graph_sha256": "", "plan_sha256": ""}\nx',
    ],
    ids=["a bare plan", "a later version", "no facts", "no text", "facts of another kind"],
)
def test_what_is_no_engine_file_is_refused(about, raw):
    with pytest.raises(EngineError, match="not an engine of this version"):
        unpacked(raw, about, where="engine")


def test_a_plan_of_the_bundles_own_tensors_is_taken(tiny_bundle):
    refuse_tensors(tensors(), (1, 8), tiny_bundle, sizes=(1, 8))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": Tensor(is_input=True, dtype="FLOAT", shape=(-1, 12, 2500))}, "x is"),
        ({"x": Tensor(is_input=True, dtype="HALF", shape=(-1, 8, 2500))}, "x is"),
        ({"logits": Tensor(is_input=False, dtype="FLOAT", shape=(-1, 6))}, "logits is"),
        ({"embedding": Tensor(is_input=True, dtype="FLOAT", shape=(-1, 16))}, "embedding is"),
        ({"second": Tensor(is_input=True, dtype="FLOAT", shape=(-1, 1))}, "engine of"),
    ],
    ids=["leads", "type", "labels", "direction", "one more"],
)
def test_a_plan_of_other_tensors_is_refused(changed, said, tiny_bundle):
    with pytest.raises(EngineError, match=said):
        refuse_tensors(tensors() | changed, (1, 8), tiny_bundle, sizes=(1, 8))


def test_a_plan_that_lacks_a_tensor_is_refused(tiny_bundle):
    without = {name: tensor for name, tensor in tensors().items() if name != "embedding"}

    with pytest.raises(EngineError, match=r"engine of \['logits', 'x'\]"):
        refuse_tensors(without, (1, 8), tiny_bundle, sizes=(1, 8))


def test_a_plan_of_other_batches_is_refused(tiny_bundle):
    with pytest.raises(EngineError, match=r"batches of \(1, 4\), expected \(1, 8\)"):
        refuse_tensors(tensors(), (1, 4), tiny_bundle, sizes=(1, 8))


def tensors():
    return {
        "x": Tensor(is_input=True, dtype="FLOAT", shape=(-1, 8, 2500)),
        "logits": Tensor(is_input=False, dtype="FLOAT", shape=(-1, 5)),
        "embedding": Tensor(is_input=False, dtype="FLOAT", shape=(-1, 16)),
    }
