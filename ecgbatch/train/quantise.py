"""A bundle's graph in int8: quantise and dequantise pairs around its convolutions, ranges measured on real ECGs.

Weights are symmetric, a scale a channel, and 7 bits wide; activations symmetric int8, a scale a tensor, but uint8 with
zero point 0 where a ReLU or a pool of one makes them positive: twice the resolution, and OpenVINO adds shortcuts
without the arithmetic of a zero point. `write_signed` gives the same graph in int8 alone, for TensorRT.
What stays in float32: the head, the few multiplications of squeeze-and-excitation, and every convolution that is held
back.

A graph is equalised before it is rounded, and a convolution's bias takes back what rounding adds on average to what it
writes. So a convolution that is held back has not the weights of the fp32 graph either, but says the same.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ecgbatch.errors import EngineError
from ecgbatch.train import activations
from ecgbatch.train.equalise import equalised

__all__ = [
    "CLIPPED",
    "STEPS",
    "Choice",
    "Measured",
    "choices",
    "convolutions",
    "measured",
    "write_int8",
    "write_signed",
]

STEPS = 63
"""Of a weight either side of 0. Processors without VNNI add two products in 16 bits: 2 × 255 × 63 fits, and no sum
saturates, so the graph says the same on all of them; activations err far more than what the eighth bit would give."""

CLIPPED = (0.0, 1e-5, 1e-4)
"""Shares of a tensor's values that its range may leave out; what serves one network best harms another."""
_BINS = 8192
Logits = Callable[[Path], np.ndarray]
"""What an engine says of the calibration ECGs with the graph of that file: (record, label)."""
Standard = Callable[[np.ndarray], bool]
"""Whether logits (record, label) of the calibration ECGs are near enough to fp32's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What real ECGs make of the tensors of a graph, by name."""

    limits: Mapping[float, Mapping[str, float]]
    """For each share in `CLIPPED`, the absolute value that only this share of a tensor's values exceeds."""
    means: Mapping[str, np.ndarray]
    """Of each channel of what a convolution reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a graph is quantised."""

    clipped: float
    held: tuple[str, ...]
    """Convolutions that stay in float32, by their weights' names, the most harmful first."""
    error: float
    """Root mean square of what the logits differ by from fp32's."""


def choices(source: Path, out: Path, x: np.ndarray, logits: Logits, standards: Iterable[Standard]) -> Iterator[Choice]:
    """Write the int8 graph of `source`, equalised, to `out`, once for each of the standards, which get stricter.

    As few convolutions are held back as a standard allows. They are ranked by the variance that each alone in int8
    brings into the logits of x (record, lead, time), for its share of the work, and the worst are held back, one more
    each time, until the standard says of the logits (record, label) that they are near enough; of the clippings that it
    says so of, that which errs least is taken.

    Raises:
        EngineError: not one convolution can be in int8.
    """
    model = equalised(onnx.load(source), x)
    found, expected = measured(model, x), logits(source)

    def error(held: Collection[str], clipped: float) -> tuple[float, np.ndarray]:
        write_int8(model, out, found, clipped=clipped, held=held)
        told = logits(out)
        return float(np.sqrt(np.mean((told - expected) ** 2))), told

    layers = convolutions(model)
    harm = {name: error([other for other in layers if other != name], CLIPPED[0])[0] for name in layers}
    work = _multiplications(model)
    ranked = sorted(layers, key=lambda name: -(harm[name] ** 2) / work[name])
    least = 0
    for keeps in standards:
        for n_held in range(least, len(ranked)):
            tried = {clipped: error(ranked[:n_held], clipped) for clipped in CLIPPED}
            if near := [clipped for clipped in CLIPPED if keeps(tried[clipped][1])]:
                break
        else:
            told = "within the limits on these ECGs, expected some; calibrate on other or more ECGs"
            raise EngineError(f"{source.parent.name}: none of {len(ranked)} convolutions can be in int8 {told}")
        best = min(near, key=lambda clipped: tried[clipped][0])
        error(ranked[:n_held], best)
        least = n_held  # fewer miss a stricter standard too
        yield Choice(clipped=best, held=tuple(ranked[:n_held]), error=tried[best][0])


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the weights of every convolution over time that can be quantised, in the order of the graph.

    Its weights and bias are its own, for both change. Those of squeeze-and-excitation see one number a channel: a
    thousandth of the work, and all of its error.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    n_reads = Counter(name for node in model.graph.node for name in node.input)
    own = {initializer.name for initializer in model.graph.initializer if n_reads[initializer.name] == 1}
    pooled = {name for name, node in made_by.items() if node.op_type in ("ReduceMean", "GlobalAveragePool")}
    for node in model.graph.node:  # in order, so that what follows from one pooled value is found too
        if node.op_type in ("Conv", "Relu", "Sigmoid") and node.input[0] in pooled:
            pooled.update(node.output)
    return [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Conv" and own.issuperset(node.input[1:]) and node.input[0] not in pooled
    ]


