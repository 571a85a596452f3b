"""The pieces of a GPU run that need no TensorRT, each beside what the device does at best.

    python benchmarks/gpu_pieces.py --out benchmarks/results/gpu_pieces.json

The kernel that makes model input, compiled with nvcc and launched on payloads that lie in device memory: its largest
difference from the host's input over mixed rates, lengths, leads and widths, and its rate beside a copy. The DALI graph
on payloads in host memory, transfer included, where DALI is installed. The network in PyTorch, eager and compiled, in
each precision, beside a matrix product.
"""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import tables
import torch
from inputs import SPEC
from measurement import arguments, write

from ecgbatch import synth
from ecgbatch.bundle import find
from ecgbatch.errors import EcgbatchError
from ecgbatch.feed import host, payload
from ecgbatch.feed.batch import Batch
from ecgbatch.network import gflop_per_ecg
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record
from ecgbatch.runtimes import eager

KERNELS = Path(__file__).parents[1] / "kernels"
BATCH = 256
N_DISTINCT = 64
"""Records that are computed; the others are copies in memory of their own."""
JOB = np.dtype([("layout", payload.LAYOUT), ("payload", "u8"), ("taps", "u8"), ("leads", "u8"), ("out", "u8")])
"""`Job` of `kernels/recipe.h`."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHIM = """
#include "launch.h"
extern "C" int write_all(const ecg::Job* jobs, int64_t n_jobs, int64_t n_leads, int64_t samples, float clip,
                         cudaStream_t stream) {
    return ecg::launch(jobs, n_jobs, n_leads, samples, clip, stream);
}
"""


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--n", type=int, default=4096, help="records of one launch of the kernel")
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024], help="ECGs that the network sees at once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        launch = compiled(Path(work))
        difference = largest_difference(launch, mixed(48))
        kernel_s = times(resident(launch, records(N_DISTINCT), args.n), args.rounds)
    n_bytes = args.n * (records(1)[0].counts.nbytes + 4 * len(SPEC.leads) * SPEC.samples)
    measured = {
        "gpu": torch.cuda.get_device_name(),
        "kernel": {
            "largest_difference": difference,
            "ecg_per_s": args.n / median(kernel_s),
            "bytes_per_s": n_bytes / median(kernel_s),
            "copy_bytes_per_s": copied(args.rounds),
        },
        "graph": graph(args.rounds),
        "network": network(args.batch, args.rounds),
    }
    print(tables.render(write(args.out, "gpu_pieces", {"n": args.n, "rounds": args.rounds}, measured)))


def records(n: int) -> list[Record]:
    return [synth.record(seed=seed, fs_hz=500, seconds=10) for seed in range(n)]


def mixed(n: int) -> list[Record]:
    """Noise of many rates, lengths, leads and widths in turn."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(n):
        fs_hz, seconds = (100, 250, 257, 400, 499.9, 500, 977, 1000)[i % 8], (5.0, 7.3, 10, 10.2, 30)[i % 5]
        leads, kind = (INDEPENDENT_LEADS, LEADS, LEADS[::-1])[i % 3], (np.int16, np.int32)[i % 2]
        counts = rng.normal(0, 250, (round(fs_hz * seconds), len(leads))).astype(kind).T
        scale = tuple(2.5 + 0.01 * lead for lead in range(len(leads)))
        lies = counts if i % 4 < 2 else counts.copy()
        zero = (0.0,) * len(leads)
        made.append(Record(format="test", fs_hz=fs_hz, leads=leads, counts=lies, uv_per_count=scale, zero_counts=zero))
    return made


def compiled(work: Path) -> Callable[[torch.Tensor, int], None]:
    """Launch the kernel for so many jobs, which lie in device memory."""
    (work / "shim.cu").write_text(SHIM, "utf-8")
    command = ["nvcc", "-std=c++20", "-O3", "-shared", "-Xcompiler", "-fPIC", "-arch=native", f"-I{KERNELS}"]
    command += [str(work / "shim.cu"), str(KERNELS / "launch.cu"), "-o", str(work / "launch.so")]
    subprocess.run(command, check=True)
    call = ctypes.CDLL(str(work / "launch.so")).write_all
    call.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_float, ctypes.c_void_p]

    def launch(jobs: torch.Tensor, n: int) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        if error := call(jobs.data_ptr(), n, len(SPEC.leads), SPEC.samples, SPEC.clip, stream):
            raise SystemExit(f"the launch failed with CUDA error {error}")

    return launch


