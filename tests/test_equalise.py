"""Channels nearer to one size: the same function, and what is left alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from ecgbatch.network import Network  # noqa: E402
from ecgbatch.train import activations, export  # noqa: E402
from ecgbatch.train.equalise import equalised, streams  # noqa: E402


@pytest.fixture(scope="module")
def x(tiny_input: np.ndarray) -> np.ndarray:
    return tiny_input[:8]


def tensors(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for name, value in activations.values(model, names, x):
        found.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A residual network with squeeze-and-excitation, some of whose channels reach a hundred times what others do."""
    torch.manual_seed(1)
    network = Network(
        n_leads=8,
        n_labels=3,
        widths=[4, 8, 16],
        depths=[2, 1],
        kernel=3,
        stem_kernel=5,
        squeezed=[False, True],
        dropout=0.0,
    ).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # else there would be no biases
                layer.bias.normal_()
                layer.running_mean.normal_()
        network.stem[0][0].weight[0] *= 100
        network.stages[0].second[0].weight[1] *= 30
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export.write_onnx(path, network, n_leads=8, n_samples=2500)
    return onnx.load(path)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_an_equalised_graph_says_what_it_said_before(model, x):
    before, after = (tensors(each, ["logits", "embedding"], x) for each in (model, equalised(model, x)))

    for name, expected in before.items():
        assert_allclose(after[name], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_channels_of_a_stream_reach_nearer_to_the_same(model, x):
    (stem,) = [stream for stream in streams(model) if "stem.0.weight" in stream.made_by[0].input]
    (name,) = [node.output[0] for node in model.graph.node if node.op_type == "Relu" and node.output[0] in stem.tensors]

    before, after = (tensors(each, [name], x)[name].max(axis=(0, 2, 3)) for each in (model, equalised(model, x)))

    assert before.max() / np.median(before) > 20
    assert_allclose(after / after.max(), np.sqrt(before / before.max()), rtol=1e-3)


def test_a_residual_stream_is_one_from_its_first_convolution_to_those_that_leave_it(model):
    made_by = [{node.input[1] for node in stream.made_by} for stream in streams(model)]
    read_by = [{node.input[1] for node in stream.read_by} for stream in streams(model)]

    at = made_by.index({"stages.0.second.weight", "stages.0.shortcut.1.weight", "stages.1.second.weight"})
    assert read_by[at] == {"stages.1.first.weight", "stages.2.first.weight", "stages.2.shortcut.1.weight"}


def test_what_reaches_an_input_or_output_of_the_graph_keeps_its_size(model, x):
    equal = equalised(model, x)
    named = {name for stream in streams(model) for name in stream.tensors}

    assert not named & {end.name for end in (*model.graph.input, *model.graph.output)}
    for name, axes in (("stem.0.weight", (1, 2, 3)), ("stages.2.second.weight", (0, 2, 3))):
        ratio = weights(equal)[name] / weights(model)[name]
        assert_allclose(np.ptp(ratio, axis=axes), 0, atol=1e-4)  # of one end only does the size change
    assert "stages.2.second.weight" not in {node.input[1] for stream in streams(model) for node in stream.made_by}


Nodes = list[tuple[str, list[str], list[str]]]
"""Operator, what it reads and what it writes: `a` comes from one convolution, `b` goes into the next."""

CASES: dict[str, tuple[Nodes, bool]] = {
    "a relu": ([("Relu", ["a"], ["b"])], True),
    "a mean over time": ([("ReduceMean", ["a", "time"], ["b"])], True),
    "a product with a number": ([("Mul", ["a", "three"], ["b"])], True),
    "a product with a gate": ([("Sigmoid", ["x"], ["gate"]), ("Mul", ["a", "gate"], ["b"])], True),
    "a sum with a number": ([("Add", ["a", "three"], ["b"])], False),
    "a sum with a gate": ([("Sigmoid", ["x"], ["gate"]), ("Add", ["a", "gate"], ["b"])], False),
    "its own square": ([("Mul", ["a", "a"], ["b"])], False),
    "a mean over channels": ([("ReduceMean", ["a", "channel"], ["mean"]), ("Add", ["a", "mean"], ["b"])], False),
    "a sigmoid": ([("Sigmoid", ["a"], ["b"])], False),
    "parts side by side": ([("Split", ["a"], ["low", "high"]), ("Concat", ["high", "low"], ["b"])], False),
    "a convolution a channel": ([("Conv", ["a", "each"], ["b"])], False),
}
ATTRIBUTES: dict[str, dict[str, int]] = {"Split": {"axis": 1, "num_outputs": 2}, "Concat": {"axis": 1}}


def between(nodes: Nodes) -> onnx.ModelProto:
    """A graph of two convolutions over all of eight channels, with these nodes between them."""
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(size=(8, 8, 1, 1)).astype(np.float32) for name in ("enter", "leave")}
    arrays |= {f"{name} bias": rng.normal(size=8).astype(np.float32) for name in ("enter", "leave")}
    arrays |= {"each": np.ones((8, 1, 1, 1), np.float32), "three": np.float32(3)}
    arrays |= {"time": np.array([3]), "channel": np.array([1])}
    arrays["enter"][0] *= 100
    inner = [
        helper.make_node(kind, read, write, **({"group": 8} if kind == "Conv" else ATTRIBUTES.get(kind, {})))
        for kind, read, write in nodes
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 8, 1, None]) for name in ("x", "y")]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "enter", "enter bias"], ["a"]),
            *inner,
            helper.make_node("Conv", ["b", "leave", "leave bias"], ["y"]),
        ],
        "between",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(4, 8, 1, 20)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_only_what_lets_a_factor_through_is_passed(name, noise):
    nodes, passes = CASES[name]
    model = between(nodes)
    equal = equalised(model, noise)

    before, after = (tensors(each, ["y"], noise)["y"] for each in (model, equal))

    assert bool(list(streams(model))) == passes
    assert np.array_equal(weights(equal)["enter"], weights(model)["enter"]) == (not passes)
    assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("at", [1, 2], ids=["weights", "bias"])
def test_convolutions_that_share_something_are_left_alone(at, noise):
    model = between(CASES["a relu"][0])
    enter, leave = (node for node in model.graph.node if node.op_type == "Conv")
    leave.input[at] = enter.input[at]

    assert not list(streams(model))
    assert_array_equal(weights(equalised(model, noise))["enter"], weights(model)["enter"])
