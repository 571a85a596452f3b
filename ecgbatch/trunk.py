"""Networks that run once for all the models that share them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgbatch import admission
from ecgbatch.bundle import Bundle, trunk_of
from ecgbatch.errors import UsageError
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


def opened(bundles: Sequence[Bundle], device: str, precision: str, *, batch: int | None) -> list[Trunk]:
    """The networks that these models need, each of them once, in the order of the models; all admitted.

    Without `batch` it is what suits the first of them.

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
        found.append(_opened(trunk, heads[fingerprint], device, precision, batch=batch))
        batch = found[0].engine.batch
    return found


def _opened(trunk: Bundle, heads: Sequence[Bundle], device: str, precision: str, *, batch: int | None) -> Trunk:
    engine = admission.admitted(open_engine(trunk, device, precision, batch=batch))
    return Trunk(engine, tuple(admission.admitted_head(open_head(head, engine), engine) for head in heads))
