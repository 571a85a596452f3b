"""Training a network on a few ECGs of one label: from a foundation's weights, or from none.

    network ── warm-up ── epochs at one rate, weights averaged ── the epoch that an inner split likes best

The rate stays where it is after the warm-up, for the average of the weights does what a falling rate would; so how long
training takes need not be known beforehand, and a network that learns faster simply ends earlier.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import UsageError
from ecgbatch.network import Network
from ecgbatch.train import augment
from ecgbatch.train.device import Device
from ecgbatch.train.training import predict

__all__ = ["DEPTHS", "Depth", "Examples", "Tuned", "TuningRecipe", "draws", "groups", "logits", "tune"]

Depth = Literal["all", "last", "head"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)
N_LAST = 2
"""Stages that `last` trains, beside the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRecipe:
    """How a network is trained on few ECGs."""

    epochs: int
    """At most, where an inner split chooses; exactly, where there is none."""
    seed: int
    learning_rate: float
    """Of the head."""
    depth: Depth = "all"
    stage_decay: float = 0.9
    """What the rate of each stage is to that of the next one: early stages, which fit any ECG, change least."""
    batch: int = 32
    weight_decay: float = 0.05
    mixup_alpha: float = 0.2
    average_decay: float = 0.98
    """Of the running average of the weights, a step."""
    patience: int = 10
    """Epochs without a better one after which training ends."""
    least_positive: float = 0.25
    """Share of the examples drawn that are positive, at least: rare ones are drawn more often."""

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise UsageError(f"depth {self.depth!r}, expected one of {', '.join(DEPTHS)}")
        if self.epochs < 1 or self.batch < 2 or self.learning_rate <= 0:
            raise UsageError(
                f"{self.epochs} epochs of batches of {self.batch} at rate {self.learning_rate:g}, "
                "expected at least 1 of 2 at a positive one"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Normalised ECGs, float32 (record, lead, time), and whether each is positive, bool (record,)."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tuned:
    """A trained network, and how long it was trained."""

    network: Network
    epochs: int
    """Whose averaged weights these are; 0 for the ones it started from."""
    loss: float
    """On the inner split; NaN without one."""


def tune(
    start: Network,
    examples: Examples,
    choose: Examples | None,
    recipe: TuningRecipe,
    *,
    spec: InputSpec,
    device: Device,
) -> Tuned:
    """A copy of `start` trained on the examples; `choose` says which epoch is best and when to stop."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = copy.deepcopy(start).to(device.accelerator)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(network).eval()
        best = Tuned(network=copy.deepcopy(average), epochs=0, loss=_loss(average, choose, recipe))
        for epoch, _ in enumerate(_epochs(network, average, examples, recipe, spec=spec, device=device), start=1):
            loss = _loss(average, choose, recipe)
            if choose is None or loss < best.loss:
                best = Tuned(network=copy.deepcopy(average), epochs=epoch, loss=loss)
            elif epoch - best.epochs >= recipe.patience:
                break
    best.network.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return best


def _epochs(
    network: Network, average: Network, examples: Examples, recipe: TuningRecipe, *, spec: InputSpec, device: Device
) -> Iterator[None]:
    """Train both in place, and stop after each epoch to be looked at."""
    optimiser = torch.optim.AdamW(groups(network, recipe), weight_decay=recipe.weight_decay)
    rates = [group["lr"] for group in optimiser.param_groups]
    scale_mv = torch.tensor(spec.scale_mv, dtype=torch.float32)
    n_steps = max(1, len(examples) // recipe.batch)
    n_limb = sum(not lead.startswith("V") for lead in spec.leads)
    n_done = 0
    for _ in range(recipe.epochs):
        _begin(network)
        for at in draws(examples.y, n_steps, recipe):
            x = torch.from_numpy(examples.x[at])
            y = torch.from_numpy(examples.y[at].astype(np.float32)).view(-1, 1)
            x = augment.distort(x, scale_mv=scale_mv, fs_hz=spec.fs_hz, n_limb=n_limb)
            x, y = augment.mixup(x, y, alpha=recipe.mixup_alpha)
            warmth = min(1.0, (n_done + 1) / n_steps)  # the first epoch warms up
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * warmth
            _step(network, optimiser, x.to(device.accelerator), y.to(device.accelerator), device)
            n_done += 1
            _follow(average, network, min(recipe.average_decay, n_done / (10 + n_done)))
        yield


def groups(network: Network, recipe: TuningRecipe) -> list[dict[str, object]]:
    """The parameters that the depth trains, a group a stage with its own rate; the others are frozen."""
    stages = _stages(network)
    first = {"all": 0, "last": len(stages) - 1 - N_LAST, "head": len(stages) - 1}[recipe.depth]
    made: list[dict[str, object]] = []
    for at, modules in enumerate(stages):
        parameters = [parameter for module in modules for parameter in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(at >= first)
        if at >= first:
            rate = recipe.learning_rate * recipe.stage_decay ** (len(stages) - 1 - at)
            made.append({"params": parameters, "lr": rate})
    return made


def _stages(network: Network) -> list[list[nn.Module]]:
    """The stem, the blocks of each stage, and the head; a stage begins where the rate is halved."""
    stages: list[list[nn.Module]] = [[network.stem]]
    for block in network.stages:
        if block.first[0].stride[1] == 2:  # type: ignore[index]
            stages.append([])
        stages[-1].append(block)
    return [*stages, [network.head]]


def _begin(network: Network) -> None:
    """Training mode for what is trained; what is frozen keeps its statistics too."""
    network.eval()
    for module in network.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters())
    network.dropout.training = True


def draws(is_positive: np.ndarray, n_steps: int, recipe: TuningRecipe) -> np.ndarray:
    """Which examples make up each step, int (step, example); no class is drawn again before all of it was."""
    n = n_steps * min(recipe.batch, len(is_positive))
    share = max(recipe.least_positive, float(is_positive.mean()))
    n_positive = round(n * share) if is_positive.any() and not is_positive.all() else n * int(is_positive.any())
    drawn = np.concatenate([_cycled(is_positive, n_positive), _cycled(~is_positive, n - n_positive)])
    return drawn[torch.randperm(n).numpy()].reshape(n_steps, -1)


def _cycled(is_one: np.ndarray, n: int) -> np.ndarray:
    at = np.flatnonzero(is_one)
    rounds = [at[torch.randperm(len(at)).numpy()] for _ in range(-(-n // max(1, len(at))))] if n else [at[:0]]
    return np.concatenate(rounds)[:n]


def _step(network: Network, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, device: Device) -> None:
    with torch.autocast(device.accelerator, torch.bfloat16, enabled=device.precision == "bf16-mixed"):
        logits, _ = network(x)
    loss = binary_cross_entropy_with_logits(logits.float(), y)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def _follow(average: Network, network: Network, decay: float) -> None:
    """Draw the averaged weights, and statistics, towards those of the network."""
    with torch.no_grad():
        for kept, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if value.is_floating_point():
                kept.lerp_(value, 1 - decay)


def _loss(network: Network, choose: Examples | None, recipe: TuningRecipe) -> float:
    """Cross-entropy on the inner split, its classes weighed as the draws of training weigh them."""
    if choose is None:
        return float("nan")
    share = max(recipe.least_positive, float(choose.y.mean()))
    weight = np.where(choose.y, share / max(1, choose.y.sum()), (1 - share) / max(1, (~choose.y).sum()))
    z = logits(network, choose.x)
    return float((weight * np.logaddexp(0, np.where(choose.y, -z, z))).sum() / weight.sum())


def logits(network: Network, x: np.ndarray) -> np.ndarray:
    """float32 (record,) of the network's one label, computed as the exported graph will: in float32."""
    return predict(network, [x])[0][:, 0]
