"""The processor that a network is trained on, and in what precision."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from ecgbatch.errors import EngineError

__all__ = ["Device", "chosen"]


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

    Products are in bfloat16 where that halves the time, and in float32 elsewhere: a CPU without instructions for it
    would take several times as long, and Intel's AVX-512 ones alone took 1.5 times as long as float32.

    Raises:
        EngineError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"device {device!r}, expected auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise EngineError("device 'cuda': PyTorch sees no NVIDIA GPU; train with --device cpu")
    accelerator = "cpu" if device == "cpu" or not has_cuda else "cuda"
    has_bfloat16 = _cpu_gains_by_bfloat16() if accelerator == "cpu" else torch.cuda.is_bf16_supported()
    return Device(accelerator, "bf16-mixed" if has_bfloat16 else "32-true")


def _cpu_gains_by_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return False
    facts = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", [])
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in facts.get("vendor_id", []))
