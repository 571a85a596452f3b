"""The oracle: a bundle's network in PyTorch, from `weights.safetensors`, on the CPU in float32."""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from ecgbatch.bundle import Bundle, trunk_of
from ecgbatch.errors import BundleError
from ecgbatch.network import Network

__all__ = ["EagerEngine", "load"]


class EagerEngine:
    """A bundle's network, called with NumPy arrays."""

    def __init__(self, bundle: Bundle, network: Network) -> None:
        self.bundle = bundle
        self.network = network

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 logits (record, label) and embedding (record, feature) of normalised (record, lead, time)."""
        with torch.inference_mode():
            logits, embedding = self.network(torch.from_numpy(np.ascontiguousarray(x, np.float32)))
        return logits.numpy(), embedding.numpy()


def load(bundle: Bundle, others: Sequence[Bundle] = ()) -> EagerEngine:
    """The engine of a bundle; a head's includes the parent's network, looked for as `bundle.trunk_of` says.

    Raises:
        BundleError: the bundle's network is not one that this version builds, or the weights are not its own.
    """
    trunk = trunk_of(bundle, others)
    try:
        network = Network(**{**trunk.network, "n_labels": bundle.network["n_labels"]})
        weights = load_file(trunk.folder / "weights.safetensors")
        network.load_state_dict(weights | load_file(bundle.folder / "weights.safetensors"))
    except (TypeError, ValueError, KeyError, RuntimeError) as err:
        raise BundleError(f"bundle {bundle.name!r}: network and weights do not fit: {err}") from err
    return EagerEngine(bundle, network.eval())
