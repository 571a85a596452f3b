"""OpenVINO on a CPU: asynchronous requests on as many streams as give the most ECGs a second."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from ecgbatch import files, processor
from ecgbatch.bundle import VARIANTS, Bundle
from ecgbatch.errors import EngineError

# Usage statistics have no place beside health data: without its telemetry package OpenVINO uses an empty stand-in.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

__all__ = ["CpuEngine", "CpuHead", "facts", "load", "load_head"]

T = TypeVar("T")

_INSTRUCTIONS = ("amx", "avx", "sse4", "asimd", "i8mm", "bf16", "sve")
"""How the flags of a processor begin that kernels are chosen by."""


def load(
    bundle: Bundle,
    *,
    batch: int,
    precision: str = "fp32",
    graph: Path | None = None,
    n_streams: int | None = None,
    n_threads: int | None = None,
) -> "CpuEngine":
    """Compile `bundle` for this machine's cores, for batches of `batch` records.

    `graph` is the file of its network in that precision, `model.onnx` by default; `n_streams` are the batches at once,
    by default as many as OpenVINO takes to be best; `n_threads` the cores it may use, by default all.

    Raises:
        EngineError: OpenVINO cannot compile the model.
    """
    graph = graph or bundle.folder / "model.onnx"
    shape = {"x": [batch, len(bundle.input.leads), bundle.input.samples]}
    asked = {"NUM_STREAMS": n_streams, "INFERENCE_NUM_THREADS": n_threads}
    streams = {name: value for name, value in asked.items() if value is not None}
    compiled = _compiled(bundle, graph, shape, {"PERFORMANCE_HINT": "THROUGHPUT", **streams})
    variant = "fp32" if precision == "fp32" else f"{precision} {files.sha256(graph)[:16]}"
    return CpuEngine(bundle, compiled, batch, variant=variant)


def load_head(bundle: Bundle, *, batch: int) -> "CpuHead":
    """Compile the head of a head-only bundle, for the embeddings of `batch` records.

    Raises:
        EngineError: OpenVINO cannot compile it.
    """
    shape = {"embedding": [batch, int(bundle.network["n_features"])]}
    graph = bundle.folder / "model.onnx"
    return CpuHead(bundle, _compiled(bundle, graph, shape, {"PERFORMANCE_HINT": "LATENCY"}), batch)


def facts(bundle: Bundle, precision: str) -> dict[str, str]:
    """What an engine of `bundle` on this machine depends on, for the cache of engines."""
    return {
        "model": bundle.hashes["model.onnx"],
        "labels": bundle.hashes["labels.csv"],  # calibration and thresholds, which parity depends on
        **({"graph": bundle.hashes.get(VARIANTS[precision], "none")} if precision in VARIANTS else {}),
        "precision": precision,
        "device": "cpu",
        "processor": _processor(),
        "openvino": ov.__version__,
    }


def _processor() -> str:
    """Its name and the instruction sets that kernels are chosen by."""
    name = str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME"))
    return " ".join([name, *sorted(flag for flag in processor.flags() if flag.startswith(_INSTRUCTIONS))])


def _compiled(
    bundle: Bundle, graph: Path, shape: Mapping[str, list[int]], options: Mapping[str, Any]
) -> ov.CompiledModel:
    try:
        core = ov.Core()
        model = core.read_model(graph)
        model.reshape(shape)
        precise = {"INFERENCE_PRECISION_HINT": "f32"}  # of what is not int8; the default is bf16 where a CPU has it
        return core.compile_model(model, "CPU", {**options, **precise})
    except RuntimeError as err:
        raise EngineError(f"model {bundle.name!r} on cpu: {str(err).strip().splitlines()[-1]}") from err


class CpuEngine:
    """A compiled model; owns its requests, so one caller at a time."""

    def __init__(self, bundle: Bundle, compiled: ov.CompiledModel, batch: int, *, variant: str = "fp32") -> None:
        self.bundle = bundle
        self.batch = batch
        self.variant = variant
        self.n_streams = int(compiled.get_property("NUM_STREAMS"))
        n_requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1  # one to refill meanwhile
        self._requests = [compiled.create_infer_request() for _ in range(n_requests)]

    def __str__(self) -> str:
        return f"cpu openvino {self.precision}"

    @property
    def precision(self) -> str:
        return self.variant.partition(" ")[0]

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
                full = _padded(x, self.batch)  # shared with the request, so kept until it has finished
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


class CpuHead:
    """A compiled head; one caller at a time. It is a thousandth of its trunk's work, so it is not worth a stream."""

    def __init__(self, bundle: Bundle, compiled: ov.CompiledModel, batch: int) -> None:
        self.bundle = bundle
        self.batch = batch
        self._request = compiled.create_infer_request()

    def __call__(self, embedding: Float32[ndarray, "record feature"]) -> Float32[ndarray, "record label"]:
        """Logits (record, label) of the trunk's embedding (record, feature), at most `batch` records at a time."""
        parts = []
        for start in range(0, max(len(embedding), 1), self.batch):
            part = embedding[start : start + self.batch]
            self._request.infer({"embedding": _padded(part, self.batch)})
            parts.append(self._request.get_tensor("logits").data[: len(part)].copy())
        return np.concatenate(parts)


def _padded(x: Float32[ndarray, "record ..."], batch: int) -> Float32[ndarray, "batch ..."]:
    """A tail filled with zeros to a whole batch; rows do not see each other, and the padding's are dropped."""
    if len(x) == batch:
        return np.ascontiguousarray(x)
    full = np.zeros((batch, *x.shape[1:]), np.float32)
    full[: len(x)] = x
    return full