class Resident:
    """Payloads, recipes and place for the input of records, in device memory."""

    def __init__(self, made: Sequence[Record], n: int) -> None:
        payloads = [payload.of(record, SPEC, host.flat_leads(record)) for record in made]
        head = payload.LAYOUT.itemsize
        self.out = torch.full((n, len(SPEC.leads), SPEC.samples), float("nan"), device="cuda")
        self._kept = []
        jobs = np.zeros(n, JOB)
        for at in range(n):
            each = payloads[at % len(payloads)]
            there = [_there(part) for part in (each.counts, each.taps, each.recipe[head:])]
            self._kept.append(there)
            jobs[at]["layout"] = np.frombuffer(each.recipe[:head].tobytes(), payload.LAYOUT)[0]
            for name, tensor in zip(("payload", "taps", "leads"), there, strict=True):
                jobs[at][name] = tensor.data_ptr()
            jobs[at]["out"] = self.out[at].data_ptr()
        self.jobs = _there(jobs.view(np.uint8))


def _there(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()).cuda()


def largest_difference(launch: Callable[[torch.Tensor, int], None], made: Sequence[Record]) -> float:
    """Of the kernel's input from the host's; NaN where a sample was not written."""
    there = Resident(made, len(made))
    launch(there.jobs, len(made))
    expected = host.room(len(made), SPEC)
    for record, row in zip(made, expected, strict=True):
        host.normalise(record, SPEC, row)
    return float(np.abs(there.out.cpu().numpy() - expected).max())


def resident(launch: Callable[[torch.Tensor, int], None], made: Sequence[Record], n: int) -> Callable[[], None]:
    there = Resident(made, n)
    return lambda: launch(there.jobs, n)


def times(work: Callable[[], object], rounds: int) -> list[float]:
    """Seconds on the device, one a round, the first ones left out."""
    taken = []
    for at in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if at >= 2:
            taken.append(begin.elapsed_time(end) / 1e3)
    return taken


def copied(rounds: int) -> float:
    """Bytes read and written a second by a copy within device memory."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / median(times(lambda: target.copy_(source), rounds))


def graph(rounds: int) -> dict[str, Any]:
    """ECG/s of the DALI graph from payloads in host memory to input in device memory, or why there is none."""
    from ecgbatch.feed import dali, dali_operator

    try:
        operator = dali_operator.build()
        pipeline = dali.Graph([SPEC], device="cuda:0", size=BATCH, workers=4)
    except EcgbatchError as err:
        return {"why_not": str(err)}
    room = payload.room(BATCH, SPEC)
    for record, row in zip(records(N_DISTINCT) * (BATCH // N_DISTINCT), room, strict=True):
        row[0] = payload.of(record, SPEC, host.flat_leads(record))

    def fed(n: int) -> float:
        rows: list[Any] = [None] * BATCH
        source = (Batch(shard=0, is_last=False, rows=rows, x={SPEC: room}, rejects=[]) for _ in range(n))
        started = perf_counter()
        n_done = sum(len(batch.rows) for batch in pipeline.filled(source))
        torch.cuda.synchronize()
        return n_done / (perf_counter() - started)

    fed(4)
    kernels = [{"architecture": k.architecture, "registers": k.registers} for k in operator.kernels]
    return {"ecg_per_s": median(fed(20) for _ in range(rounds)), "kernels": kernels}


def network(batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """ECG/s and operations a second of the shipped network by runtime, precision and batch; and the products'."""
    bundle = find("foundation")
    loaded = eager.load(bundle).network
    host_x = torch.from_numpy(
        np.stack([_input(record) for record in records(N_DISTINCT)]).repeat(-(-max(batches) // N_DISTINCT), 0)
    )
    expected = torch.sigmoid(loaded(host_x[:N_DISTINCT])[0].detach())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    gflop = gflop_per_ecg(loaded, n_leads=len(bundle.input.leads), n_samples=bundle.input.samples)
    found: dict[str, Any] = {
        "gflop_per_ecg": gflop,
        "products": {name: _product(kind, rounds) for name, kind in PRECISIONS.items()},
        "rates": [],
    }
    for precision, kind in PRECISIONS.items():
        there = eager.load(bundle).network.cuda().to(kind).to(memory_format=torch.channels_last)
        for runtime, model in (("eager", there), ("compiled", torch.compile(there))):
            for batch in batches:
                x = host_x[:batch].cuda().to(kind)
                with torch.inference_mode():
                    said = torch.sigmoid(model(x)[0].float().cpu())[:N_DISTINCT]
                    seconds = median(times(partial(model, x), rounds))
                apart = float((said - expected[: len(said)]).abs().max())
                row = {"runtime": runtime, "precision": precision, "batch": batch, "ecg_per_s": batch / seconds}
                found["rates"].append({**row, "largest_difference": apart})
    return found


def _input(record: Record) -> np.ndarray:
    bundle = find("foundation")
    x = host.room(1, bundle.input)[0]
    host.normalise(record, bundle.input, x)
    return x


def _product(kind: torch.dtype, rounds: int) -> float:
    """Operations a second of a product of 8192 x 8192 matrices."""
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=kind) for _ in range(2))
    return 2 * 8192**3 / median(times(lambda: one @ other, rounds))


if __name__ == "__main__":
    main()