def _multiplications(model: onnx.ModelProto) -> dict[str, int]:
    """Of one ECG, by the name of each convolution's weights."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    size = {initializer.name: int(np.prod(initializer.dims[1:])) for initializer in model.graph.initializer}
    return {
        node.input[1]: size[node.input[1]] * int(np.prod(shapes[node.output[0]]))
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in size
    }


def measured(model: onnx.ModelProto, x: np.ndarray) -> Measured:
    """What x (record, lead, time) makes of every tensor that may be quantised."""
    wanted = {name for node in model.graph.node for name in (*node.input, *node.output)} & _tensors(model)
    reads = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    top: dict[str, float] = {}
    sums: dict[str, np.ndarray] = {}
    for name, value in activations.values(model, wanted, x):
        top[name] = max(top.get(name, 1e-12), float(np.abs(value).max()))
        if name in reads:
            sums[name] = sums.get(name, 0) + value.mean(axis=tuple(range(2, value.ndim))).sum(axis=0)
    counts = {name: np.zeros(_BINS, np.int64) for name in top}
    for name, value in activations.values(model, wanted, x):
        bins = np.minimum(np.abs(value.ravel()) * (_BINS / top[name]), _BINS - 1).astype(np.int64)
        counts[name] += np.bincount(bins, minlength=_BINS)
    return Measured(
        limits={share: {name: _limit(counts[name], top[name], share) for name in top} for share in CLIPPED},
        means={name: total / len(x) for name, total in sums.items()},
    )


def _limit(counts: np.ndarray, top: float, clipped: float) -> float:
    if clipped == 0.0:
        return top
    within = np.cumsum(counts) / counts.sum()
    return float((np.searchsorted(within, 1 - clipped) + 1) * top / _BINS)


def _tensors(model: onnx.ModelProto) -> set[str]:
    """Every float tensor that a convolution reads or writes, or a sum or product of such does."""
    kinds = ("Conv", "Relu", "Add", "Mul", "AveragePool", "Unsqueeze")
    weights = {initializer.name for initializer in model.graph.initializer}
    reads = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    return (reads | {name for node in model.graph.node if node.op_type in kinds for name in node.output}) - weights


def write_int8(model: onnx.ModelProto, out: Path, found: Measured, *, clipped: float, held: Collection[str]) -> None:
    """Write `model` with every convolution in int8 but those whose weights are `held`; ranges leave out `clipped`."""
    limits = found.limits[clipped]
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    taken = set(convolutions(model)) - set(held)
    _give_biases(graph, taken)
    weights = {initializer.name: initializer for initializer in graph.initializer}
    narrow = _narrow(graph.node, taken)
    positive = {name for node in graph.node if _is_positive(node) for name in node.output}
    positive |= {node.output[0] for node in graph.node if node.op_type == "AveragePool" and node.input[0] in positive}

    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}

    def pair(name: str) -> None:
        kind, steps = (np.uint8, 255) if name in positive else (np.int8, 127)
        graph.initializer.extend(_scale(name, np.float32(limits[name] / steps), kind(0)))
        nodes.extend(_pair(name))
        renamed[name] = f"{name}_dequantised"

    for end in graph.input:
        if end.name in narrow:
            pair(end.name)
    for node in list(graph.node):
        read = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Conv" and node.input[1] in taken:
            name = node.input[1]
            steps, scale = _rounded(weights[name])
            nodes.append(_weights(graph, name, steps, scale))
            read[1] = f"{name}_dequantised"
            error = steps * _over(scale, steps) - numpy_helper.to_array(weights[name])
            _correct(weights[node.input[2]], error, mean=found.means[node.input[0]])
        node.input[:] = read
        nodes.append(node)
        for name in node.output:
            if name in narrow:
                pair(name)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    onnx.checker.check_model(quantised)
    onnx.save(quantised, out)


def write_signed(source: Path, out: Path) -> None:
    """Write an int8 graph with all activations in int8, each positive one with half the steps: for TensorRT."""
    model = onnx.load(source)
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and numpy_helper.to_array(initializers[node.input[2]]).dtype == np.uint8:
            name, scale = node.input[0], numpy_helper.to_array(initializers[node.input[1]])
            for old, new in zip(node.input[1:], _scale(name, np.float32(scale * 255 / 127), np.int8(0)), strict=True):
                initializers[old].CopyFrom(new)
    onnx.checker.check_model(model)
    onnx.save(model, out)


def _narrow(nodes: Iterable[onnx.NodeProto], taken: Collection[str]) -> set[str]:
    """The tensors that are rounded to 8 bits.

    What a convolution in int8 reads; and what it writes where two convolutions are added, of one of them, so that the
    sum becomes part of the other; and where a product reads it too, so that it is read twice in a quarter of the bytes.
    """
    listed = list(nodes)
    narrow = {node.input[0] for node in listed if node.op_type == "Conv" and node.input[1] in taken}
    written = {node.output[0] for node in listed if node.op_type == "Conv" and node.input[1] in taken}
    for node in listed:
        if node.op_type == "Add" and node.input[1] in written:
            narrow.add(node.input[1])
        if node.op_type == "Mul":
            narrow |= written & set(node.input)
    return narrow


def _is_positive(node: onnx.NodeProto) -> bool:
    return node.op_type == "Relu"


def _scale(name: str, scale: Any, zero: Any) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.asarray(scale), f"{name}_scale"),
        numpy_helper.from_array(np.asarray(zero), f"{name}_zero"),
    ]


def _pair(name: str) -> list[onnx.NodeProto]:
    scale = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *scale], [f"{name}_quantised"], f"{name}_quantise"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_quantised", *scale], [f"{name}_dequantised"], f"{name}_dequantise"
        ),
    ]


def _rounded(weights: onnx.TensorProto) -> tuple[np.ndarray, np.ndarray]:
    """A convolution's weights in steps, and the scale of each channel that it writes."""
    values = numpy_helper.to_array(weights)
    most = np.abs(values).max(axis=tuple(range(1, values.ndim)))
    scale = np.maximum(most, 1e-12).astype(np.float32) / STEPS
    return np.round(values / _over(scale, values)).astype(np.int8), scale


