"""Int8 graphs: what is rounded, what is held back, and that records do not see each other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch.bundle import Bundle, find
from ecgbatch.errors import EngineError

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from ecgbatch.network import Network  # noqa: E402
from ecgbatch.runtimes import cpu, eager  # noqa: E402
from ecgbatch.train import export, quantise  # noqa: E402

LAYERS = ["stem.0.weight", "stages.0.first.weight", "stages.0.second.weight", "stages.0.shortcut.1.weight"]


@pytest.fixture(scope="module")
def x(tiny_input: np.ndarray) -> np.ndarray:
    return tiny_input


@pytest.fixture
def int8(tiny_bundle: Bundle, x: np.ndarray, tmp_path: Path) -> Path:
    """The graph with every layer in int8."""
    model, out = onnx.load(tiny_bundle.folder / "model.onnx"), tmp_path / "model.int8.onnx"
    quantise.write_int8(model, out, quantise.measured(model, x), clipped=0.0, held=())
    return out


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def reads_int8(model: onnx.ModelProto) -> set[str]:
    """Names of the weights of the convolutions whose samples and weights come from 8 bits."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    kinds = {node.name: [made_by.get(name) for name in node.input[:2]] for node in model.graph.node}
    return {
        node.input[1].removesuffix("_dequantised")
        for node in model.graph.node
        if node.op_type == "Conv" and all(one and one.op_type == "DequantizeLinear" for one in kinds[node.name])
    }


def test_every_convolution_over_time_is_in_int8_and_nothing_else(int8):
    model = onnx.load(int8)

    assert reads_int8(model) == set(LAYERS)
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert constants(model)[head.input[1]].dtype == np.float32


def test_scales_are_symmetric_with_one_a_channel_of_the_weights(int8, tiny_bundle):
    model = onnx.load(int8)
    values, before = constants(model), constants(onnx.load(tiny_bundle.folder / "model.onnx"))

    assert not any(zero.any() for name, zero in values.items() if name.endswith("_zero"))
    for name in LAYERS:
        scale = values[f"{name}_scale"][:, None, None, None]
        assert values[f"{name}_quantised"].dtype == np.int8
        assert_allclose(values[f"{name}_quantised"] * scale, before[name], atol=scale.max() / 2 * 1.001)


def test_no_two_products_of_a_weight_and_an_activation_exceed_16_bits(int8):
    values = constants(onnx.load(int8))

    largest = max(np.abs(values[f"{name}_quantised"].astype(int)).max() for name in LAYERS)
    assert largest == quantise.STEPS
    assert 2 * 255 * largest < 2**15


@pytest.mark.parametrize("name", ["foundation", "brugada"])
def test_the_graphs_that_ship_do_not_overflow_either(name):
    graph = onnx.load(find(name).folder / "model.int8.onnx")
    weights = [values for key, values in constants(graph).items() if key.endswith("weight_quantised")]

    assert len(weights) > 10
    assert max(np.abs(values.astype(int)).max() for values in weights) == quantise.STEPS


def test_a_convolution_without_a_bias_gets_one(int8, tiny_bundle):
    before, after = onnx.load(tiny_bundle.folder / "model.onnx"), onnx.load(int8)

    has_none = {node.input[1] for node in before.graph.node if node.op_type == "Conv" and len(node.input) == 2}
    assert has_none
    assert all(len(node.input) == 3 for node in after.graph.node if node.op_type == "Conv")
    assert all(np.abs(constants(after)[f"{name}_bias"]).max() > 0 for name in has_none & set(LAYERS))


def test_convolutions_that_share_their_weights_stay_in_float32(tiny_bundle):
    model = onnx.load(tiny_bundle.folder / "model.onnx")
    reads = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
    reads["stages.0.shortcut.1.weight"].input[1] = "stages.0.first.weight"

    assert quantise.convolutions(model) == ["stem.0.weight", "stages.0.second.weight"]


def test_rounded_weights_do_not_move_a_layers_mean(x, tmp_path):
    before = onnx.load(find("foundation").folder / "model.onnx")
    found = quantise.measured(before, x)
    quantise.write_int8(before, tmp_path / "out.onnx", found, clipped=0.0, held=())
    (node,) = [node for node in before.graph.node if "stages.3.second.weight" in node.input]
    read, weight, bias = node.input
    old, new = constants(before), constants(onnx.load(tmp_path / "out.onnx"))

    rounded = new[f"{weight}_quantised"] * new[f"{weight}_scale"][:, None, None, None]
    error = (rounded - old[weight]).sum((2, 3)) @ found.means[read]

    assert np.abs(error).max() > 1e-3
    assert_allclose(new[bias] + error, old[bias], atol=1e-5)


def test_only_what_is_never_negative_is_unsigned(int8):
    model = onnx.load(int8)
    values = constants(model)
    unsigned = {
        node.input[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and values[node.input[2]].dtype == np.uint8
    }
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}

    assert {made_by[name] for name in unsigned} == {"Relu", "AveragePool"}


def test_the_signed_graph_has_no_unsigned_tensor_and_says_nearly_the_same(int8, tiny_bundle, x, tmp_path):
    quantise.write_signed(int8, tmp_path / "signed.onnx")

    kinds = {values.dtype for values in constants(onnx.load(tmp_path / "signed.onnx")).values()}
    assert np.uint8 not in kinds
    signed, unsigned = (
        cpu.load(tiny_bundle, batch=8, precision="int8", graph=graph)(x)[0]
        for graph in (tmp_path / "signed.onnx", int8)
    )
    assert_allclose(tiny_bundle.probabilities(signed), tiny_bundle.probabilities(unsigned), atol=0.1)


