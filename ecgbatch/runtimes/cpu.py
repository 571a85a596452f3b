"""OpenVINO on a CPU: asynchronous requests on as many streams as give the most ECGs a second."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError

# Usage statistics have no place beside health data: without its telemetry package OpenVINO uses an empty stand-in.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

__all__ = ["CpuEngine", "load"]

T = TypeVar("T")


def load(bundle: Bundle, *, batch: int) -> "CpuEngine":
    """Compile `bundle` for this machine's cores, for batches of `batch` records.

    Raises:
        EngineError: OpenVINO cannot compile the model.
    """
    try:
        core = ov.Core()
        model = core.read_model(bundle.folder / "model.onnx")
        model.reshape({"x": [batch, len(bundle.input.leads), bundle.input.samples]})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16 where a CPU has it
            },
        )
    except RuntimeError as err:
        raise EngineError(f"model {bundle.name!r} on cpu: {str(err).strip().splitlines()[-1]}") from err
    return CpuEngine(bundle, compiled, batch)


class CpuEngine:
    """A compiled model; owns its requests, so one caller at a time."""

    def __init__(self, bundle: Bundle, compiled: ov.CompiledModel, batch: int) -> None:
        self.bundle = bundle
        self.batch = batch
        self.n_streams = int(compiled.get_property("NUM_STREAMS"))
        n_requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1  # one to refill meanwhile
        self._requests = [compiled.create_infer_request() for _ in range(n_requests)]

    def __str__(self) -> str:
        return "cpu openvino fp32"

    def __call__(
        self, x: Float32[ndarray, "record lead time"]
    ) -> tuple[Float32[ndarray, "record label"], Float32[ndarray, "record feature"]]:
        """Logits (record, label) and embedding (record, feature) of normalised float32 x (record, lead, time)."""
        parts = [x[start : start + self.batch] for start in range(0, max(len(x), 1), self.batch)]
        results = [result for _, *result in self.stream((None, part) for part in parts)]
        return np.concatenate([logits for logits, _ in results]), np.concatenate([emb for _, emb in results])

    def stream(self, inputs: Iterable[tuple[T, np.ndarray]]) -> Iterator[tuple[T, np.ndarray, np.ndarray]]:
        """Logits and embedding of each (tag, x), in order; x holds at most `batch` records, and several run at once."""
        idle = deque(self._requests)
        running: deque[tuple[T, int, np.ndarray, ov.InferRequest]] = deque()
        try:
            for tag, x in inputs:
                if not idle:
                    yield self._finish(running, idle)
                request = idle.popleft()
                full = self._padded(x)  # shared with the request, so kept until it has finished
                request.set_input_tensor(ov.Tensor(full, shared_memory=True))
                request.start_async()
                running.append((tag, len(x), full, request))
            while running:
                yield self._finish(running, idle)
        finally:
            for *_, request in running:
                request.cancel()
                with suppress(RuntimeError):  # that it was cancelled
                    request.wait()  # it reads its input until then

    def _finish(
        self, running: deque[tuple[T, int, np.ndarray, ov.InferRequest]], idle: deque[ov.InferRequest]
    ) -> tuple[T, np.ndarray, np.ndarray]:
        tag, n, _, request = running.popleft()
        request.wait()
        logits, embedding = (request.get_tensor(name).data[:n].copy() for name in ("logits", "embedding"))
        idle.append(request)
        return tag, logits, embedding

    def _padded(self, x: Float32[ndarray, "record lead time"]) -> Float32[ndarray, "batch lead time"]:
        """A tail filled with zeros to a whole batch; rows do not see each other, and the padding's are dropped."""
        if len(x) == self.batch:
            return np.ascontiguousarray(x)
        full = np.zeros((self.batch, *x.shape[1:]), np.float32)
        full[: len(x)] = x
        return full
