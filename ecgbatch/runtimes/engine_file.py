"""A compiled engine on disk: a line of facts it was built under and the hash of the rest, then TensorRT's plan.

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
_HASH = "plan_sha256"


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
        "ecgbatch": version("ecgbatch"),  # which writes fp16 and bf16 into the graph
        "runtime": f"tensorrt {gpu.tensorrt}",
        "device": gpu.name,
        "architecture": gpu.architecture,
        "driver": f"cuda {gpu.driver}",
        "precision": precision,
        "model": bundle.hashes["model.int8.onnx" if precision == "int8" else "model.onnx"],
        "input": f"{len(bundle.input.leads)} x {bundle.input.samples}",
        "batches": " ".join(map(str, sizes)),
    }


def packed(about: Mapping[str, str], plan: bytes) -> bytes:
    """The file of a plan that was built under these facts."""
    head = json.dumps({**about, _HASH: hashlib.sha256(plan).hexdigest()}, ensure_ascii=False, sort_keys=True)
    return _MAGIC + head.encode() + b"\n" + plan


def unpacked(raw: bytes, expected: Mapping[str, str], *, where: str) -> bytes:
    """The plan in a file, where it was built under just these facts.

    Raises:
        EngineError: it was not, or the file is damaged or no engine.
    """
    head, _, plan = raw.removeprefix(_MAGIC).partition(b"\n")
    try:
        found = json.loads(head) if raw.startswith(_MAGIC) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"{where}: not an engine of this version of ecgbatch; build it again")
    refuse_other({key: value for key, value in found.items() if key != _HASH}, expected, where=where)
    if found.get(_HASH) != hashlib.sha256(plan).hexdigest():
        raise EngineError(f"{where}: damaged, its plan is not the one its hash was taken of; build it again")
    return plan


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
