"""Channels nearer to one size: the same function, and what is left alone."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import synth
from ecgbatch.bundle import Bundle
from ecgbatch.feed import host

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from ecgbatch.network import Network  # noqa: E402
from ecgbatch.train import activations, export  # noqa: E402
from ecgbatch.train.equalise import equalised, streams  # noqa: E402

N = 8


@pytest.fixture(scope="module")
def x(tiny_bundle: Bundle) -> np.ndarray:
    found = np.empty((N, 8, 2500), np.float32)
    for seed, row in enumerate(found):
        host.normalise(synth.record(seed=seed), tiny_bundle.input, row)
    return found


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


class Between(torch.nn.Module):
    """Something between two convolutions over all channels."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = (torch.nn.Conv2d(8, 8, 1) for _ in range(2))
        self.each = torch.nn.Conv2d(8, 8, (1, 3), groups=8)
        self.between = between

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.leave(self.between(self.enter(x.unsqueeze(2)))).mean((2, 3))
        return embedding.clone(), embedding


CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], bool]] = {
    "nothing": (lambda x: x, True),
    "a mean over time": (lambda x: x.mean((2, 3), keepdim=True), True),
    "a product with a number": (lambda x: x * 3, True),
    "a sum with a number": (lambda x: x + 3, False),
    "its own square": (lambda x: x * x, False),
    "a mean over channels": (lambda x: x + x.mean(1, keepdim=True), False),
    "a sigmoid": (lambda x: x.sigmoid(), False),
    "parts side by side": (lambda x: torch.cat([x[:, :4].relu(), x[:, 4:]], 1), False),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_lets_a_factor_through_is_passed(name, tmp_path, x):
    between, passes = CASES[name]
    export.write_onnx(tmp_path / "model.onnx", Between(between).eval(), n_leads=8, n_samples=2500)
    model = onnx.load(tmp_path / "model.onnx")
    equal = equalised(model, x)

    before, after = (tensors(each, ["embedding"], x)["embedding"] for each in (model, equal))

    assert bool(list(streams(model))) == passes
    assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_a_convolution_a_channel_is_left_alone(tmp_path, x):
    network = Between(lambda x: x)
    network.between = network.each
    export.write_onnx(tmp_path / "model.onnx", network.eval(), n_leads=8, n_samples=2500)
    model = onnx.load(tmp_path / "model.onnx")

    assert not list(streams(model))
    assert_array_equal(weights(equalised(model, x))["enter.weight"], weights(model)["enter.weight"])


@pytest.mark.parametrize("at", [1, 2], ids=["weights", "bias"])
def test_convolutions_that_share_something_are_left_alone(at, tmp_path, x):
    export.write_onnx(tmp_path / "model.onnx", Between(lambda x: x).eval(), n_leads=8, n_samples=2500)
    model = onnx.load(tmp_path / "model.onnx")
    enter, leave = (node for node in model.graph.node if node.op_type == "Conv")
    leave.input[at] = enter.input[at]

    assert not list(streams(model))
    assert_array_equal(weights(equalised(model, x))["enter.weight"], weights(model)["enter.weight"])
