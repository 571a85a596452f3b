"""A trained network as a bundle folder: everything that `bundle.Bundle.load` and the runtimes read."""

import copy
import csv
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tomli_w
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ecgbatch import files, golden, synth
from ecgbatch.bundle import Bundle, Label
from ecgbatch.errors import BundleError
from ecgbatch.feed import host
from ecgbatch.network import Network
from ecgbatch.train import place

__all__ = ["write", "write_head_onnx", "write_onnx"]

OPSET = 18
IR_VERSION = 10
"""Of the ONNX file; what the exporter of whole networks writes."""
GOLDEN = (
    ("sinus", 500),
    ("afib", 500),
    ("lbbb", 500),
    ("st-elevation-inferior", 500),
    ("tachycardia", 250),
    ("lvh", 250),
    ("pvc", 1000),
    ("paced", 400),
)
"""Rhythm and rate in Hz of each golden record."""
TOLERANCE = 1e-5
"""Largest difference in a logit that ONNX Runtime may show against PyTorch, relative to logits beyond ±1."""


def write(bundle: Bundle, network: Network, *, card: str) -> Bundle:
    """Write the folder of a bundle whose hashes are not yet taken, whole or not at all, and load it.

    A bundle already there is replaced. Of a bundle with a parent only the head is written; the network has both.

    Raises:
        BundleError: the ONNX graph does not say what the network says.
        OutputError: the folder is there and is no bundle, or cannot be written.
    """
    with place.filled(bundle.folder) as folder:
        _write_content(folder, bundle, network.eval(), card)
    return Bundle.load(bundle.folder)


def _write_content(folder: Path, bundle: Bundle, network: Network, card: str) -> None:
    _write_labels(folder / "labels.csv", bundle.labels)
    weights = network.state_dict()
    if bundle.parent is None:
        write_onnx(folder / "model.onnx", network, n_leads=len(bundle.input.leads), n_samples=bundle.input.samples)
    else:
        weights = {name: value for name, value in weights.items() if name.startswith("head.")}
        write_head_onnx(folder / "model.onnx", network.head)
    # Not `save_file`: it makes a file that only its owner can read.
    (folder / "weights.safetensors").write_bytes(save(weights))
    _write_golden(folder / "golden.parquet", bundle, network)
    # Somewhere in the command may stand the name of a file, which may hold what UTF-8 cannot.
    (folder / "CARD.md").write_text(card, "utf-8", "replace")
    hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    hashes.pop("CARD.md")
    (folder / "bundle.toml").write_text(_toml(replace(bundle, hashes=hashes)), "utf-8", "replace")


def write_onnx(path: Path, network: Network, *, n_leads: int, n_samples: int) -> None:
    """Write the graph `x` (record, lead, time) -> `logits`, `embedding`; any number of records, plain operators.

    Raises:
        BundleError: ONNX Runtime does not get the network's own logits from it.
    """
    x = torch.randn(2, n_leads, n_samples, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not our users' concern
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            _folded(network),
            (x,),
            path,
            input_names=["x"],
            output_names=["logits", "embedding"],
            dynamic_shapes={"x": {0: torch.export.Dim("record", min=1, max=65536)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _strip(path)
    with torch.inference_mode():
        _check_onnx(path, {"x": x}, network(x))


def write_head_onnx(path: Path, head: nn.Linear) -> None:
    """Write the graph `embedding` (record, feature) -> `logits`; any number of records.

    Raises:
        BundleError: ONNX Runtime does not get the head's own logits from it.
    """
    weights = [
        onnx.numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in (("weight", head.weight), ("bias", head.bias))
    ]
    shapes = {"embedding": head.in_features, "logits": head.out_features}
    ends = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["record", n])
        for name, n in shapes.items()
    }
    product = onnx.helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"], transB=1)
    graph = onnx.helper.make_graph([product], "head", [ends["embedding"]], [ends["logits"]], weights)
    opset = onnx.helper.make_opsetid("", OPSET)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), path)
    embedding = torch.randn(2, head.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _check_onnx(path, {"embedding": embedding}, [head(embedding)])


def _folded(network: Network) -> Network:
    """The same function with each normalisation folded into the convolution before it."""
    folded = copy.deepcopy(network).eval()
    for parent in folded.modules():
        for name, child in parent.named_children():
            match list(child.children()):
                case [nn.Conv2d() as convolution, nn.BatchNorm2d() as normalisation]:
                    setattr(parent, name, fuse_conv_bn_eval(convolution, normalisation))
    return folded


def _strip(path: Path) -> None:
    """Drop the exporter's notes, which hold paths of the machine that ran it."""
    model = onnx.load(path)
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(model, path)


def _check_onnx(path: Path, inputs: Mapping[str, torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    for one, other in zip([output.numpy() for output in expected], found, strict=True):
        worst = float((np.abs(one - other) / np.maximum(1, np.abs(one))).max())
        if not worst <= TOLERANCE:
            raise BundleError(f"{path.name}: differs from the network by {worst:.1e}, expected at most {TOLERANCE:.0e}")


def _write_labels(path: Path, labels: tuple[Label, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="replace") as lines:
        rows = csv.DictWriter(lines, [field.name for field in fields(Label)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(label) for label in labels)


def _write_golden(path: Path, bundle: Bundle, network: Network) -> None:
    records = [
        synth.record(seed=seed, rhythm=rhythm, fs_hz=fs_hz) for seed, (rhythm, fs_hz) in enumerate(GOLDEN, start=1)
    ]
    x = np.empty((len(records), len(bundle.input.leads), bundle.input.samples), np.float32)
    for record, out in zip(records, x, strict=True):
        host.normalise(record, bundle.input, out)
    with torch.inference_mode():
        logits = network(torch.from_numpy(x))[0].numpy()
    golden.save(path, records, logits, bundle.probabilities(logits))


def _toml(bundle: Bundle) -> str:
    return tomli_w.dumps(
        {
            "name": bundle.name,
            "version": bundle.version,
            "licence": bundle.licence,
            **({"parent": asdict(bundle.parent)} if bundle.parent else {}),
            "input": asdict(bundle.input),
            "network": dict(bundle.network),
            "training": dict(bundle.training),
            "hashes": dict(bundle.hashes),
        }
    )