def test_two_libraries_say_the_same_of_an_int8_graph(int8, tiny_bundle, x):
    session = onnxruntime.InferenceSession(int8, providers=["CPUExecutionProvider"])

    other = session.run(["logits"], {"x": x})[0]

    found = cpu.load(tiny_bundle, batch=8, precision="int8", graph=int8)(x)[0]
    assert_allclose(tiny_bundle.probabilities(found), tiny_bundle.probabilities(other), atol=0.03)


def test_openvino_runs_the_convolutions_in_int8(int8):
    import openvino as ov

    model = ov.Core().read_model(int8)
    model.reshape({"x": [8, 8, 2500]})
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [info["primitiveType"].astype(str) for info in infos if info["layerType"].astype(str) == "Convolution"]
    assert len([kind for kind in kinds if kind.endswith("_I8")]) == len(LAYERS)


def test_with_all_layers_held_back_the_graph_is_that_of_the_model(tiny_bundle, x, tmp_path):
    source = tiny_bundle.folder / "model.onnx"
    model = onnx.load(source)
    found, layers = quantise.measured(model, x), quantise.convolutions(model)
    quantise.write_int8(model, tmp_path / "held.onnx", found, clipped=0.0, held=layers)

    one, other = (cpu.load(tiny_bundle, batch=8, graph=graph)(x)[0] for graph in (source, tmp_path / "held.onnx"))

    assert_array_equal(one, other)


def test_a_range_is_the_largest_value_or_leaves_out_the_share_it_may(tiny_bundle, x):
    found = quantise.measured(onnx.load(tiny_bundle.folder / "model.onnx"), x).limits

    assert found[0.0]["unsqueeze"] == pytest.approx(np.abs(x).max(), rel=1e-6)
    for share in quantise.CLIPPED[1:]:
        assert (np.abs(x) > found[share]["unsqueeze"]).mean() <= share
        assert found[share]["unsqueeze"] <= found[0.0]["unsqueeze"]


def spoilt(bundle: Bundle) -> Network:
    """The bundle's network with weights in one layer that are huge, but meet a channel that is always zero."""
    network = eager.load(bundle).network
    block = network.stages[0]
    with torch.no_grad():
        block.first[1].bias[0] = -1e4  # so that its ReLU is 0
        block.second[0].weight[:, 0] = 1e3
    return network


def test_the_layer_that_harms_is_held_back_first_and_no_more_than_is_needed(tiny_bundle, x, tmp_path):
    source, out = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    export.write_onnx(source, spoilt(tiny_bundle), n_leads=8, n_samples=2500)

    def logits(graph: Path) -> np.ndarray:
        return cpu.load(tiny_bundle, batch=8, graph=graph)(x)[0]

    expected = logits(source)
    (choice,) = quantise.choices(source, out, x, logits, [lambda told: np.abs(told - expected).mean() < 0.1])

    assert choice.held == ("stages.0.second.weight",)
    assert reads_int8(onnx.load(out)) == set(LAYERS) - set(choice.held)


def test_a_stricter_standard_holds_more_back_of_layers_that_were_ranked_once(tiny_bundle, x, tmp_path):
    source, out = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    export.write_onnx(source, spoilt(tiny_bundle), n_leads=8, n_samples=2500)
    n_runs = 0

    def logits(graph: Path) -> np.ndarray:
        nonlocal n_runs
        n_runs += 1
        return cpu.load(tiny_bundle, batch=8, graph=graph)(x)[0]

    def at_most(n_int8: int) -> bool:
        return len(reads_int8(onnx.load(out))) <= n_int8

    standards = [lambda _: at_most(len(LAYERS) - 1), lambda _: at_most(len(LAYERS) - 3)]
    made = quantise.choices(source, out, x, logits, standards)

    first = next(made)
    n_first = n_runs
    second = next(made)

    assert first.held == ("stages.0.second.weight",)
    assert second.held[:1] == first.held
    assert reads_int8(onnx.load(out)) == set(LAYERS) - set(second.held)
    assert n_runs - n_first == 3 * len(quantise.CLIPPED) + 1  # of 1, 2 and 3 layers held, and the one that is kept


def test_where_nothing_is_near_enough_there_is_no_int8_graph(tiny_bundle, x, tmp_path):
    def logits(graph):
        return cpu.load(tiny_bundle, batch=8, graph=graph)(x)[0]

    source = tiny_bundle.folder / "model.onnx"
    with pytest.raises(EngineError, match=r"none of \d+ convolutions can be in int8"):
        next(quantise.choices(source, tmp_path / "out.onnx", x, logits, [lambda _: False]))


def test_an_int8_score_does_not_depend_on_the_records_beside_it(int8, tiny_bundle, x):
    engine = cpu.load(tiny_bundle, batch=8, precision="int8", graph=int8)
    beside = x.copy()
    beside[:3] *= 40
    beside[4:] = x[::-1][: len(x) - 4] * 0.01

    among, alone = engine(x)[0][3], engine(x[3:4])[0][0]

    assert_array_equal(engine(beside)[0][3], among)
    assert_array_equal(alone, among)


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_an_int8_score_does_not_depend_on_the_size_of_the_batch(int8, tiny_bundle, x, batch):
    one, other = (cpu.load(tiny_bundle, batch=n, precision="int8", graph=int8)(x)[0] for n in (8, batch))

    assert_allclose(tiny_bundle.probabilities(other), tiny_bundle.probabilities(one), atol=1e-5)


def test_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = "import ecgbatch.train.quantise, ecgbatch.train.export"
    subprocess.run([sys.executable, "-P", "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)

    assert not list(tmp_path.iterdir())
