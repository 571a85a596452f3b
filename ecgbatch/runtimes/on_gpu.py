"""Engines on GPUs as scoring and building want them: from the cache, or into it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ecgbatch import engine_cache, files
from ecgbatch.bundle import Bundle
from ecgbatch.engine_cache import Kept
from ecgbatch.errors import EngineError
from ecgbatch.parity import Parity
from ecgbatch.runtimes import placement

if TYPE_CHECKING:
    from ecgbatch.runtimes.trt import Observer, TrtEngine

__all__ = ["BATCH", "PRECISIONS", "keep", "kept", "opened"]

BATCH = 256
"""The largest batch that engines are built for: it fills a GPU's matrix units, and is 20 MB of input."""
PRECISIONS = ("int8", "fp16", "bf16", "fp32")
_FILE = "model.engine"
_TIMED_BY = ("gpu", "architecture", "driver", "tensorrt")
"""The facts that a kernel's time depends on."""
_RATED = 64
"""Batches that an engine's rate is measured on."""


def opened(bundle: Bundle, device: str, precision: str, *, batch: int | None) -> "TrtEngine":
    """The engine that was built for that GPU in that precision; for `auto` the fastest that was.

    Without `batch` it takes `BATCH` records at once; a smaller batch runs in the smallest profile that holds it.

    Raises:
        EngineError: none was, it is not to be trusted, takes no batch so large, or there is no such GPU.
    """
    from ecgbatch.runtimes import trt

    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision {precision!r} on {device}, expected 'auto' or one of {', '.join(PRECISIONS)}")
    found = kept(bundle, device, PRECISIONS if precision == "auto" else (precision,))
    if not found:
        ecgs = " --calibrate SOURCE" if precision == "int8" else ""
        build = f"`ecgbatch build {bundle.name} --device {device} --precision {precision}{ecgs}`"
        raise EngineError(f"model {bundle.name!r} on {device}: no engine was built in {precision}; run {build}")
    fastest = max(found, key=lambda each: _ecg_per_s(found[each], each))
    plan, variant = found[fastest].path(_FILE).read_bytes(), str(found[fastest].told["variant"])
    return trt.load(bundle, plan, index=_one(device), variant=variant, batch=BATCH, at_once=batch)


def kept(bundle: Bundle, device: str, precisions: Iterable[str] = PRECISIONS) -> dict[str, Kept]:
    """The engines that were built for that GPU, by precision.

    Raises:
        EngineError: one is not to be trusted, or there is no such GPU.
    """
    from ecgbatch.runtimes import trt

    index = _one(device)
    found = {
        each: engine_cache.kept(trt.facts(bundle, index=index, precision=each, batch=BATCH), name=bundle.name)
        for each in precisions
    }
    return {each: engine for each, engine in found.items() if engine is not None}


def keep(
    bundle: Bundle,
    graph: Path,
    device: str,
    precision: str,
    *,
    verify: Callable[["TrtEngine"], Parity],
    observe: "Observer",
) -> Kept:
    """Compile the graph for that GPU, have it verified, measure it and keep it.

    `verify` gives the engine's parity, and raises where it is not to be trusted. What builds for the same GPU have
    measured lies beside the engines, and makes the next one faster.

    Raises:
        EngineError: it cannot be built, or is not to be trusted; nothing is kept then.
    """
    from ecgbatch.runtimes import trt

    index = _one(device)
    about = trt.facts(bundle, index=index, precision=precision, batch=BATCH)
    timings = _timings(engine_cache.folder(), about)
    plan = trt.build(bundle, graph, index=index, batch=BATCH, timings=timings, observe=observe)
    variant = "fp32" if precision == "fp32" else f"{precision} {files.sha256(graph)[:16]}"
    engine = trt.load(bundle, plan, index=index, variant=variant, batch=BATCH)
    told = {
        "variant": variant,
        "parity": asdict(verify(engine)),
        "ecg_per_s": _rate(engine),
        "left_in_float32": _left_in_float32(engine),
    }
    return engine_cache.keep(about, lambda folder: (folder / _FILE).write_bytes(plan), told)


def _one(device: str) -> int:
    indices = placement.gpus(device)
    if len(indices) > 1:
        raise EngineError(f"device {device!r}: an engine runs on one GPU, expected one index")
    return indices[0]


def _ecg_per_s(engine: Kept, precision: str) -> float:
    """The rate that was measured when it was built in that precision.

    Raises:
        EngineError: it was not told, or the engine is of another precision.
    """
    where = f"engine {engine.folder.name}"
    try:
        rate, variant = float(engine.told["ecg_per_s"]), engine.told["variant"].partition(" ")[0]
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise EngineError(f"{where}: its rate cannot be read ({err}), expected it told; build it again") from err
    if variant != precision:
        raise EngineError(f"{where}: told to be {variant}, expected {precision}; build it again")
    return rate


def _timings(folder: Path, about: Mapping[str, str]) -> Path:
    by = sha256(repr([about[name] for name in _TIMED_BY]).encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise EngineError(f"engine cache {folder}: cannot be written: {err.strerror}") from err
    return folder / f"timings-{by[:16]}"


def _left_in_float32(engine: "TrtEngine") -> list[str] | None:
    """Names of layers; None where TensorRT does not tell, which is no reason to do without an engine that is good."""
    try:
        return engine.left_in_float32()
    except EngineError:
        return None


def _rate(engine: "TrtEngine") -> float:
    """ECGs a second of an engine that always has the next batch at hand."""
    x = np.zeros((engine.batch, len(engine.bundle.input.leads), engine.bundle.input.samples), np.float32)
    engine(x)
    started = perf_counter()
    n_done = sum(len(logits) for _, logits, _ in engine.stream((None, x) for _ in range(_RATED)))
    return n_done / (perf_counter() - started)
