"""What the tensors inside a graph hold when real ECGs pass through it."""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import helper

__all__ = ["values"]

_AT_ONCE = 16
"""ECGs whose activations are in memory at once."""


def values(model: onnx.ModelProto, names: Collection[str], x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each named float tensor with its values, all of them for one part of x (record, lead, time) after another."""
    given = model.graph.input[0].name
    told = onnx.ModelProto()
    told.CopyFrom(model)
    is_output = {end.name for end in told.graph.output}
    asked = sorted(set(names) - {given})
    told.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in asked if name not in is_output
    )
    session = onnxruntime.InferenceSession(told.SerializeToString(), providers=["CPUExecutionProvider"])
    for start in range(0, len(x), _AT_ONCE):
        part = x[start : start + _AT_ONCE]
        if asked:  # ONNX Runtime takes none for all
            yield from zip(asked, session.run(asked, {given: part}), strict=True)
        if given in names:
            yield given, part
