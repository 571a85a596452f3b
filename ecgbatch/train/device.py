"""The processors that a network is trained on, and in what precision."""

import logging
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from ecgbatch import processor
from ecgbatch.errors import EngineError

__all__ = ["Device", "chosen"]

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # every process announces itself and its precision


@dataclass(frozen=True, slots=True)
class Device:
    """What `training.Training` runs on."""

    accelerator: str
    """`cpu` or `cuda`."""
    precision: str
    """`32-true`, or `bf16-mixed`: products in bfloat16, weights and sums in float32."""
    n: int = 1
    """Graphics processors, or processes on the CPU."""

    def __str__(self) -> str:
        return f"{f'{self.n} × ' if self.n > 1 else ''}{self.accelerator} {self.precision}"

    def fabric(self) -> Fabric:
        """Of one device it can be used at once; of several, `processes.launch` starts it."""
        if self.n == 1:
            return Fabric(accelerator=self.accelerator, devices=1, precision=self.precision)  # type: ignore[arg-type]
        return Fabric(
            accelerator=self.accelerator,
            devices=self.n,
            precision=self.precision,  # type: ignore[arg-type]
            strategy=DDPStrategy(start_method="spawn"),
            plugins=[LightningEnvironment()],  # this machine alone, under Slurm too
        )


def chosen(device: str, n: int = 1) -> Device:
    """The device of that name, or `n` of them; `auto` is a graphics processor where there is one.

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
    if accelerator == "cuda" and n > torch.cuda.device_count():
        n_there = torch.cuda.device_count()
        raise EngineError(
            f"{n} devices, expected at most the {n_there} that PyTorch sees; ask for fewer with --devices"
        )
    has_bfloat16 = _cpu_gains_by_bfloat16() if accelerator == "cpu" else torch.cuda.is_bf16_supported()
    return Device(accelerator, "bf16-mixed" if has_bfloat16 else "32-true", n)


def _cpu_gains_by_bfloat16() -> bool:
    flags, vendor = processor.flags(), processor.facts().get("vendor_id")
    return "amx_bf16" in flags or ("avx512_bf16" in flags and vendor == "AuthenticAMD")
