"""What a plan depends on, and that the plan of something else is not used."""

from dataclasses import replace

import pytest

from ecgbatch.errors import EngineError
from ecgbatch.runtimes.engine_file import Gpu, Tensor, facts, refuse_tensors

H100 = Gpu(name="NVIDIA H100 80GB HBM3", architecture="sm_90", driver="13.0", tensorrt="11.4.0")


@pytest.fixture
def about(tiny_bundle):
    return facts(tiny_bundle, H100, precision="fp16", sizes=(1, 2, 8, 32))


def test_the_facts_are_text_that_a_cache_can_take_a_key_of(about, tiny_bundle):
    assert {type(value) for value in about.values()} == {str}
    assert about["model"] == tiny_bundle.hashes["model.onnx"]
    assert about["batches"] == "1 2 8 32"


def test_an_int8_engine_is_one_of_the_int8_graph(tiny_bundle):
    bundle = replace(tiny_bundle, hashes={**tiny_bundle.hashes, "model.int8.onnx": "abc"})

    assert facts(bundle, H100, precision="int8", sizes=(1,))["graph"] == "abc"
    assert facts(tiny_bundle, H100, precision="int8", sizes=(1,))["graph"] == "own"


@pytest.mark.parametrize(
    ("gpu", "precision", "sizes", "changed"),
    [
        (replace(H100, name="NVIDIA A100", architecture="sm_80"), "fp16", (1, 2, 8, 32), {"gpu", "architecture"}),
        (replace(H100, driver="13.1"), "fp16", (1, 2, 8, 32), {"driver"}),
        (replace(H100, tensorrt="11.5.0"), "fp16", (1, 2, 8, 32), {"tensorrt"}),
        (H100, "bf16", (1, 2, 8, 32), {"precision"}),
        (H100, "fp16", (1, 4, 16), {"batches"}),
    ],
    ids=["device", "driver", "library", "precision", "batches"],
)
def test_another_gpu_library_precision_or_batch_is_another_fact(about, tiny_bundle, gpu, precision, sizes, changed):
    other = facts(tiny_bundle, gpu, precision=precision, sizes=sizes)

    assert {name for name in about if about[name] != other[name]} == changed


def test_another_model_or_other_labels_are_other_facts(about, tiny_bundle, other_bundle):
    other = facts(other_bundle, H100, precision="fp16", sizes=(1, 2, 8, 32))
    recalibrated = replace(tiny_bundle, hashes={**tiny_bundle.hashes, "labels.csv": "abc"})

    assert other["model"] != about["model"]
    assert facts(recalibrated, H100, precision="fp16", sizes=(1, 2, 8, 32))["labels"] == "abc"


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
