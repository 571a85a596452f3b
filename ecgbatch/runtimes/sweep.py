"""A short sweep: how many streams and records at once score the most ECGs a second on this machine."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from ecgbatch.bundle import Bundle
from ecgbatch.cores import n_cores
from ecgbatch.engine_cache import Profile
from ecgbatch.runtimes import cpu

__all__ = ["fastest"]

_BATCHES = (32, 16, 64)
"""The first is what is taken where nothing has been measured."""
_MEASURED_S = 0.3
_ROUNDS = 3
"""In turn, so that what else the machine does meanwhile hits all alike; the best of each counts."""


def fastest(bundle: Bundle, precision: str, graph: Path) -> Profile:
    """The best of a few streams at the usual batch, then of a few batches on those streams.

    Raises:
        EngineError: OpenVINO cannot compile the model.
    """
    usual = cpu.load(bundle, batch=_BATCHES[0], precision=precision, graph=graph)
    by_streams = {usual.n_streams: usual}
    for n in {1, n_cores()} - set(by_streams):
        by_streams[n] = cpu.load(bundle, batch=_BATCHES[0], precision=precision, graph=graph, n_streams=n)
    rates = _rates(list(by_streams.values()))
    n_streams = max(by_streams, key=lambda n: rates[by_streams[n]])
    engines = [by_streams[n_streams]] + [
        cpu.load(bundle, batch=batch, precision=precision, graph=graph, n_streams=n_streams) for batch in _BATCHES[1:]
    ]
    plain = cpu.load(bundle, batch=_BATCHES[0])
    again = _rates([*engines, plain])
    best = max(engines, key=lambda engine: again[engine])
    return Profile(
        batch=best.batch,
        n_streams=n_streams,
        ecg_per_s=again[best],
        ecg_per_s_fp32=again[plain],
        n_cores=n_cores(),
    )


def _rates(engines: list[cpu.CpuEngine]) -> dict[cpu.CpuEngine, float]:
    found = dict.fromkeys(engines, 0.0)
    for _ in range(_ROUNDS):
        for engine in engines:
            found[engine] = max(found[engine], _ecg_per_s(engine))
    return found


def _ecg_per_s(engine: cpu.CpuEngine) -> float:
    spec = engine.bundle.input
    x = np.random.default_rng(1).normal(size=(engine.batch, len(spec.leads), spec.samples)).astype(np.float32)
    engine(x)  # the first call does what the others need not
    started = perf_counter()

    def supply() -> Iterator[tuple[None, np.ndarray]]:
        while perf_counter() - started < _MEASURED_S:
            yield None, x

    n_done = sum(len(logits) for _, logits, _ in engine.stream(supply()))
    return n_done / (perf_counter() - started)
