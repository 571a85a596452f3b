"""What TensorRT's ONNX parser takes, against the graphs of the shipped bundles in every precision."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ecgbatch import bundle  # noqa: E402

OPSETS = range(9, 25 + 1)  # docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html, TensorRT 11
FLOATS = {"FLOAT", "FLOAT16", "BFLOAT16"}
TAKEN = {
    "Add": FLOATS,
    "AveragePool": FLOATS,
    "Cast": FLOATS,
    "Concat": FLOATS,
    "Conv": FLOATS,
    "DequantizeLinear": {"INT8"},
    "Flatten": FLOATS,
    "Gemm": FLOATS,
    "GlobalAveragePool": FLOATS,
    "GlobalMaxPool": FLOATS,
    "Identity": FLOATS,
    "MatMul": FLOATS,
    "MaxPool": FLOATS,
    "Mul": FLOATS,
    "QuantizeLinear": FLOATS,
    "ReduceMax": FLOATS,
    "ReduceMean": FLOATS,
    "Relu": FLOATS,
    "Reshape": FLOATS,
    "Sigmoid": FLOATS,
    "Squeeze": FLOATS,
    "Sub": FLOATS,
    "Transpose": FLOATS,
    "Unsqueeze": FLOATS,
}
"""The part we may need of github.com/onnx/onnx-tensorrt, docs/operators.md, as of TensorRT 10.15: the operators marked
Y and the types they take. Its restrictions on them are `restrictions` below."""

GRAPHS = {
    f"{found.name}-{precision}": (found, precision)
    for found in bundle.shipped()
    for precision in ("fp32", "fp16", "bf16", "int8")
    if precision != "int8" or (found.folder / "model.int8.onnx").exists()
}


@pytest.fixture(params=GRAPHS)
def graph(request, trt_graph):
    return onnx.load(trt_graph(*GRAPHS[request.param]))


def test_the_parser_takes_every_operator_in_its_type(graph):
    assert refusals(graph) == []


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([helper.make_node("ConvInteger", ["x", "w"], ["y"])], "y: ConvInteger"),
        ([helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1])], "y: Conv of rank 1"),
        ([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], "y: axes are computed"),
        ([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[1, 2], dilations=[1, 2])], "y: dilated"),
        ([helper.make_node("QuantizeLinear", ["x", "w", "one"], ["y"])], "y: zero point"),
    ],
    ids=["operator", "rank", "axes", "dilations", "zero-point"],
)
def test_what_the_parser_does_not_take_is_noticed(nodes, expected):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.ones((1,), np.float32), "w"), numpy_helper.from_array(np.int8(1), "one")]
    made = helper.make_graph(nodes, "made", [value], [], weights)

    assert refusals(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])) == [expected]


def test_an_opset_that_is_too_new_is_noticed():
    made = helper.make_graph([], "made", [], [])

    assert refusals(helper.make_model(made, opset_imports=[helper.make_opsetid("", 26)])) == ["opset 26"]


def refusals(model):
    """Why TensorRT's parser would not take a graph, by its published list."""
    found = [f"opset {opset.version}" for opset in model.opset_import if opset.domain or opset.version not in OPSETS]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {name: tensor.data_type for name, tensor in weights.items()}
    for node in model.graph.node:
        found += [f"{node.output[0]}: {why}" for why in restrictions(node, weights, types)]
    return found


def restrictions(node, weights, types):
    """Why the parser would not take this node."""
    if node.domain or node.op_type not in TAKEN:
        yield node.op_type
        return
    type_ = TensorProto.DataType.Name(types[node.input[0]])
    if type_ not in TAKEN[node.op_type]:
        yield f"{node.op_type} of {type_}"
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in ("Conv", "AveragePool", "MaxPool"):
        if len(attributes["kernel_shape"]) not in (2, 3):
            yield f"{node.op_type} of rank {len(attributes['kernel_shape'])}"
        if "Pool" in node.op_type and set(attributes.get("dilations", [1])) != {1}:
            yield "dilated"
    if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in weights:
        yield "axes are computed"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
        point = weights.get(node.input[2])
        if point is None or numpy_helper.to_array(point).any():
            yield "zero point"
