"""The processor that a network is trained on, and in what precision."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from ecgbatch.errors import EngineError

__all__ = ["Device", "chosen"]

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True, slots=True)
class Device:
    """What `training.Training` runs on."""

    accelerator: str
    """`cpu` or `cuda`."""
    precision: str
    """`32-true`, or `bf16-mixed`: products in bfloat16, weights and sums in float32."""

    def __str__(self) -> str:
        return f"{self.accelerator} {self.precision}"

    def fabric(self) -> Fabric:
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision
        return Fabric(accelerator=self.accelerator, devices=1, precision=self.precision)  # type: ignore[arg-type]


def chosen(device: str) -> Device:
    """The device of that name; `auto` is a graphics processor where there is one.

    Products are in bfloat16 where the processor has instructions for it, which halves the time; a CPU without them
    would take several times as long, and works in float32.

    Raises:
        EngineError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"device {device!r}, expected auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise EngineError("device 'cuda': PyTorch sees no NVIDIA GPU; train with --device cpu")
    accelerator = "cpu" if device == "cpu" or not has_cuda else "cuda"
    has_bfloat16 = _cpu_has_bfloat16() if accelerator == "cpu" else torch.cuda.is_bf16_supported()
    return Device(accelerator, "bf16-mixed" if has_bfloat16 else "32-true")


def _cpu_has_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool(_BFLOAT16_FLAGS & set(flags.split()))
