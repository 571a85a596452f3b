"""What happens to an ECG between heart and file, done again at random: new training examples with the same labels."""

import math

import torch
from torch import Tensor

__all__ = ["distort", "mixup"]

GAIN = 0.1
"""Standard deviation of the logarithm of a record's gain: thorax and electrodes."""
LEAD_GAIN = 0.04
WANDER_MV = 0.08
"""Mean amplitude of baseline wander, 0.05 to 0.6 Hz: breathing and electrode drift."""
MAINS_MV = 0.015
MUSCLE_MV = 0.02
NEIGHBOUR = 0.15
"""Largest share of the neighbouring lead in a chest lead: an electrode placed too high, low or far aside."""
LEAD_LOSS = 0.04
"""Chance that a lead is flat."""
SHORT = 0.3
"""Chance that a record starts later or ends earlier, and is padded with zeros at its end as scoring does.

The mean of what is left stays, up to a few tenths of a millivolt, where scoring with the filter `offset` would take it
off: a network learns to bear it.
"""
SHORTEST = 0.5
"""Shortest such record, as a share of the full length."""


def distort(x: Tensor, *, scale_mv: Tensor, fs_hz: int, n_limb: int = 2) -> Tensor:
    """Another recording of the same hearts: (record, lead, time), scaled as the network's input is.

    The chest leads are those after `n_limb` limb leads. All is computed where x lies, and drawn from torch's global
    random state there.
    """
    mv = 1 / scale_mv.view(1, -1, 1)
    x = _misplace(x * _gain(x), n_limb)
    x = x + mv * (_wander(x, fs_hz) + _mains(x, fs_hz) + _muscle(x))
    x = x * (_uniform(x, x.shape[1]) >= LEAD_LOSS)
    return _shorten(x)


def mixup(x: Tensor, y: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Each record blended with another one, labels likewise (Zhang et al. 2018); the share is drawn for each record."""
    concentration = torch.tensor(alpha, device=x.device)
    share = torch.distributions.Beta(concentration, concentration).sample((len(x),))
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(x), device=x.device)
    mixed = share.view(-1, 1, 1) * x + (1 - share).view(-1, 1, 1) * x[other]
    return mixed, share.view(-1, 1) * y + (1 - share).view(-1, 1) * y[other]


def _gain(x: Tensor) -> Tensor:
    record = GAIN * _normal(x)
    return torch.exp(record + LEAD_GAIN * _normal(x, x.shape[1]))


def _misplace(x: Tensor, n_limb: int) -> Tensor:
    """Chest leads, which follow the limb leads, take in some of the next one."""
    chest = x[:, n_limb:]
    if not chest.shape[1]:
        return x
    share = NEIGHBOUR * _uniform(x, chest.shape[1])
    neighbour = torch.where(_uniform(x) < 0.5, chest.roll(1, 1), chest.roll(-1, 1))
    share[:, 0] = share[:, -1] = 0  # V1 and V6 have a neighbour on one side only
    return torch.cat([x[:, :n_limb], (1 - share) * chest + share * neighbour], 1)


def _wander(x: Tensor, fs_hz: int) -> Tensor:
    """Two slow waves a record, in mV; each lead has its own share of them."""
    wave = torch.stack([_sine(x, fs_hz, hz=0.05 + 0.55 * _uniform(x)) for _ in range(2)]).sum(0)
    share = _normal(x, x.shape[1])
    return WANDER_MV * _uniform(x) * share * wave


def _mains(x: Tensor, fs_hz: int) -> Tensor:
    hz = torch.where(_uniform(x) < 0.5, 50.0, 60.0)
    amplitude = _uniform(x) ** 3 * _uniform(x, x.shape[1])
    return MAINS_MV * amplitude * _sine(x, fs_hz, hz=hz)


def _muscle(x: Tensor) -> Tensor:
    amplitude = _uniform(x) ** 2 * _uniform(x, x.shape[1])
    return MUSCLE_MV * amplitude * torch.randn_like(x)


def _sine(x: Tensor, fs_hz: int, *, hz: Tensor) -> Tensor:
    turns = torch.arange(x.shape[2], device=x.device) / fs_hz * hz + _uniform(x)
    return torch.sin(2 * math.pi * turns)


def _uniform(x: Tensor, n: int = 1) -> Tensor:
    """(record, n, 1) where x lies."""
    return torch.rand(x.shape[0], n, 1, device=x.device)


def _normal(x: Tensor, n: int = 1) -> Tensor:
    return torch.randn(x.shape[0], n, 1, device=x.device)


def _shorten(x: Tensor) -> Tensor:
    n_samples = x.shape[2]
    is_short = _uniform(x)[:, 0, 0] < SHORT
    share = SHORTEST + (1 - SHORTEST) * _uniform(x)[:, 0, 0]
    length = torch.where(is_short, share * n_samples, n_samples).long()
    start = (_uniform(x)[:, 0, 0] * (n_samples - length + 1)).long()
    at = torch.arange(n_samples, device=x.device).view(1, 1, -1).expand_as(x)
    shifted = x.gather(2, (at + start.view(-1, 1, 1)).clamp(max=n_samples - 1))
    return shifted * (at < length.view(-1, 1, 1))
