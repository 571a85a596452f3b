"""A network in training: its weights, their running average, the optimiser, and the best weights so far.

An epoch is a function of this state and of the seed and the epoch's number, from which every random draw follows.
So a checkpoint needs no random state, and a training that was killed ends in the same bits as one that was not.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ecgbatch.errors import UsageError
from ecgbatch.network import Network
from ecgbatch.train import augment, metrics

__all__ = ["Recipe", "Split", "Training", "predict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    epochs: int
    batch: int
    seed: int
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    mixup_alpha: float = 0.4
    average_decay: float = 0.995
    """Of the running average of the weights, a step."""
    patience: int = 10
    """Epochs without a better one after which training ends."""
    data_sha256: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise UsageError(f"training: {self.epochs} epochs of batches of {self.batch}, expected at least 1 of 2")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Normalised ECGs and their labels, (record, lead, time) and (record, label), to train on and to choose by."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_choose: np.ndarray
    y_choose: np.ndarray
    scale_mv: tuple[float, ...]
    fs_hz: int


class Training:
    """A training between two epochs."""

    def __init__(self, network_arguments: Mapping[str, Any], recipe: Recipe) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = Network(**network_arguments)
        # Channels last is twice as fast in bfloat16 on a CPU.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network_arguments = dict(network_arguments)
        self.recipe = recipe
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.average = _copy(self.network.state_dict())
        self.best = _copy(self.average)
        self.history: list[dict[str, float]] = []
        """One row for each finished epoch: mean loss, and the average's macro AUC on the choosing folds."""

    @property
    def best_epoch(self) -> int:
        return 1 + max(range(len(self.history)), key=lambda at: self.history[at]["auc_choose"])

    @property
    def is_finished(self) -> bool:
        n_epochs = len(self.history)
        return n_epochs >= self.recipe.epochs or (n_epochs > 0 and n_epochs - self.best_epoch >= self.recipe.patience)

    def best_network(self) -> Network:
        """A network of its own with the best weights, ready to be used."""
        network = Network(**self.network_arguments)
        network.load_state_dict(self.best)
        return network.eval()

    def run_epoch(self, split: Split) -> None:
        """Go through the training records once, and keep the averaged weights if they are the best yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed * 100_003 + len(self.history) + 1)
            loss = self._steps(split)
        logits = predict(self._with(self.average), split.x_choose)[0]
        auc = metrics.macro_auc(split.y_choose, logits)
        self.history.append({"loss": loss, "auc_choose": auc})
        if self.best_epoch == len(self.history):
            self.best = _copy(self.average)

    def _steps(self, split: Split) -> float:
        self.network.train()
        scale_mv = torch.tensor(split.scale_mv, dtype=torch.float32)
        n_steps = max(1, len(split.x_train) // self.recipe.batch)  # a short last batch would disturb normalisation
        order = torch.randperm(len(split.x_train))[: n_steps * self.recipe.batch].view(n_steps, -1)
        losses = []
        for step, at in enumerate(order):
            x, y = torch.from_numpy(split.x_train[at.numpy()]), torch.from_numpy(split.y_train[at.numpy()])
            x = augment.distort(x, scale_mv=scale_mv, fs_hz=split.fs_hz)
            x, y = augment.mixup(x, y, alpha=self.recipe.mixup_alpha)
            n_done = len(self.history) * n_steps + step
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * one_cycle(n_done / (self.recipe.epochs * n_steps))
            losses.append(self._step(x, y))
            self._follow(n_done)
        return float(np.mean(losses))

    def _step(self, x: Tensor, y: Tensor) -> float:
        # Half the time of float32 on a CPU with AVX512-BF16 or AMX, several times as much on one without.
        with torch.autocast("cpu", torch.bfloat16):
            logits, _ = self.network(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def _with(self, weights: Mapping[str, Tensor]) -> Network:
        network = copy.deepcopy(self.network)
        network.load_state_dict(weights)
        return network.eval()

    def _follow(self, n_done: int) -> None:
        """Draw the average towards the weights; faster at first, when they are still far from any good."""
        decay = min(self.recipe.average_decay, (1 + n_done) / (10 + n_done))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)

    def _made(self) -> dict[str, Any]:
        """All that the outcome depends on; equal for two trainings that end alike."""
        return {**self.network_arguments, **asdict(self.recipe)}

    def save(self, path: Path) -> None:
        """Write the checkpoint; a kill leaves either the old one or the new one."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for at, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{at}/{name}": value for name, value in moments.items()}
        facts = {"made": json.dumps(self._made()), "history": json.dumps(self.history)}
        partial = path.with_name(path.name + ".partial")
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata=facts)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Take over the state of a checkpoint.

        Raises:
            UsageError: it is of another network, recipe or cohort.
        """
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        made = json.loads(facts["made"])
        if other := [f"{key} {value!r}" for key, value in self._made().items() if made.get(key) != value]:
            raise UsageError(f"{path.name}: not a training with {', '.join(other)}; resume it as it was begun")
        self.history = json.loads(facts["history"])
        self.network.load_state_dict(_part(tensors, "network/"))
        self.average, self.best = _part(tensors, "average/"), _part(tensors, "best/")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam/").items():
            at, moment = name.split("/")
            state.setdefault(int(at), {})[moment] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth, then half a cosine down to nothing."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def predict(network: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 logits (record, label) and embedding (record, feature) of normalised input."""
    network.eval()
    with torch.inference_mode():
        parts = [network(torch.from_numpy(x[at : at + 64])) for at in range(0, len(x), 64)]
    return torch.cat([logits for logits, _ in parts]).numpy(), torch.cat([embedding for _, embedding in parts]).numpy()


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
