"""Channels of a graph brought nearer to one size, so that 8 bits a tensor serve the small ones too.

What a channel is divided by where it is made, the weights that read it are multiplied by: between two ReLUs the graph
says what it said before. Cross-layer equalisation: Nagel et al. 2019, Data-Free Quantization, section 4.1; here by what
real ECGs reach in each channel, as weights have a scale a channel anyway.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from ecgbatch.train import activations

__all__ = ["Stream", "equalised", "streams"]

_PASSING = ("Add", "AveragePool", "Mul", "ReduceMean", "Relu")
"""A channel that is multiplied comes out of these multiplied."""
_HALFWAY = 0.5
"""Power of a channel's size that it is divided by: at 1 the weights would have all of the spread."""
_LEAST = 1e-3
"""Of the largest channel; one that is always 0 is no reason for huge weights."""


@dataclass(slots=True)
class Stream:
    """Tensors that share their channels, as those of a residual stream do."""

    tensors: set[str] = field(default_factory=set)
    made_by: list[onnx.NodeProto] = field(default_factory=list)
    """Convolutions."""
    read_by: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def read(self) -> set[str]:
        """The tensors that convolutions read."""
        return {node.input[0] for node in self.read_by}


def equalised(model: onnx.ModelProto, x: np.ndarray) -> onnx.ModelProto:
    """The same function of x (record, lead, time), its inner channels nearer to each other in what they reach."""
    found = list(streams(model))
    peaks: dict[str, np.ndarray] = {}
    for name, value in activations.values(model, {name for stream in found for name in stream.read}, x):
        peak = np.abs(value).max(axis=(0, *range(2, value.ndim)))
        peaks[name] = np.maximum(peaks.get(name, 0), peak)
    equal = onnx.ModelProto()
    equal.CopyFrom(model)
    weights = {initializer.name: initializer for initializer in equal.graph.initializer}
    for stream in found:
        peak = np.max([peaks[name] for name in stream.read], axis=0)
        size = (np.maximum(peak / max(peak.max(), 1e-12), _LEAST) ** _HALFWAY).astype(np.float32)
        for node in stream.made_by:
            for name in node.input[1:]:
                _multiply(weights[name], 1 / size, axis=0)
        for node in stream.read_by:
            _multiply(weights[node.input[1]], size, axis=1)
    return equal


def _multiply(weights: onnx.TensorProto, by: np.ndarray, *, axis: int) -> None:
    values = numpy_helper.to_array(weights)
    spread = by.reshape([-1 if at == axis else 1 for at in range(values.ndim)])
    weights.CopyFrom(numpy_helper.from_array(values * spread, weights.name))


def streams(model: onnx.ModelProto) -> Iterator[Stream]:
    """Every stream that begins and ends in convolutions with weights of their own, and nowhere else."""
    weights = {initializer.name for initializer in model.graph.initializer}
    of: dict[str, Stream] = {}
    fixed = {end.name for end in (*model.graph.input, *model.graph.output)}

    def joined(names: list[str]) -> Stream:
        parts = {id(stream): stream for stream in (of.setdefault(name, Stream({name})) for name in names)}
        whole = Stream()
        for part in parts.values():
            whole.tensors |= part.tensors
            whole.made_by += part.made_by
            whole.read_by += part.read_by
        of.update(dict.fromkeys(whole.tensors, whole))
        return whole

    gates = {name for node in model.graph.node if node.op_type == "Sigmoid" for name in node.output}
    for node in model.graph.node:
        read = [name for name in node.input if name not in weights]
        if node.op_type in _PASSING:
            joined([name for name in read if name not in gates] + list(node.output))
        elif node.op_type == "Conv" and _is_dense(node) and set(node.input[1:]) <= weights:
            joined([node.input[0]]).read_by.append(node)
            joined([node.output[0]]).made_by.append(node)
        else:
            fixed.update((*read, *node.output))
    for stream in {id(stream): stream for stream in of.values()}.values():
        if stream.made_by and stream.read_by and not stream.tensors & fixed:
            yield stream


def _is_dense(node: onnx.NodeProto) -> bool:
    """Whether every channel that it writes depends on every one that it reads."""
    return all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
