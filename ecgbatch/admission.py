"""Admission: an engine may score only after it has said of the reference ECGs what its model said of them."""

import numpy as np

from ecgbatch import golden
from ecgbatch.bundle import Bundle
from ecgbatch.errors import EngineError
from ecgbatch.feed import host
from ecgbatch.parity import LIMITS
from ecgbatch.runtimes import Engine, Head

__all__ = ["admitted", "admitted_head", "reference"]


def admitted(engine: Engine) -> Engine:
    """The same engine, once it has reproduced its bundle's reference scores through the feed that records take.

    Raises:
        EngineError: it does not reproduce them.
    """
    x, expected = reference(engine.bundle)
    _compare(engine.bundle, engine(x)[0], expected, engine)
    return engine


def admitted_head(head: Head, engine: Engine) -> Head:
    """The same head, once it has reproduced its bundle's reference scores on the engine of its parent.

    Raises:
        EngineError: it does not reproduce them.
    """
    x, expected = reference(head.bundle)
    _compare(head.bundle, head(engine(x)[1]), expected, engine)
    return head


def reference(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The reference ECGs as the model is fed them, float32 (record, lead, time), and their expected probabilities."""
    records, expected = golden.load(bundle)
    x = np.empty((len(records), len(bundle.input.leads), bundle.input.samples), np.float32)
    for record, row in zip(records, x, strict=True):
        host.normalise(record, bundle.input, row)
    return x, expected


def _compare(bundle: Bundle, logits: np.ndarray, expected: np.ndarray, engine: Engine) -> None:
    worst = float(np.abs(bundle.probabilities(logits) - expected).max())
    tolerance = LIMITS[engine.precision].worst_probability
    if not worst <= tolerance:
        missed = f"reference scores missed by {worst:.2g} in probability, expected at most {tolerance:g}"
        raise EngineError(f"model {bundle.name!r} on {engine}: {missed}; nothing was scored")
