"""How fast the engine alone is, by batch size, and its share of what the machine multiplies at best.

    python benchmarks/engine.py --out benchmarks/results/engine.json

The engine is `ecgbatch.runtimes.cpu` fed from memory through its `stream`, as a run feeds it. The limit is a product of
2048 x 2048 matrices in the same library, precision and number of requests, measured in turn with it. It is what plain
multiplying reaches, not a law of nature: a convolution that reuses its caches better can pass it by a little.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov
import tables
from measurement import Spread, arguments, interleaved, ratios, spread, write
from openvino import opset13 as ops

from ecgbatch import synth
from ecgbatch.bundle import Bundle, find
from ecgbatch.feed import host
from ecgbatch.runtimes import cpu

MATRIX = 2048
N_RECORDS = 256
N_DISTINCT = 32
"""Records that are computed; the others are copies, as cold to the processor's caches."""


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", default="foundation")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    args = parser.parse_args()
    bundle = find(args.model)
    engines = {batch: cpu.load(bundle, batch=batch) for batch in args.batch}
    x = records(bundle)
    subjects: dict[str, Callable[[], float]] = {
        str(batch): partial(ecg_per_s, engine, x, seconds=args.seconds) for batch, engine in engines.items()
    }
    subjects["matrix"] = partial(_matrix_gflop_per_s, _matrix_product(), args.seconds)
    for subject in subjects.values():
        subject()
    values = interleaved(subjects, args.rounds)
    matrix = spread(values.pop("matrix"))
    gflop = _gflop_per_ecg(bundle)
    measured = {
        "gflop_per_ecg": gflop,
        "matrix_gflop_per_s": matrix,
        "batches": {
            batch: _batch(spread(rates), gflop, matrix, n_streams=engines[int(batch)].n_streams)
            for batch, rates in values.items()
        },
    }
    settings = {"model": bundle.name, "version": bundle.version, "seconds": args.seconds, "rounds": args.rounds}
    print(tables.render(write(args.out, "engine", settings, measured)))


def _batch(rates: Spread, gflop: float, matrix: Spread, *, n_streams: int) -> dict[str, Any]:
    gflop_per_s = spread(rate * gflop for rate in rates["all"])
    return {
        "n_streams": n_streams,
        "ecg_per_s": rates,
        "gflop_per_s": gflop_per_s,
        "share": ratios(gflop_per_s, matrix),
    }


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


def _matrix_product() -> ov.AsyncInferQueue:
    """A product with a constant matrix, on as many requests as suit the machine."""
    weights = np.random.default_rng(1).random((MATRIX, MATRIX), np.float32)
    x = ops.parameter([MATRIX, MATRIX], ov.Type.f32)
    model = ov.Model([ops.matmul(x, ops.constant(weights), transpose_a=False, transpose_b=False)], [x])
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    return ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", hints))


def _matrix_gflop_per_s(queue: ov.AsyncInferQueue, seconds: float) -> float:
    x = np.random.default_rng(2).random((MATRIX, MATRIX), np.float32)
    started = perf_counter()
    n_products = 0
    while perf_counter() - started < seconds:
        for _ in range(len(queue)):
            queue.start_async([ov.Tensor(x, shared_memory=True)])
            n_products += 1
    queue.wait_all()
    return n_products * 2 * MATRIX**3 / 1e9 / (perf_counter() - started)


def _gflop_per_ecg(bundle: Bundle) -> float:
    from ecgbatch.network import Network, gflop_per_ecg

    network = Network(**bundle.network)
    return gflop_per_ecg(network, n_leads=len(bundle.input.leads), n_samples=bundle.input.samples)


if __name__ == "__main__":
    main()
