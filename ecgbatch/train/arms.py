"""The ways to learn a label from a few ECGs: a foundation fine-tuned, a network from scratch, a probe of an embedding.

Each is given the same ECGs, splits the same patients off to choose by, and tries the same rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import UsageError
from ecgbatch.network import Network
from ecgbatch.train import metrics, probe
from ecgbatch.train.device import Device, chosen
from ecgbatch.train.folds import held_out
from ecgbatch.train.probe import Probe
from ecgbatch.train.tuning import DEPTHS, Depth, Examples, Tuned, TuningRecipe, logits, tune

__all__ = ["ARMS", "SPECIFICITY", "Arm", "Budget", "Known", "Learnt", "Pretrained", "budget", "learn", "on_all"]

Arm = Literal["finetune", "scratch", "probe"]
ARMS: tuple[Arm, ...] = get_args(Arm)
SPECIFICITY = 0.9
"""Share of the negatives that the threshold leaves uncalled where it is chosen: among training patients."""
RATES = (5e-4, 2e-3)
"""Learning rates that are tried by default."""
_CHOOSING = 4
"""One training patient in so many chooses the epoch, the rate and the threshold, and trains no weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every arm may spend."""

    epochs: int
    """At most."""
    rates: tuple[float, ...]
    """Learning rates that are tried."""
    depth: Depth
    """How deep fine-tuning goes; scratch trains everything."""
    batch: int
    device: Device

    def recipe(self, arm: Arm, *, rate: float, seed: int, epochs: int | None = None) -> TuningRecipe:
        """The recipe of an arm; stages have rates of their own only where there is something to keep."""
        kept = {"depth": self.depth} if arm == "finetune" else {"depth": "all", "stage_decay": 1.0}
        return TuningRecipe(epochs=epochs or self.epochs, seed=seed, learning_rate=rate, batch=self.batch, **kept)


def budget(*, epochs: int, rates: Sequence[float] | None, depth: str, batch: int, device: str) -> Budget:
    """What the command line asks for; a probe spends none of it.

    Raises:
        UsageError: an option makes no sense.
        EngineError: there is no such device.
    """
    if depth not in (*DEPTHS, "probe"):
        raise UsageError(f"depth {depth!r}, expected one of {', '.join(DEPTHS)}")
    allowed: Depth = next((one for one in DEPTHS if one == depth), "head")
    spent = Budget(epochs=epochs, rates=tuple(rates or RATES), depth=allowed, batch=batch, device=chosen(device))
    for rate in spent.rates:
        spent.recipe("finetune", rate=rate, seed=0)
    return spent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Records whose label is known."""

    x: np.ndarray
    """float32 (record, lead, time)"""
    embedding: np.ndarray
    """float32 (record, feature): of the pre-trained network, before any tuning."""
    y: np.ndarray
    """bool (record,)"""
    patients: np.ndarray

    def only(self, at: np.ndarray) -> "Known":
        return Known(x=self.x[at], embedding=self.embedding[at], y=self.y[at], patients=self.patients[at])

    @property
    def examples(self) -> Examples:
        return Examples(x=self.x, y=self.y)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pretrained:
    """A pre-trained network, and what it takes."""

    network: Network
    arguments: Mapping[str, Any]
    spec: InputSpec

    def headed(self, head: Probe) -> Network:
        """The same network with a probe for its head."""
        weights = dict(self.network.state_dict())
        weights["head.weight"] = torch.tensor(head.weights[None], dtype=torch.float32)
        weights["head.bias"] = torch.tensor([head.intercept], dtype=torch.float32)
        network = Network(**{**self.arguments, "n_labels": 1})
        network.load_state_dict(weights)
        return network.eval()

    def blank(self) -> Network:
        """The same network with a head of zeros."""
        n_features = self.network.head.in_features
        return self.headed(Probe(weights=np.zeros(n_features), intercept=0.0, penalty=0.0))

    def fresh(self, seed: int) -> Network:
        """A network of the same shape with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Network(**{**self.arguments, "n_labels": 1})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learnt:
    """What an arm made of its ECGs."""

    learner: Network | Probe
    threshold: float
    """Logit at and above which a record is called; leaves at least `SPECIFICITY` of the choosing negatives be."""
    epochs: int
    rate: float
    """Learning rate; of a probe, its penalty."""

    def logits(self, known: Known) -> np.ndarray:
        """(record,)"""
        if isinstance(self.learner, Probe):
            return self.learner.logits(known.embedding)
        return logits(self.learner, known.x)


def learn(arm: Arm, pretrained: Pretrained, known: Known, budget: Budget, *, seed: int) -> Learnt:
    """Train an arm on these records; everything it chooses, it chooses among their patients."""
    if arm == "probe":
        head = probe.chosen(known.embedding, known.y, known.patients, seed=seed)
        told = probe.out_of_fold(known.embedding, known.y, known.patients, penalty=head.penalty, seed=seed)
        return Learnt(learner=head, threshold=_threshold(known.y, told), epochs=0, rate=head.penalty)
    is_out = held_out(known.y, known.patients, parts=_CHOOSING, seed=seed)
    assert not set(known.patients[is_out]) & set(known.patients[~is_out])
    training, choosing = known.only(~is_out), known.only(is_out)
    begun = _begun(arm, pretrained, training, budget, seed)
    tried: list[tuple[Tuned, float]] = []
    for rate in budget.rates:
        recipe = budget.recipe(arm, rate=rate, seed=seed)
        tried.append(
            (
                tune(begun, training.examples, choosing.examples, recipe, spec=pretrained.spec, device=budget.device),
                rate,
            )
        )
    best, rate = min(tried, key=lambda one: one[0].loss)
    threshold = _threshold(choosing.y, logits(best.network, choosing.x))
    return Learnt(learner=best.network, threshold=threshold, epochs=best.epochs, rate=rate)


def on_all(
    arm: Arm, pretrained: Pretrained, known: Known, budget: Budget, *, rate: float, epochs: int, seed: int
) -> Network:
    """A network trained on all records, so long and at such a rate as was found best before."""
    begun = _begun(arm, pretrained, known, budget, seed)
    if not epochs:
        return begun
    recipe = budget.recipe(arm, rate=rate, seed=seed, epochs=epochs)
    return tune(begun, known.examples, None, recipe, spec=pretrained.spec, device=budget.device).network


def _begun(arm: Arm, pretrained: Pretrained, training: Known, budget: Budget, seed: int) -> Network:
    """Where training begins: the pre-trained network with a head that says nothing yet; nowhere for scratch.

    Where only the head is trained, it begins as a linear probe. Where the stages are, that was measured to be a trap:
    the probe is a minimum that training leaves only uphill, and patience ended it there (the opposite of what Kumar et
    al., Fine-tuning can distort pretrained features, ICLR 2022, found out of distribution).
    """
    if arm == "scratch":
        return pretrained.fresh(seed)
    if budget.depth == "head":
        return pretrained.headed(probe.chosen(training.embedding, training.y, training.patients, seed=seed))
    return pretrained.blank()


def _threshold(is_positive: np.ndarray, logits: np.ndarray) -> float:
    return metrics.threshold_at(is_positive, logits, specificity=SPECIFICITY)
