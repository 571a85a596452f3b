"""Runtimes: a bundle becomes an engine on one device. They know arrays, not records."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError

__all__ = ["Engine", "open_engine"]

T = TypeVar("T")


class Engine(Protocol):
    """A loaded model on one device; `str` names device, library and precision."""

    bundle: Bundle

    def __call__(
        self, x: Float32[ndarray, "record lead time"]
    ) -> tuple[Float32[ndarray, "record label"], Float32[ndarray, "record feature"]]:
        """Logits (record, label) and embedding (record, feature) of normalised float32 x (record, lead, time)."""
        ...

    def stream(self, inputs: Iterable[tuple[T, np.ndarray]]) -> Iterator[tuple[T, np.ndarray, np.ndarray]]:
        """The same for each (tag, x), in order, several at once."""
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
