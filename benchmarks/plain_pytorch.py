"""What people would write instead of ecgbatch: lxml or wfdb, SciPy, a DataLoader, PyTorch or ONNX Runtime.

It knows one well-formed layout of each container, checks nothing, rejects nothing and cannot be resumed. The weights
are a bundle's own, so the scores are too.
"""

import argparse
import base64
import csv
import json
import sys
import time
from collections.abc import Callable
from math import gcd
from pathlib import Path

import numpy as np
import polars as pl
import torch
import wfdb
from lxml import etree
from safetensors.torch import load_file
from scipy.signal import resample_poly
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ecgbatch.bundle import Bundle, InputSpec, find
from ecgbatch.network import Network

TOLERANCE = 1e-4
"""In probability; what two ways of computing the same scores may differ by."""


def read_muse(path: str) -> tuple[dict[str, np.ndarray], float]:
    """Each lead of the rhythm in mV, and the rate."""
    rhythm = etree.parse(path).xpath("/RestingECG/Waveform[WaveformType='Rhythm']")[0]
    fs_hz = float(rhythm.findtext("SampleBase")) * 10 ** int(rhythm.findtext("SampleExponent"))
    leads = {}
    for lead in rhythm.iterfind("LeadData"):
        counts = np.frombuffer(base64.b64decode(lead.findtext("WaveFormData")), "<i2")
        leads[lead.findtext("LeadID")] = counts * (float(lead.findtext("LeadAmplitudeUnitsPerBit")) * 1e-3)
    return leads, fs_hz


def read_wfdb(path: str) -> tuple[dict[str, np.ndarray], float]:
    """Each lead in mV, and the rate."""
    record = wfdb.rdrecord(path.removesuffix(".hea"))
    return dict(zip(record.sig_name, record.p_signal.T, strict=True)), record.fs


def model_input(path: str, spec: InputSpec) -> np.ndarray:
    """float32 (lead, time) of one file, as the model wants it."""
    leads, fs_hz = read_wfdb(path) if path.endswith(".hea") else read_muse(path)
    x = np.stack([leads[name] for name in spec.leads])
    if spec.filter == "offset":
        x -= x[:, : round(spec.seconds * fs_hz)].mean(axis=1, keepdims=True)
    common = gcd(spec.fs_hz, int(fs_hz))
    x = resample_poly(x, spec.fs_hz // common, int(fs_hz) // common, axis=1, padtype="edge")[:, : spec.samples]
    x = np.pad(x, ((0, 0), (0, spec.samples - x.shape[1])))
    return np.clip(x / np.array(spec.scale_mv)[:, None], -spec.clip, spec.clip).astype(np.float32)


class Archive(Dataset[np.ndarray]):
    """Files as model input."""

    def __init__(self, paths: list[str], spec: InputSpec) -> None:
        self.paths = paths
        self.spec = spec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return model_input(self.paths[index], self.spec)


def load_network(bundle: Bundle) -> Network:
    """The bundle's network, ready to score."""
    network = Network(**bundle.network)
    network.load_state_dict(load_file(bundle.folder / "weights.safetensors"))
    return network.eval()


def load(bundle: Bundle, runtime: str, *, batch: int) -> Callable[[Tensor], Tensor]:
    """Logits (record, label) of a whole batch, warmed up: `eager`, `compile` or `onnxruntime`."""
    network = load_network(bundle)
    scored: Callable[[Tensor], Tensor]
    match runtime:
        case "onnxruntime":
            import onnxruntime

            session = onnxruntime.InferenceSession(bundle.folder / "model.onnx", providers=["CPUExecutionProvider"])

            def scored(x: Tensor) -> Tensor:
                return torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])

        case "compile":
            compiled = torch.compile(network)

            def scored(x: Tensor) -> Tensor:
                return compiled(x)[0]

        case _:

            def scored(x: Tensor) -> Tensor:
                return network(x)[0]

    with torch.inference_mode():
        scored(torch.zeros(batch, len(bundle.input.leads), bundle.input.samples))
    return scored


def probabilities(
    scored: Callable[[Tensor], Tensor], bundle: Bundle, paths: list[str], *, batch: int, workers: int
) -> np.ndarray:
    """Calibrated float32 (record, label)."""
    slope = torch.tensor([label.slope for label in bundle.labels])
    intercept = torch.tensor([label.intercept for label in bundle.labels])
    scores = []
    with torch.inference_mode():
        for x in DataLoader(Archive(paths, bundle.input), batch_size=batch, num_workers=workers):
            full = torch.zeros(batch, *x.shape[1:])  # a compiled network is one of a shape
            full[: len(x)] = x
            scores.append(torch.sigmoid(slope * scored(full)[: len(x)] + intercept))
    return torch.cat(scores).numpy()


def write_csv(path: Path, paths: list[str], codes: list[str], scores: np.ndarray) -> None:
    """One row a file."""
    with path.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines)
        rows.writerow(["path", *codes])
        rows.writerows([name, *row] for name, row in zip(paths, scores.tolist(), strict=True))


def largest_difference(scores_csv: Path, run: Path, bundle: Bundle) -> float:
    """Of any probability in the CSV from the one that ecgbatch wrote into its run folder.

    Raises:
        SystemExit: the files scored are not the same ones.
    """
    ours = pl.read_parquet(run / "scores" / "*.parquet").sort("source_path")
    plain = pl.read_csv(scores_csv).sort("path")
    if ours["source_path"].to_list() != plain["path"].to_list():
        raise SystemExit(f"{run}: {len(ours)} files scored, expected the {len(plain)} of {scores_csv}")
    columns = [f"{bundle.name}/{code}" for code in bundle.codes]
    return float(np.abs(ours.select(columns).to_numpy() - plain.select(bundle.codes).to_numpy()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, required=True, help="file for the scores")
    parser.add_argument("--model", default="foundation")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="processes of the DataLoader")
    parser.add_argument("--runtime", choices=["eager", "compile", "onnxruntime"], default="eager")
    parser.add_argument("--limit", type=int, help="score only the first so many files")
    parser.add_argument("--against", type=Path, help="run folder of ecgbatch to compare the scores with")
    args = parser.parse_args()
    bundle = find(args.model)
    files = (path for path in args.folder.resolve().rglob("*") if path.suffix in (".xml", ".hea"))
    paths = [str(path) for path in sorted(files)][: args.limit]

    scored = load(bundle, args.runtime, batch=args.batch)

    started = time.perf_counter()
    scores = probabilities(scored, bundle, paths, batch=args.batch, workers=args.workers)
    write_csv(args.csv, paths, bundle.codes, scores)
    seconds = time.perf_counter() - started

    result = {"n": len(paths), "seconds": seconds, "ecg_per_s": len(paths) / seconds, "workers": args.workers}
    if args.against:
        result["largest_difference"] = largest_difference(args.csv, args.against, bundle)
    print(json.dumps(result))
    sys.exit(result.get("largest_difference", 0) > TOLERANCE)


if __name__ == "__main__":
    main()
