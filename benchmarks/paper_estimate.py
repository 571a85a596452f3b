"""What one H100 could score at best, on paper: for each stage its peak over what an ECG costs there. Nothing is run.

    python benchmarks/paper_estimate.py --out benchmarks/results/paper_estimate.json

A stage's bound is peak / cost, as if it had the machine to itself and reached its data sheet; nothing real does.

* operations: two for each multiplication of a convolution or the head, from the shapes in `model.onnx`; what the int8
  graph leaves in float32, from those in `model.int8.onnx`
* device memory: what the layers read and write, weights once a batch; ReLU and the addition of a shortcut are fused
  into the convolution before them (an addition reads its other operand), every other operator reads and writes
* PCIe to the device: the model's input in float32 (host feed), or the file's int16 counts (DALI feed on the GPU)
* PCIe to the host: logits and embedding in float32; the two directions do not disturb each other
* host: what one core was measured to read and decode (`results/decode.json`)
"""

import argparse
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import onnx
import tables
from measurement import write

from ecgbatch.bundle import Bundle, find

HERE = Path(__file__).resolve().parent
GPU = "H100 SXM"
SOURCE = "NVIDIA H100 Tensor Core GPU data sheet; its matrix peaks are with sparsity, and halved here"
FLOP_PER_S = {"fp32": 67e12, "fp16": 1979e12 / 2, "bf16": 1979e12 / 2, "int8": 3958e12 / 2}
"""float32 on the CUDA cores: its matrix units know only TF32, which is switched off."""
MEMORY_BYTES_PER_S = 3.35e12  # HBM3
PCIE_BYTES_PER_S = 32e9 * 16 * 128 / 130 / 8  # PCI Express 5.0: 32 GT/s, 16 lanes, 128b/130b; one direction
N_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
COUNTS_BYTES = 12 * 5000 * 2
"""Ten seconds of twelve leads at 500 Hz in int16, as a WFDB file or a pack holds them."""
BATCH = 256
_FUSED = {"Relu", "Add"}
_FREE = {"Cast", "Concat", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="foundation")
    parser.add_argument("--precision", default="fp16", choices=FLOP_PER_S, help="of the matrix units that may bind")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    bundle = find(args.model)
    settings = {"model": bundle.name, "precision": args.precision, "gpu": GPU, "batch": BATCH, "peaks": SOURCE}
    print(tables.render(write(args.out, "paper_estimate", settings, estimate(bundle, args.precision))))


def estimate(bundle: Bundle, precision: str) -> dict[str, Any]:
    """The bound of every stage, and which of those that this precision passes through is the least."""
    flop, values, weights = costs(onnx.load(bundle.folder / "model.onnx"))
    x_bytes = 4 * len(bundle.input.leads) * bundle.input.samples
    stages = {
        "pcie-in": _link("PCIe to the device, model input in float32", x_bytes),
        "pcie-counts": _link("PCIe to the device, 12 leads of int16 counts", COUNTS_BYTES),
        "pcie-out": _link("PCIe to the host, logits and embedding", 4 * (len(bundle.labels) + _n_features(bundle))),
    }
    for name, n_bytes in N_BYTES.items():
        if name == "bf16":  # as fp16
            continue
        text = "fp16 and bf16" if name == "fp16" else name
        moved = n_bytes * (values + weights / BATCH)
        stages[f"memory-{name}"] = _stage(
            f"device memory, {text}", moved, MEMORY_BYTES_PER_S, ("MB", 1e6, "TB/s", 1e12)
        )
        stages[f"matrix-{name}"] = _stage(
            f"arithmetic, {text}", flop, FLOP_PER_S[name], ("GFLOP", 1e9, "TFLOP/s", 1e12)
        )
    if (graph := bundle.folder / "model.int8.onnx").exists():
        held, text = in_float32(onnx.load(graph)), "arithmetic, what the int8 graph leaves in fp32"
        stages["matrix-held-int8"] = _stage(text, held, FLOP_PER_S["fp32"], ("GFLOP", 1e9, "TFLOP/s", 1e12))
    own = "fp16" if precision == "bf16" else precision
    passed = ["pcie-in", "pcie-out", f"memory-{own}", f"matrix-{own}", f"matrix-held-{own}"]
    binding = min(stages.keys() & passed, key=lambda name: stages[name]["ecg_per_s"])
    decoded = json.loads((HERE / "results" / "decode.json").read_text("utf-8"))["containers"]["muse-xml"]
    bound, core = stages[binding]["ecg_per_s"], decoded["ecg_per_s"]["median"]
    return {
        "stages": stages,
        "binding": binding,
        "gflop_per_ecg": flop / 1e9,
        "decode_ecg_per_s": core,
        "decoding_cores": bound / core,
        "read_gb_per_s": bound * decoded["n_bytes"] / 1e9,
    }


def costs(model: onnx.ModelProto) -> tuple[float, float, float]:
    """Of one record: operations, and values read and written between layers; and the number of weights."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {value.name: _size(value) for value in (*inferred.input, *inferred.output, *inferred.value_info)}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    flop = values = 0.0
    for node in model.graph.node:
        read = [sizes[name] for name in node.input if name in sizes]
        out = sizes[node.output[0]]
        if node.op_type in ("Conv", "Gemm"):
            flop += 2 * out * prod(weights[node.input[1]][1:])
        if node.op_type == "Add":
            values += min(read)  # the other operand is still in registers
        elif node.op_type not in _FUSED | _FREE:
            values += sum(read) + out
    return flop, values, float(sum(prod(dims) for dims in weights.values()))


def in_float32(model: onnx.ModelProto) -> float:
    """Operations of one record in the convolutions and products of an int8 graph whose weights are float32."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {value.name: _size(value) for value in (*inferred.output, *inferred.value_info)}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in weights]
    return float(sum(2 * sizes[node.output[0]] * prod(weights[node.input[1]][1:]) for node in layers))


def _size(value: onnx.ValueInfoProto) -> int:
    """Elements of one record; its axis is the first, and has a name for its length."""
    return prod(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])


def _n_features(bundle: Bundle) -> int:
    output = next(value for value in onnx.load(bundle.folder / "model.onnx").graph.output if value.name == "embedding")
    return output.type.tensor_type.shape.dim[1].dim_value


def _link(name: str, n_bytes: float) -> Mapping[str, Any]:
    return _stage(name, n_bytes, PCIE_BYTES_PER_S, ("kB", 1e3, "GB/s", 1e9))


def _stage(name: str, cost: float, peak: float, units: tuple[str, float, str, float]) -> Mapping[str, Any]:
    unit, per, unit_peak, per_peak = units
    return {
        "name": name,
        "cost": cost,
        "peak": peak,
        "ecg_per_s": peak / cost,
        "unit": unit,
        "per": per,
        "unit_peak": unit_peak,
        "per_peak": per_peak,
    }


if __name__ == "__main__":
    main()
