"""A graph in half precision: fp16 or bf16 written into the ONNX file, which is where TensorRT 11 takes it from.

    x (float32) ── Cast ── convolutions, activations in half ── Cast ── means, head in float32 ──► logits, embedding

ONNX Runtime's converter knows no bf16 and clamps what does not fit; ModelOpt's AutoCast brings CuPy and calibrates.
What our graphs need is a type for each node, and a Cast where two types meet.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ecgbatch.errors import BundleError

__all__ = ["LARGEST_WINDOW", "OPSET_OF_BF16", "write_half"]

LARGEST_WINDOW = 16
"""Samples that are averaged in half; a sum's rounding grows with its length, so longer means stay in float32."""
OPSET_OF_BF16 = 22
"""The first in which Conv and AveragePool take bfloat16; TensorRT 11's parser reads 9 to 25."""

_HALF_OPS = {"Add", "AveragePool", "Conv", "MaxPool", "Mul", "ReduceMax", "Relu", "Sigmoid"}
"""What gains from half and bears it: the hardware adds products up in float32, and a maximum is exact."""
_MOVING_OPS = {"Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""What computes nothing, and so takes the type of what it moves."""
_FLOAT = TensorProto.FLOAT
_LARGEST = {"fp16": 65504.0, "bf16": 3.3895314e38}  # IEEE 754 binary16; bfloat16: 2^127 (2 - 2^-7)


def write_half(source: Path, out: Path, *, precision: Literal["fp16", "bf16"]) -> None:
    """Write the graph of `source` with weights and activations in half; its inputs and outputs stay float32.

    So do means over more than `LARGEST_WINDOW` samples, the head, and every operator not known to bear half.

    Raises:
        BundleError: a weight is beyond what the precision holds, or the graph is not a valid one in float32.
    """
    try:
        model = onnx.load(source)
        if precision == "bf16":
            model = onnx.version_converter.convert_version(model, OPSET_OF_BF16)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        _Rewriting(model, source, precision).run()
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise BundleError(f"{source.name}: cannot be written in {precision}: {err}") from err
    onnx.save(model, out)


class _Rewriting:
    """A graph on its way to half: the type of each tensor, and the copies in another type made so far."""

    def __init__(self, model: ModelProto, source: Path, precision: Literal["fp16", "bf16"]) -> None:
        self._graph = model.graph
        self._source = source
        self._precision = precision
        self._half = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
        self._outputs = {value.name for value in model.graph.output}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        self._types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
        self._types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self._copies: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> None:
        """Give each node its type and cast what it reads; the nodes of a graph stand in the order they run in."""
        for node in self._graph.node:
            to = self._type_of(node)
            for at, name in enumerate(node.input):
                node.input[at] = self._as_type(name, to)
            self._nodes.append(node)
            self._types |= {name: to for name in node.output if self._types.get(name) == _FLOAT}
        self._graph.ClearField("node")
        self._graph.node.extend(self._nodes)
        self._graph.ClearField("value_info")  # has the old types
        read = {name for node in self._nodes for name in node.input}
        self._replace_weights(tensor for name, tensor in self._weights.items() if name in read)

    def _type_of(self, node: NodeProto) -> int:
        if self._outputs & set(node.output):
            return _FLOAT
        if node.op_type in _MOVING_OPS:
            return _FLOAT if _FLOAT in {self._types.get(name) for name in node.input} else self._half
        if node.op_type == "AveragePool":
            kernel = next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape")
            return self._half if np.prod(kernel) <= LARGEST_WINDOW else _FLOAT
        return self._half if node.op_type in _HALF_OPS else _FLOAT

    def _as_type(self, name: str, to: int) -> str:
        """The name of that tensor in that type; indices, shapes and inputs left out stay as they are."""
        if self._types.get(name) not in {_FLOAT, self._half} - {to}:
            return name
        if (name, to) not in self._copies:
            copy = f"{name}_{self._precision if to == self._half else 'fp32'}"
            if name in self._weights:
                self._weights[copy] = self._in_half(self._weights[name], copy)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [copy], to=to))
            self._types[copy] = to
            self._copies[name, to] = copy
        return self._copies[name, to]

    def _in_half(self, weight: TensorProto, name: str) -> TensorProto:
        value = numpy_helper.to_array(weight)
        largest = _LARGEST[self._precision]
        if not (found := float(np.abs(value).max(initial=0))) <= largest:
            where = f"{self._source.name}: weight {weight.name!r} reaches {found:.3g}"
            raise BundleError(f"{where}, expected at most {largest:.3g} for {self._precision}; take another precision")
        return numpy_helper.from_array(
            value.astype(np.float16 if self._precision == "fp16" else ml_dtypes.bfloat16), name
        )

    def _replace_weights(self, weights: Iterable[TensorProto]) -> None:
        kept = list(weights)
        self._graph.ClearField("initializer")
        self._graph.initializer.extend(kept)
