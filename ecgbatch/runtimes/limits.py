"""What this machine multiplies and moves at best, and what a network asks of it: what an engine is held against."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.errors import EngineError
from ecgbatch.runtimes import cpu  # noqa: F401  # first: it keeps OpenVINO's usage statistics out

import openvino as ov  # isort: skip
from openvino import opset13 as ops  # isort: skip

__all__ = ["Product", "Workload", "bytes_per_s", "workload"]

_SIDE = 2048
"""Rows and columns of the matrices: 16 MB in fp32, far beyond the caches that one core has to itself."""
_COPIED = 2**26
"""Bytes that a core copies at a time; beyond the last cache of most machines when all cores do."""
_BYTES = {"int8": 1}
"""Of a number, by precision; 4 of all others, which OpenVINO computes in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one ECG costs a network."""

    operations: float
    """Two for each multiplication of a convolution or matrix product."""
    bytes: float
    """Read and written if every convolution fetches its input and leaves its output once; weights are shared."""


class Product:
    """A product of large matrices, in a precision of OpenVINO on all cores: three one after the other in int8.

    Each of the int8 ones ends in a ReLU and a quantisation, as a convolution does; so none is bound by conversions.
    """

    def __init__(self, precision: str) -> None:
        """Compile it.

        Raises:
            EngineError: there is no such product.
        """
        if precision not in ("fp32", "int8"):
            raise EngineError(f"precision {precision!r}, expected fp32 or int8")
        self.operations = 2.0 * _SIDE**3 * (3 if precision == "int8" else 1)
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        self._queue = ov.AsyncInferQueue(ov.Core().compile_model(_product(precision), "CPU", hints))
        self._x = np.random.default_rng(2).random((_SIDE, _SIDE), np.float32)

    def rate(self, seconds: float) -> float:
        """Operations a second, measured over so many seconds."""
        started, n_done = perf_counter(), 0
        while perf_counter() - started < seconds:
            for _ in range(len(self._queue)):
                self._queue.start_async([ov.Tensor(self._x, shared_memory=True)])
                n_done += 1
        self._queue.wait_all()
        return n_done * self.operations / (perf_counter() - started)


def bytes_per_s(seconds: float) -> float:
    """Bytes read and written a second by all cores that copy memory."""
    pairs = [(np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)) for _ in range(n_cores())]

    def copied(pair: tuple[np.ndarray, np.ndarray]) -> int:
        n = 0
        while perf_counter() - started < seconds:
            np.copyto(pair[1], pair[0])
            n += 2 * _COPIED
        return n

    with ThreadPoolExecutor(len(pairs)) as pool:
        started = perf_counter()
        total = sum(pool.map(copied, pairs))
        return total / (perf_counter() - started)


def workload(bundle: Bundle, graph: Path, precision: str) -> Workload:
    """What one ECG costs the network of that file."""
    model = ov.Core().read_model(graph)
    model.reshape({"x": [1, len(bundle.input.leads), bundle.input.samples]})
    width = _BYTES.get(precision, 4)
    operations = moved = 0.0
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "MatMul"):
            read, weights = (list(node.input(at).get_shape()) for at in (0, 1))
            written = list(node.output(0).get_shape())
            inner = np.prod(weights[1:]) if node.get_type_name() == "Convolution" else read[-1]
            operations += 2.0 * float(np.prod(written)) * float(inner)
            moved += width * float(np.prod(read) + np.prod(written))
    return Workload(operations=operations, bytes=moved)


def _product(precision: str) -> ov.Model:
    weights = ops.constant(np.random.default_rng(1).random((_SIDE, _SIDE), np.float32) - 0.5)
    x = ops.parameter([_SIDE, _SIDE], ov.Type.f32)
    if precision == "fp32":
        return ov.Model([ops.matmul(x, weights, transpose_a=False, transpose_b=False)], [x])
    quantised = _quantised(weights, -0.5 * 128 / 127, 0.5)  # 0 is a level, so the scale is symmetric
    y = _quantised(x, 0.0, 1.0)
    for _ in range(3):
        product = ops.matmul(y, quantised, transpose_a=False, transpose_b=False)
        y = _quantised(ops.relu(product), 0.0, 10.0)
    return ov.Model([y], [x])


def _quantised(value: Any, low: float, high: float) -> Any:
    """The value in 256 steps, which OpenVINO turns into int8 or uint8."""
    ends = [ops.constant(np.float32(end)) for end in (low, high, low, high)]
    return ops.fake_quantize(value, *ends, 256)
