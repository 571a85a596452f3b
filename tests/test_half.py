"""Half precision in the graph: what is half, what stays float32, and how far the probabilities move."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'train'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ecgbatch import golden  # noqa: E402
from ecgbatch.bundle import find  # noqa: E402
from ecgbatch.errors import BundleError  # noqa: E402
from ecgbatch.feed import host  # noqa: E402
from ecgbatch.train.half import LARGEST_WINDOW, write_half  # noqa: E402

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LIMIT = {
    "fp16": 2e-3,  # 11 bits: the probabilities of `foundation` move by 6e-4
    "bf16": 1e-2,  # 8 bits: they move by 1.4e-3; eight times fp16's rounding, so the limit leaves as much room
}
"""Largest move of a probability on the reference ECGs."""


@pytest.fixture(scope="module")
def foundation():
    return find("foundation")


@pytest.fixture(scope="module", params=HALF)
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def graph(foundation, precision, tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / f"model.{precision}.onnx"
    write_half(foundation.folder / "model.onnx", out, precision=precision)
    return out


@pytest.fixture(scope="module")
def reference(foundation):
    records, expected = golden.load(foundation)
    x = np.empty((len(records), len(foundation.input.leads), foundation.input.samples), np.float32)
    for record, row in zip(records, x, strict=True):
        host.normalise(record, foundation.input, row)
    return x, expected


def test_every_convolution_has_half_weights(graph, precision):
    model = onnx.load(graph)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]

    assert len(convolutions) == 25
    assert {types[name] for node in convolutions for name in node.input[1:]} == {HALF[precision]}


def test_input_outputs_means_and_head_stay_float32(graph):
    model = onnx.load(graph)
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    types = tensor_types(graph)
    sensitive = [node for node in model.graph.node if node.op_type in ("ReduceMean", "Gemm")]

    assert set(ends) == {TensorProto.FLOAT}
    assert len(sensitive) == 5
    assert {types[name] for node in sensitive for name in (node.input[0], *node.output)} == {TensorProto.FLOAT}


def test_a_tensor_is_cast_once_for_all_that_read_it(graph):
    casts = [(node.input[0], node.attribute[0].i) for node in onnx.load(graph).graph.node if node.op_type == "Cast"]

    assert len(casts) == len(set(casts))


def test_the_file_is_about_half_as_large(graph, foundation):
    assert graph.stat().st_size < 0.55 * (foundation.folder / "model.onnx").stat().st_size


def test_rounding_every_tensor_moves_probabilities_less_than_the_limit(graph, precision, foundation, reference):
    x, expected = reference
    logits = rounding(graph, HALF[precision]).run(["logits"], {"x": x})[0]
    worst = np.abs(foundation.probabilities(logits) - expected).max()

    assert 1e-6 < worst < LIMIT[precision]


def test_onnx_runtime_runs_the_fp16_graph(foundation, reference, tmp_path):
    x, expected = reference
    write_half(foundation.folder / "model.onnx", tmp_path / "fp16.onnx", precision="fp16")
    session = ort.InferenceSession(tmp_path / "fp16.onnx", providers=["CPUExecutionProvider"])
    logits, embedding = session.run(["logits", "embedding"], {"x": x})

    assert logits.dtype == embedding.dtype == np.float32
    assert np.abs(foundation.probabilities(logits) - expected).max() < LIMIT["fp16"]


def test_a_weight_beyond_fp16_is_refused_and_held_by_bf16(tmp_path):
    source = convolution(tmp_path / "large.onnx", weight=70_000.0)

    with pytest.raises(BundleError, match=r"weight 'w' reaches 7e\+04, expected at most 6.55e\+04 for fp16"):
        write_half(source, tmp_path / "fp16.onnx", precision="fp16")
    assert not (tmp_path / "fp16.onnx").exists()
    write_half(source, tmp_path / "bf16.onnx", precision="bf16")
    assert (
        numpy_helper.to_array(onnx.load(tmp_path / "bf16.onnx").graph.initializer[0]).astype(float) == 70_144
    )  # 8 bits


@pytest.mark.parametrize("weight", [np.nan, np.inf], ids=str)
def test_a_weight_that_is_no_number_is_refused(weight, tmp_path, precision):
    source = convolution(tmp_path / "broken.onnx", weight=weight)

    with pytest.raises(BundleError, match="weight 'w' reaches"):
        write_half(source, tmp_path / "out.onnx", precision=precision)


@pytest.mark.parametrize(("window", "type_"), [(LARGEST_WINDOW, "fp16"), (LARGEST_WINDOW + 1, "fp32")])
def test_a_long_mean_is_taken_in_float32(window, type_, tmp_path):
    source = convolution(tmp_path / "pooled.onnx", weight=1.0, window=window)
    write_half(source, tmp_path / "out.onnx", precision="fp16")
    types = tensor_types(tmp_path / "out.onnx")

    assert types["pooled"] == (TensorProto.FLOAT16 if type_ == "fp16" else TensorProto.FLOAT)


def test_what_is_no_graph_is_refused(tmp_path, precision):
    node = helper.make_node("Conv", ["x"], ["logits"])  # lacks its weights
    model = helper.make_model(helper.make_graph([node], "broken", [value("x")], [value("logits")]))
    onnx.save(model, tmp_path / "broken.onnx")

    with pytest.raises(BundleError, match=r"broken.onnx: cannot be written in"):
        write_half(tmp_path / "broken.onnx", tmp_path / "out.onnx", precision=precision)


def convolution(path, *, weight, window=2):
    """x -> Conv -> AveragePool -> Relu, one weight."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["convolved"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["convolved"], ["pooled"], kernel_shape=[1, window]),
        helper.make_node("Relu", ["pooled"], ["rectified"]),
        helper.make_node("Identity", ["rectified"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "w")]
    graph = helper.make_graph(nodes, "convolution", [value("x")], [value("logits")], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["record", 1, 1, "time"])


def tensor_types(path: Path):
    """Element type of every tensor of a graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}


def rounding(path, half):
    """The graph in float32 that rounds every tensor that is half: what hardware does that adds up in float32.

    ONNX Runtime has no bfloat16 convolution on a CPU, and computes an fp16 one in float32 without rounding between.
    """
    types = tensor_types(path)
    model = onnx.load(path)
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(node)
        for at, name in enumerate(node.output):
            if types[name] == half:
                node.output[at] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_rounded"], to=half))
                nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it would drop the pairs of casts
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
