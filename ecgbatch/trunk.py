"""Networks that run once for all the models that share them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ecgbatch import admission
from ecgbatch.bundle import Bundle, trunk_of
from ecgbatch.errors import EngineError, UsageError
from ecgbatch.output import Outputs
from ecgbatch.runtimes import Engine, Head, open_engine, open_head

__all__ = ["Trunk", "opened"]


@dataclass(frozen=True, slots=True)
class Trunk:
    """An engine, which runs once a batch, and the heads that read its embedding."""

    engine: Engine
    heads: tuple[Head, ...] = ()

    @property
    def name(self) -> str:
        return self.engine.bundle.name

    def outputs(self, logits: np.ndarray, embedding: np.ndarray) -> Outputs:
        """What the engine's own bundle and each head say of its logits and embedding."""
        told = {self.name: (self.engine.bundle.probabilities(logits), embedding)}
        for head in self.heads:
            told[head.bundle.name] = (head.bundle.probabilities(head(embedding)), embedding)
        return told


def opened(
    bundles: Sequence[Bundle], device: str, precision: str, *, batch: int | None, recorded: Sequence[str] = ()
) -> list[Trunk]:
    """The networks that these models need, each of them once, in the order of the models; all admitted.

    The precision `auto` is the first of the `recorded` variants that a network can be had in; of those that heads are
    on it is fp32 else, because the parity of heads in other precisions was never measured. Without `batch` it is what
    suits the first of them.

    Raises:
        UsageError: two models, or a model and another one's parent, have one name.
        BundleError: a head's parent cannot be had.
        EngineError: an engine cannot be had, or does not reproduce its bundle's reference scores.
    """
    heads: dict[str, list[Bundle]] = {}
    trunks: dict[str, Bundle] = {}
    for bundle in bundles:
        trunk = trunk_of(bundle, bundles)
        trunks.setdefault(trunk.fingerprint, trunk)
        heads.setdefault(trunk.fingerprint, []).extend([] if bundle.parent is None else [bundle])
    names = [bundle.name for bundle in (*trunks.values(), *(head for each in heads.values() for head in each))]
    if len(set(names)) != len(names) or len({bundle.name for bundle in bundles}) != len(bundles):
        raise UsageError("two models of one name: their columns could not be told apart")
    found: list[Trunk] = []
    for fingerprint, trunk in trunks.items():
        on_it = heads[fingerprint]
        wanted = [*recorded, "fp32" if on_it else "auto"] if precision == "auto" else [precision]
        found.append(_opened(trunk, on_it, device, wanted, batch=batch))
        batch = found[0].engine.batch
    return found


def _opened(trunk: Bundle, heads: Sequence[Bundle], device: str, wanted: Sequence[str], *, batch: int | None) -> Trunk:
    engine = admission.admitted(_engine(trunk, device, wanted, batch=batch))
    return Trunk(engine, tuple(admission.admitted_head(open_head(head, engine), engine) for head in heads))


def _engine(trunk: Bundle, device: str, wanted: Sequence[str], *, batch: int | None) -> Engine:
    """The first of these variants that can be had."""
    *preferred, last = wanted
    for variant in preferred:
        with suppress(EngineError):
            return open_engine(trunk, device, variant, batch=batch)
    return open_engine(trunk, device, last, batch=batch)
