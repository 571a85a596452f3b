"""A compiled engine on disk: a line of facts it was built under and hashes, then TensorRT's plan.

A plan is code for one GPU, one version of the library and one model. TensorRT notices some of what is wrong with one,
so nothing is handed to it before the facts and the hash have been compared.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError

__all__ = ["Gpu", "Tensor", "facts", "packed", "refuse_other", "refuse_tensors", "unpacked"]

_MAGIC = b"ecgbatch engine 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device and the software that compiles for it."""

    name: str
    architecture: str
    """As `sm_90`."""
    driver: str
    """Version of CUDA that the driver speaks."""
    tensorrt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of an engine; `shape` has -1 where the number of records goes."""

    is_input: bool
    dtype: str
    shape: tuple[int, ...]


def facts(bundle: Bundle, gpu: Gpu, *, precision: str, sizes: Sequence[int]) -> dict[str, str]:
    """All that an engine depends on: another value of any of them is another engine."""
    return {
        "model": bundle.hashes["model.onnx"],
        "labels": bundle.hashes["labels.csv"],  # calibration and thresholds, which parity depends on
        "precision": precision,
        "device": "cuda",
        "gpu": gpu.name,
        "architecture": gpu.architecture,
        "driver": gpu.driver,
        "tensorrt": gpu.tensorrt,
        "ecgbatch": version("ecgbatch"),  # which writes fp16 and bf16 into the graph
        "input": f"{len(bundle.input.leads)} x {bundle.input.samples}",
        "batches": " ".join(map(str, sizes)),
        **({"graph": bundle.hashes.get("model.int8.onnx", "own")} if precision == "int8" else {}),
    }


def packed(about: Mapping[str, str], graph_sha256: str, plan: bytes) -> bytes:
    """The file of a plan that was built of that graph under these facts."""
    head = {"facts": dict(about), "graph_sha256": graph_sha256, "plan_sha256": hashlib.sha256(plan).hexdigest()}
    return _MAGIC + json.dumps(head, ensure_ascii=False, sort_keys=True).encode() + b"\n" + plan


def unpacked(raw: bytes, expected: Mapping[str, str], *, where: str) -> tuple[str, bytes]:
    """The hash of the graph and the plan in a file, where it was built under just these facts.

    Raises:
        EngineError: it was not, or the file is damaged or no engine.
    """
    head, _, plan = raw.removeprefix(_MAGIC).partition(b"\n")
    try:
        content = json.loads(head) if raw.startswith(_MAGIC) else {}
        found, graph, sha256 = content["facts"], str(content["graph_sha256"]), content["plan_sha256"]
        refuse_other(found, expected, where=where)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise EngineError(f"{where}: not an engine of this version of ecgbatch; build it again") from err
    if sha256 != hashlib.sha256(plan).hexdigest():
        raise EngineError(f"{where}: damaged, its plan is not the one its hash was taken of; build it again")
    return graph, plan


def refuse_other(found: Mapping[str, str], expected: Mapping[str, str], *, where: str) -> None:
    """Nothing, where an engine's facts are the expected ones.

    Raises:
        EngineError: one of them differs.
    """
    for key in sorted(expected.keys() | found.keys()):
        if found.get(key) != expected.get(key):
            what = f"{key} {found.get(key)!r}, expected {expected.get(key)!r}"
            raise EngineError(f"{where}: built for {what}; build it again")


def refuse_tensors(found: Mapping[str, Tensor], built: Sequence[int], bundle: Bundle, *, sizes: Sequence[int]) -> None:
    """Nothing, where a plan takes and gives what its bundle does, in these batch sizes.

    Raises:
        EngineError: it is the plan of something else.
    """
    n_features = found["embedding"].shape[-1] if "embedding" in found else -1  # only the plan knows
    expected: dict[str, tuple[bool, tuple[int, ...]]] = {
        "x": (True, (len(bundle.input.leads), bundle.input.samples)),
        "logits": (False, (len(bundle.labels),)),
        "embedding": (False, (n_features,)),
    }
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            raise EngineError(f"engine of {sorted(found)}, expected {sorted(expected)}; build it again")
        is_input, row = expected[name]
        tensor = found[name]
        if (tensor.is_input, tensor.dtype, tensor.shape[1:]) != (is_input, "FLOAT", row):
            raise EngineError(f"engine: {name} is {tensor}, expected FLOAT (records, {row}); build it again")
    if tuple(built) != tuple(sizes):
        raise EngineError(f"engine: built for batches of {tuple(built)}, expected {tuple(sizes)}; build it again")
