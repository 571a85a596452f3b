"""What a TensorRT plan depends on, and that it is a plan of its bundle.

A plan is code for one GPU, one version of the library and one model. TensorRT notices some of what is wrong with one,
so nothing is handed to it before the cache has compared the facts and the hash of the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError

__all__ = ["Gpu", "Tensor", "facts", "refuse_tensors"]


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
