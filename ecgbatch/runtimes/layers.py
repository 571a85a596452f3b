"""What TensorRT's engine inspector says of a compiled engine: which of its layers compute in float32."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecgbatch.errors import EngineError

__all__ = ["Layer", "in_float32", "layers"]

_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype")
"""TensorRT 10 wrote `Format/Datatype`; 11 split the type off (migration guide, IEngineInspector JSON output)."""
_MOVING = {"cast", "constant", "noop", "reformat", "reshape", "shape", "shuffle", "signal", "wait"}
"""Kinds of layers that compute nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of a compiled engine, after fusion."""

    name: str
    kind: str
    is_float32: bool
    """Whether a result of it is float32."""


def layers(information: str) -> list[Layer]:
    """The layers in the inspector's JSON, in order.

    Raises:
        EngineError: it does not tell of types: another version, or an engine built without details.
    """
    try:
        return [_layer(layer) for layer in json.loads(information)["Layers"]]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as err:
        raise EngineError(f"engine: TensorRT's inspector does not tell the types of its layers: {err!r}") from err


def in_float32(found: list[Layer]) -> list[Layer]:
    """Those that compute something, and its result is float32."""
    return [layer for layer in found if layer.is_float32 and layer.kind.lower() not in _MOVING]


def _layer(layer: Mapping[str, Any]) -> Layer:
    types = [next(str(output[key]) for key in _TYPE_KEYS if key in output) for output in layer["Outputs"]]
    is_float32 = any(type_.lower() == "float" or "fp32" in type_.lower() for type_ in types)
    return Layer(name=str(layer["Name"]), kind=str(layer["LayerType"]), is_float32=is_float32)