def _over(scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    return scale.reshape(-1, *[1] * (values.ndim - 1))


def _weights(graph: onnx.GraphProto, name: str, steps: np.ndarray, scale: np.ndarray) -> onnx.NodeProto:
    """The node that gives a convolution's weights back from int8."""
    graph.initializer.append(numpy_helper.from_array(steps, f"{name}_quantised"))
    graph.initializer.extend(_scale(name, scale, np.zeros(len(scale), np.int8)))
    read = [f"{name}_quantised", f"{name}_scale", f"{name}_zero"]
    return helper.make_node("DequantizeLinear", read, [f"{name}_dequantised"], f"{name}_dequantise", axis=0)


def _give_biases(graph: onnx.GraphProto, taken: Collection[str]) -> None:
    """Have every convolution of these weights a bias: of zeros, where it has none."""
    n_written = {
        initializer.name: initializer.dims[0] for initializer in graph.initializer if initializer.name in taken
    }
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in taken and len(node.input) == 2:
            bias = np.zeros(n_written[node.input[1]], np.float32)
            node.input.append(f"{node.input[1]}_bias")
            graph.initializer.append(numpy_helper.from_array(bias, node.input[2]))


def _correct(bias: onnx.TensorProto, error: np.ndarray, *, mean: np.ndarray) -> None:
    """Take from a convolution's bias what an error of its weights adds on average to what it writes.

    `mean` is that of each channel that it reads.
    """
    summed = error.sum(axis=tuple(range(2, error.ndim)))  # (channel out, channel in of its group)
    n_groups = len(mean) // summed.shape[1]
    by_group = summed.reshape(n_groups, -1, summed.shape[1]) @ mean.reshape(n_groups, -1, 1)
    before = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array((before - by_group.ravel()).astype(np.float32), bias.name))


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
