"""Runtimes: a bundle becomes an engine on one device. They know arrays, not records."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError

__all__ = ["Engine", "Head", "open_engine", "open_head"]

T = TypeVar("T")


class Engine(Protocol):
    """A loaded model on one device; `str` names device, library and precision."""

    bundle: Bundle
    batch: int
    """Records it takes at once."""

    def __call__(
        self, x: Float32[ndarray, "record lead time"]
    ) -> tuple[Float32[ndarray, "record label"], Float32[ndarray, "record feature"]]:
        """Logits (record, label) and embedding (record, feature) of normalised float32 x (record, lead, time)."""
        ...

    def stream(self, inputs: Iterable[tuple[T, np.ndarray]]) -> Iterator[tuple[T, np.ndarray, np.ndarray]]:
        """The same for each (tag, x), in order, several at once."""
        ...


class Head(Protocol):
    """The last layer of a model whose trunk is an engine's."""

    bundle: Bundle

    def __call__(self, embedding: Float32[ndarray, "record feature"]) -> Float32[ndarray, "record label"]:
        """Logits (record, label) of the trunk's embedding (record, feature)."""
        ...


def open_engine(bundle: Bundle, device: str, precision: str, *, batch: int) -> Engine:
    """Open `bundle` on exactly that device in exactly that precision; `auto` takes the CPU, fp32.

    Raises:
        EngineError: the device or precision cannot be had.
    """
    if device not in ("auto", "cpu"):
        raise EngineError(f"device {device!r}, expected 'auto' or 'cpu': this version scores on CPUs only")
    if precision not in ("auto", "fp32"):
        raise EngineError(f"precision {precision!r} on cpu, expected 'auto' or 'fp32'")
    from ecgbatch.runtimes import cpu  # OpenVINO takes a while to import

    return cpu.load(bundle, batch=batch)


def open_head(bundle: Bundle, engine: Engine) -> Head:
    """Open a head-only bundle where the engine of its parent is.

    Raises:
        EngineError: the head cannot be had.
    """
    from ecgbatch.runtimes import cpu

    return cpu.load_head(bundle, batch=engine.batch)
