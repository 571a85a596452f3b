"""How fast the engine alone is, by batch size, and its share of what the machine multiplies at best.

    python benchmarks/engine.py --out benchmarks/results/engine.json

The engines are fed from memory through their `stream`, as a run feeds them. The limit is a product of 2048 x 2048
matrices in the same library, precision and number of requests, measured in turn with them. It is what plain multiplying
reaches, not a law of nature: a convolution that reuses its caches better can pass it by a little.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import tables
from measurement import Spread, arguments, interleaved, ratios, spread, write

from ecgbatch import synth
from ecgbatch.bundle import VARIANTS, Bundle, find
from ecgbatch.feed import host
from ecgbatch.runtimes import choice, cpu, limits

import openvino as ov  # isort: skip  # after cpu, which keeps its usage statistics out

N_RECORDS = 256
_PROFILED = 10
"""Inferences that the layers are timed in."""
_LEAST = 0.005
"""Share of an inference below which a kind of layer is not told."""
N_DISTINCT = 32
"""Records that are computed; the others are copies, as cold to the processor's caches."""


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", default="foundation")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    args = parser.parse_args()
    bundle = find(args.model)
    engines = {
        (precision, batch): choice.on_cpu(bundle, precision, batch=batch, default=batch)
        for precision in args.precision
        for batch in args.batch
    }
    x = records(bundle)
    subjects: dict[Any, Callable[[], float]] = {
        at: partial(ecg_per_s, engine, x, seconds=args.seconds) for at, engine in engines.items()
    }
    subjects |= {name: partial(limits.Product(name).rate, args.seconds) for name in args.precision}
    for subject in subjects.values():
        subject()
    values = interleaved(subjects, args.rounds)
    gop = limits.workload(bundle, bundle.folder / "model.onnx", "fp32").operations / 1e9
    measured = {"gflop_per_ecg": gop, "precisions": {}}
    for precision in args.precision:
        product = spread(rate / 1e9 for rate in values[precision])
        measured["precisions"][precision] = {
            "product_gop_per_s": product,
            "time_by_kind": _time_by_kind(bundle, precision, x[: args.batch[0]]),
            "batches": {
                str(batch): _batch(spread(values[precision, batch]), gop, product, engines[precision, batch].n_streams)
                for batch in args.batch
            },
        }
    settings = {"model": bundle.name, "version": bundle.version, "seconds": args.seconds, "rounds": args.rounds}
    print(tables.render(write(args.out, "engine", settings, measured)))


def _batch(rates: Spread, gop: float, product: Spread, n_streams: int) -> dict[str, Any]:
    gop_per_s = spread(rate * gop for rate in rates["all"])
    return {"n_streams": n_streams, "ecg_per_s": rates, "gop_per_s": gop_per_s, "share": ratios(gop_per_s, product)}


def _time_by_kind(bundle: Bundle, precision: str, x: np.ndarray) -> dict[str, float]:
    """Shares of an inference that OpenVINO spends in each kind of layer and precision, the largest first."""
    core = ov.Core()
    model = core.read_model(bundle.folder / VARIANTS.get(precision, "model.onnx"))
    model.reshape({"x": list(x.shape)})
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    taken: defaultdict[str, float] = defaultdict(float)
    for at in range(_PROFILED + 1):
        request.infer({"x": x})
        for layer in request.get_profiling_info() if at else ():  # the first warms up
            taken[f"{layer.node_type} {layer.exec_type.rpartition('_')[2]}"] += layer.real_time.total_seconds()
    total = sum(taken.values())
    return {kind: s / total for kind, s in sorted(taken.items(), key=lambda kind: -kind[1]) if s > _LEAST * total}


def records(bundle: Bundle) -> np.ndarray:
    """Model input (record, lead, time) of synthetic ECGs."""
    x = np.empty((N_DISTINCT, len(bundle.input.leads), bundle.input.samples), np.float32)
    for seed, row in enumerate(x):
        host.normalise(synth.record(seed=seed), bundle.input, row)
    return np.tile(x, (N_RECORDS // N_DISTINCT, 1, 1))


def ecg_per_s(engine: cpu.CpuEngine, x: np.ndarray, *, seconds: float = float("inf"), n: int | None = None) -> float:
    """Rate of an engine that always has the next batch at hand, over `n` records or so many seconds."""
    started = perf_counter()

    def supply() -> Iterator[tuple[None, np.ndarray]]:
        at = 0
        while perf_counter() - started < seconds:
            yield None, x[at : at + engine.batch]
            at = (at + engine.batch) % len(x)

    n_batches = None if n is None else -(-n // engine.batch)
    n_done = sum(len(logits) for _, logits, _ in engine.stream(islice(supply(), n_batches)))
    return n_done / (perf_counter() - started)


if __name__ == "__main__":
    main()
