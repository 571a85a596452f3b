"""Runtimes: a bundle becomes an engine on one device. They know arrays, not records."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError, UsageError
from ecgbatch.runtimes import placement

__all__ = ["BATCH", "PRECISIONS", "Engine", "Head", "is_gpu", "open_engine", "open_head"]

BATCH = 32
"""Records at once where nothing better has been measured; 8 to 64 are nearly equally fast on a CPU."""
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""What a person may ask for; no device has all of them."""
T = TypeVar("T")


class Engine(Protocol):
    """A loaded model on one device; `str` names device, library and precision."""

    bundle: Bundle
    batch: int
    """Records it takes at once."""
    variant: str
    """What a run records of it: `fp32`, or another precision with the hash of the graph in it."""

    @property
    def precision(self) -> str:
        """The first word of `variant`."""
        ...

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


def is_gpu(device: str) -> bool:
    """Whether that device is a GPU, or several, and not the CPU.

    Raises:
        UsageError: it is no device.
    """
    if device in ("auto", "cpu"):
        return False
    if not device.startswith("cuda"):
        raise UsageError(f"device {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:<index>'")
    placement.gpus(device)
    return True


def open_engine(bundle: Bundle, device: str, precision: str, *, batch: int | None = None) -> Engine:
    """Open `bundle` on exactly that device in exactly that precision.

    `auto` takes the CPU, and the fastest engine that is within its limits of parity: of those that `build` has kept in
    the cache, or of the bundle's own graphs; on a GPU only of the kept ones. A whole `Engine.variant` as the precision
    is that graph and no other. Without `batch` it is what `build` has measured to be best, or `BATCH`.

    Raises:
        EngineError: the device or precision cannot be had, or a kept engine is not to be trusted.
    """
    if not is_gpu(device):
        from ecgbatch.runtimes import choice  # OpenVINO takes a while to import

        return choice.on_cpu(bundle, precision, batch=batch, default=BATCH)
    from ecgbatch.runtimes import on_gpu

    engine = on_gpu.opened(bundle, device, precision.partition(" ")[0], batch=batch)
    if " " in precision and engine.variant != precision:
        raise EngineError(f"model {bundle.name!r} on {device}: built as {engine.variant}, expected {precision}")
    return engine


def open_head(bundle: Bundle, engine: Engine) -> Head:
    """Open a head-only bundle where the engine of its parent is.

    Raises:
        EngineError: the head cannot be had.
    """
    from ecgbatch.runtimes import cpu

    return cpu.load_head(bundle, batch=engine.batch)
