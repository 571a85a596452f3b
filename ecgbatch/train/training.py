"""A network in training: its weights, their running average, the optimiser, and the best weights so far.

A step is a function of this state and of the seed, the epoch and the step, from which every random draw follows. So a
checkpoint needs no random state, and on a CPU a training that was killed at any step ends in the same bits as one that
was not.

On several devices each process takes its share of every batch, with random draws of its own, and normalises by the
statistics of that share; the gradient is that of the whole batch, and weights, averages and choices are alike in all.
Of three or more, a resumed training may end in other last bits: DDP sums in another order after its first step.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ecgbatch import files
from ecgbatch.errors import OutputError, UsageError
from ecgbatch.network import Network
from ecgbatch.train import augment, metrics
from ecgbatch.train.stream import Inputs, Stream

__all__ = ["Recipe", "Training", "predict"]

_MEANT = {"codes": "these labels", "input": "this input"}
"""Facts that give the weights their meaning, and what a refusal calls them: it quotes no code of a table."""
_AT_ONCE = 64
"""Records that a network is asked about at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained."""

    epochs: int
    batch: int
    """ECGs of a step, over all devices."""
    seed: int
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    mixup_alpha: float = 0.4
    average_decay: float = 0.995
    """Of the running average of the weights, a step."""
    patience: int = 10
    """Epochs without a better one after which training ends."""
    is_balanced: bool = False
    """Whether the positives of a label weigh as much as its negatives."""
    devices: int = 1
    """That share each batch."""
    data_sha256: str = ""
    split_sha256: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.learning_rate <= 0:
            raise UsageError(
                f"training: {self.epochs} epochs of batches of {self.batch} at rate {self.learning_rate:g}, "
                "expected at least 1 of 2, and a rate above 0"
            )
        if not 1 <= self.devices <= self.batch:
            raise UsageError(
                f"training: {self.devices} devices for batches of {self.batch}, expected 1 to {self.batch}"
            )


class Training:
    """A training between two steps."""

    def __init__(
        self,
        network_arguments: Mapping[str, Any],
        recipe: Recipe,
        *,
        fabric: Fabric | None = None,
        build: Callable[..., Network] = Network,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin with random weights of the network that `build` makes of the arguments.

        `fabric` says on what device and in what precision; on a CPU in float32 by default. `facts` are kept in the
        checkpoint: what else must be known to use its weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = build(**network_arguments)
        # Channels last is twice as fast in bfloat16 on a CPU.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.build = build
        self.facts = {"network": dict(network_arguments), **(facts or {})}
        self.network_arguments = dict(network_arguments)
        self.recipe = recipe
        self.fabric = fabric or Fabric(accelerator="cpu", devices=1, precision="32-true")
        weights = self.network.parameters()
        self.module, self.optimiser = self.fabric.setup(
            self.network, torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        )
        self.average = _copy(self.network.state_dict())
        self.best = _copy(self.average)
        self.history: list[dict[str, float]] = []
        """One row for each finished epoch: mean loss, and the average's macro AUC on the choosing side."""
        self.step, self.loss = 0, 0.0
        """Steps done of the epoch that is under way, and the sum of their losses."""

    @property
    def best_epoch(self) -> int:
        return 1 + max(range(len(self.history)), key=lambda at: self.history[at]["auc_choose"])

    @property
    def is_finished(self) -> bool:
        n_epochs = len(self.history)
        return n_epochs >= self.recipe.epochs or (n_epochs > 0 and n_epochs - self.best_epoch >= self.recipe.patience)

    def best_network(self) -> Network:
        """A network of its own with the best weights, ready to be used, on the CPU."""
        network = self.build(**self.network_arguments)
        network.load_state_dict(self.best)
        return network.eval()

    def run_epoch(self, train: Stream, choose: Inputs, *, after_step: Callable[[], None] = lambda: None) -> None:
        """Go through what is left of an epoch, and keep the averaged weights if they are the best yet."""
        positive_weight = self._positive_weight(train)
        for x, y in train.epoch(len(self.history) + 1, start=self.step):
            n_done = len(self.history) * train.n_steps + self.step
            self._set_rate(n_done / (self.recipe.epochs * train.n_steps))
            with torch.random.fork_rng(devices=self._devices()):
                torch.manual_seed(self.recipe.seed * 1_000_003 + n_done + (self.fabric.global_rank << 28))
                self.loss += self._step(*self._augmented(x, y, train), positive_weight)
            self._follow(n_done)
            self.step += 1
            after_step()
        logits = predict(self._with(self.average), choose.each(choose.blocks))[0]
        # All compute it, for waiting may take long; but graphics processors might differ in the last bit.
        auc = self.fabric.broadcast(metrics.macro_auc(choose.cohort.targets, logits))
        self.history.append({"loss": self.loss / train.n_steps, "auc_choose": auc})
        self.step, self.loss = 0, 0.0
        if self.best_epoch == len(self.history):
            self.best = _copy(self.average)

    def _augmented(self, x: np.ndarray, y: np.ndarray, train: Stream) -> tuple[Tensor, Tensor]:
        spec, there = train.inputs.spec, self.fabric.device
        scale_mv = torch.tensor(spec.scale_mv, dtype=torch.float32, device=there)
        n_limb = sum(not lead.startswith("V") for lead in spec.leads)
        distorted = augment.distort(torch.from_numpy(x).to(there), scale_mv=scale_mv, fs_hz=spec.fs_hz, n_limb=n_limb)
        return augment.mixup(distorted, torch.from_numpy(y).to(there), alpha=self.recipe.mixup_alpha)

    def _step(self, x: Tensor, y: Tensor, positive_weight: Tensor | None) -> float:
        self.network.train()
        logits, _ = self.module(x)
        is_known = ~y.isnan()  # of two records that were mixed, both are
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits.float(), y.nan_to_num(), reduction="none", pos_weight=positive_weight
        )
        n_known = self._over_devices("sum", is_known.sum())
        # Of gradients DDP takes the mean over the devices.
        loss = self.fabric.world_size * (loss * is_known).sum() / n_known.clamp(min=1)
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.module, self.optimiser, max_norm=1.0)
        self.optimiser.step()
        if self.fabric.world_size > 1:
            self._share_statistics()
        return self._over_devices("mean", loss.detach()).item()

    def _over_devices(self, how: Literal["mean", "sum"], tensor: Tensor) -> Tensor:
        reduced = self.fabric.all_reduce(tensor, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def _share_statistics(self) -> None:
        """Keep the mean over all devices of what each normalisation has seen on its own."""
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        seen = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var) if tensor is not None]
        if seen:
            mean = self._over_devices("mean", torch.cat(seen))
            for tensor, shared in zip(seen, torch.split(mean, [len(tensor) for tensor in seen]), strict=True):
                tensor.copy_(shared)

    def _positive_weight(self, train: Stream) -> Tensor | None:
        """How many negatives there are to a positive of each label, where that is asked for."""
        if not self.recipe.is_balanced:
            return None
        targets = train.inputs.cohort.targets
        ratio = (targets == 0).sum(0) / np.maximum(1, (targets == 1).sum(0))
        return torch.from_numpy(ratio.astype(np.float32)).to(self.fabric.device)

    def _set_rate(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * one_cycle(progress)

    def _devices(self) -> list[int]:
        """The graphics processors whose random state a step uses."""
        return [self.fabric.device.index or 0] if self.fabric.device.type == "cuda" else []

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
        """Write the checkpoint; a kill leaves either the old one or the new one.

        Raises:
            OutputError: the disk is full or not writable; the old one stays.
        """
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for at, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{at}/{name}": value for name, value in moments.items()}
        state = {
            "made": self._made(),
            "facts": self.facts,
            "history": self.history,
            "step": self.step,
            "loss": self.loss,
        }
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        content = save(contiguous, {name: json.dumps(value) for name, value in state.items()})
        with files.writing(path), files.replaced(path) as partial:
            # Not `save_file`: it makes a file that only its owner can read, and a kill leaves that under another name.
            partial.write_bytes(content)

    def resume(self, path: Path) -> None:
        """Take over the state of a checkpoint.

        Raises:
            UsageError: it is of another network, recipe or cohort.
            OutputError: it cannot be read, or is damaged.
        """
        state, kept = _kept(path)
        tensors = {name: tensor.to(self.fabric.device) for name, tensor in kept.items()}
        made = {"devices": 1, **state["made"]}  # one that names no devices is of one
        other = [f"{key} {value!r}" for key, value in self._made().items() if made.get(key) != value]
        facts = json.loads(json.dumps(self.facts))  # tuples become lists
        other += [told for key, told in _MEANT.items() if state["facts"].get(key) != facts.get(key)]
        if other:
            raise UsageError(f"{path.name}: not a training with {', '.join(other)}; resume it as it was begun")
        self.history, self.step, self.loss = (state[name] for name in ("history", "step", "loss"))
        self.network.load_state_dict(_part(tensors, "network/"))
        self.average, self.best = _part(tensors, "average/"), _part(tensors, "best/")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam/").items():
            at, moment = name.split("/")
            moments.setdefault(int(at), {})[moment] = value
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})


def _kept(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says of the training, and its tensors."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            state = {name: json.loads(facts[name]) for name in ("made", "facts", "history", "step", "loss")}
            return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as err:
        found = f"{path}: cannot be read ({files.cause(err)}), expected the checkpoint of a training"
        raise OutputError(f"{found}; begin anew in another folder") from err


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth, then half a cosine down to nothing."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def predict(network: Network, inputs: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """float32 logits (record, label) and embedding (record, feature) of normalised input, on the network's device."""
    network.eval()
    device = next(network.parameters()).device
    logits, embeddings = [], []
    with torch.inference_mode():
        for x in inputs:
            for at in range(0, len(x), _AT_ONCE):
                scored = network(torch.from_numpy(x[at : at + _AT_ONCE]).to(device))
                logits.append(scored[0].cpu())
                embeddings.append(scored[1].cpu())
    return torch.cat(logits).numpy(), torch.cat(embeddings).numpy()


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
