"""Engines on GPUs as scoring and building want them: from the cache, or into it."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError
from ecgbatch.runtimes import placement

if TYPE_CHECKING:
    from ecgbatch.runtimes.trt import Observer, TrtEngine

__all__ = ["BATCH", "PRECISIONS", "Cache", "Kept", "keep", "opened"]

BATCH = 256
"""Records at once where nothing else is asked for: large enough for a GPU's matrix units, 20 MB of input."""
PRECISIONS = ("int8", "fp16", "bf16", "fp32")
_FILE = "model.engine"
_TIMED_BY = ("gpu", "architecture", "driver", "tensorrt")
"""The facts that a kernel's time depends on."""
_RATED = 64
"""Batches that an engine's rate is measured on."""


class Kept(Protocol):
    """An engine's place in the cache."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What was measured when it was built."""
        ...

    def path(self, name: str) -> Path:
        """Where a file of it lies."""
        ...


class Cache(Protocol):
    """What `engine_cache` is."""

    def kept(self, facts: Mapping[str, str]) -> Kept | None:
        """The engine of these facts; an EngineError where there is one of others."""
        ...

    def keep(self, facts: Mapping[str, str], write: Callable[[Path], object], told: Mapping[str, Any]) -> Kept:
        """The engine whose files `write` puts into the folder it is given."""
        ...


def opened(bundle: Bundle, device: str, precision: str, *, batch: int | None, cache: Cache) -> "TrtEngine":
    """The engine that was built for that GPU in that precision; for `auto` the fastest that was.

    Raises:
        EngineError: none was, it is not to be trusted, or there is no such GPU.
    """
    from ecgbatch.runtimes import trt

    index = _one(device)
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision {precision!r} on {device}, expected 'auto' or one of {', '.join(PRECISIONS)}")
    size = batch or BATCH
    asked = PRECISIONS if precision == "auto" else (precision,)
    found = {each: cache.kept(trt.facts(bundle, index=index, precision=each, batch=size)) for each in asked}
    rates = {each: float(kept.told["ecg_per_s"]) for each, kept in found.items() if kept}
    if not rates:
        build = f"`ecgbatch build {bundle.name} --device {device} --precision {precision}`"
        raise EngineError(f"model {bundle.name!r} on {device}: no engine was built in {precision}; run {build}")
    fastest = max(rates, key=lambda each: rates[each])
    kept = found[fastest]
    assert kept is not None
    return trt.load(bundle, kept.path(_FILE).read_bytes(), index=index, precision=fastest, batch=size)


def keep(
    bundle: Bundle,
    graph: Path,
    device: str,
    precision: str,
    *,
    batch: int | None,
    cache: Cache,
    verify: Callable[["TrtEngine"], Mapping[str, Any]],
    timings_in: Path,
    observe: "Observer",
) -> Kept:
    """Compile the graph for that GPU, have it verified, measure it and keep it.

    `verify` gives what is to be remembered of the engine, and raises where it is not to be trusted. What builds for the
    same GPU have measured lies in the folder `timings_in`, and makes the next one faster.

    Raises:
        EngineError: it cannot be built, or is not to be trusted; nothing is kept then.
    """
    from ecgbatch.runtimes import trt

    index, size = _one(device), batch or BATCH
    about = trt.facts(bundle, index=index, precision=precision, batch=size)
    timings = _timings(timings_in, about)
    raw = trt.build(bundle, graph, index=index, precision=precision, batch=size, timings=timings, observe=observe)
    engine = trt.load(bundle, raw, index=index, precision=precision, batch=size)
    told = {**verify(engine), "ecg_per_s": _rate(engine), "left_in_float32": engine.left_in_float32()}
    return cache.keep(about, lambda folder: (folder / _FILE).write_bytes(raw), told)


def _one(device: str) -> int:
    indices = placement.gpus(device)
    if len(indices) > 1:
        raise EngineError(f"device {device!r}: an engine runs on one GPU, expected one index")
    return indices[0]


def _timings(folder: Path, about: Mapping[str, str]) -> Path:
    by = sha256(repr([about[name] for name in _TIMED_BY]).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"timings-{by[:16]}"


def _rate(engine: "TrtEngine") -> float:
    """ECGs a second of an engine that always has the next batch at hand."""
    x = np.zeros((engine.batch, len(engine.bundle.input.leads), engine.bundle.input.samples), np.float32)
    engine(x)
    started = perf_counter()
    n_done = sum(len(logits) for _, logits, _ in engine.stream((None, x) for _ in range(_RATED)))
    return n_done / (perf_counter() - started)
