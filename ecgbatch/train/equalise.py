"""Channels of a graph brought nearer to one size, so that 8 bits a tensor serve the small ones too.

What a channel is divided by where it is made, the weights that read it are multiplied by: between two ReLUs the graph
says what it said before. Cross-layer equalisation: Nagel et al. 2019, Data-Free Quantization, section 4.1; here by what
real ECGs reach in each channel, as weights have a scale a channel anyway.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from ecgbatch.train import activations

__all__ = ["Stream", "equalised", "streams"]

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
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    n_reads = Counter(name for node in model.graph.node for name in node.input)
    gates = {name for node in model.graph.node if node.op_type == "Sigmoid" for name in node.output}
    fixed = {end.name for end in (*model.graph.input, *model.graph.output)}
    of: dict[str, Stream] = {}

    def joined(names: Iterable[str]) -> Stream:
        parts = {id(stream): stream for stream in (of.setdefault(name, Stream({name})) for name in names)}
        whole = Stream()
        for part in parts.values():
            whole.tensors |= part.tensors
            whole.made_by += part.made_by
            whole.read_by += part.read_by
        of.update(dict.fromkeys(whole.tensors, whole))
        return whole

    for node in model.graph.node:
        values = [name for name in node.input if name not in constants]
        if _passes(node, constants, gates):
            joined([*(name for name in values if name not in gates), *node.output])
        elif node.op_type == "Conv" and _has_own_weights(node, constants, n_reads):
            joined([node.input[0]]).read_by.append(node)
            joined([node.output[0]]).made_by.append(node)
        else:
            fixed.update((*values, *node.output))
    for stream in {id(stream): stream for stream in of.values()}.values():
        if stream.made_by and stream.read_by and not stream.tensors & fixed:
            yield stream


def _passes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], gates: Collection[str]) -> bool:
    """Whether a channel that is multiplied by something positive comes out multiplied by it, and no other does."""
    match node.op_type:
        case "Relu" | "AveragePool":
            return True
        case "Add":
            return not any(name in constants or name in gates for name in node.input)
        case "Mul":
            return len([name for name in node.input if name not in constants and name not in gates]) == 1
        case "ReduceMean":
            axes = constants.get(node.input[1]) if len(node.input) > 1 else None
            return axes is not None and set(numpy_helper.to_array(axes).tolist()) <= {2, 3}
    return False


def _has_own_weights(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], n_reads: Mapping[str, int]
) -> bool:
    """Whether nothing else reads a convolution's weights, and each channel that it writes depends on all it reads."""
    is_dense = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
    return is_dense and all(name in constants and n_reads[name] == 1 for name in node.input[1:])
