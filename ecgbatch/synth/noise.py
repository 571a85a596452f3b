"""What a recording has besides the heart: made at the electrodes, so that it obeys the leads' own equations.

Each electrode's noise is drawn in the frequency domain, where the device's filters are products.
"""

from functools import lru_cache
from math import gcd

import numpy as np

from ecgbatch.synth.heart import low_pass_sd_s

__all__ = ["draw_noise"]


def draw_noise(
    rng: np.random.Generator, n_samples: int, fs_hz: float, *, high_pass_hz: float, low_pass_hz: float, mains_hz: float
) -> np.ndarray:
    """Noise in µV (8, time) of I, II, V1 … V6: baseline wander, muscle, amplifier, now and then mains and motion.

    The kinds are those of Friesen et al. 1990 (IEEE TBME 37:85); their levels are our own: most recordings are clean,
    a few are poor.
    """
    n = _padded(n_samples)
    wander, muscle = _bands(n, fs_hz, high_pass_hz, low_pass_hz)
    poor = rng.lognormal(0, 0.5)
    wander_uv = 30 * poor * rng.lognormal(0, 0.4, 9)
    muscle_uv = 2 + 4 * poor * rng.lognormal(0, 0.4, 9)
    # The parts are uniform: enough, as their sum over many bins is normal, and three times as fast.
    spectrum = rng.random((9, muscle.size, 2), np.float32).astype(np.float64)
    spectrum -= 0.5
    spectrum[:, : wander.size] *= np.outer(wander_uv, wander)[..., None]
    spectrum[:, wander.size :] *= np.outer(muscle_uv, muscle[wander.size :])[..., None]
    noise_uv = _leads(np.fft.irfft(spectrum.view(np.complex128)[..., 0], n)[:, :n_samples])
    if rng.random() < 0.3:
        noise_uv += _mains(rng, n_samples, fs_hz, mains_hz)
    if rng.random() < 0.06:
        pulled = _leads(np.eye(9)[:, rng.integers(9)])
        noise_uv += np.outer(pulled, _motion(rng, n_samples, fs_hz))
    return noise_uv


def _leads(electrodes: np.ndarray) -> np.ndarray:
    """I, II, V1 … V6 of the electrodes RA, LA, LL, V1 … V6; chest leads against the mean of the limbs (Wilson)."""
    right, left, foot = electrodes[:3]
    leads = np.empty((8, *electrodes.shape[1:]))
    leads[0], leads[1] = left - right, foot - right
    leads[2:] = electrodes[3:] - (right + left + foot) / 3
    return leads


@lru_cache(maxsize=64)
def _bands(n: int, fs_hz: float, high_pass_hz: float, low_pass_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of 1 µV rms wander and of 1 µV rms muscle noise, both after the device's filters, cut where they end."""
    f_hz = np.arange(n // 2 + 1) * fs_hz / n
    high_pass = f_hz / np.hypot(f_hz, high_pass_hz)
    low_pass = np.exp(-((2 * np.pi * f_hz * low_pass_sd_s(low_pass_hz)) ** 2) / 2)
    wander = np.where((f_hz > 0) & (f_hz < 1), 1 / np.hypot(f_hz, 0.15) ** 1.5, 0)
    muscle = np.where(f_hz >= 1, np.minimum(f_hz / 25, 1) ** 0.5, 0)
    uniform = n * np.sqrt(3)  # makes a sum over bins of uniform parts, 1/12 each in variance, 1 µV rms
    wander = wander / (np.sqrt((wander**2).sum()) or 1.0) * high_pass * uniform  # none in less than a second
    muscle = muscle / np.sqrt((muscle**2).sum()) * low_pass * uniform
    n_wander = int(np.searchsorted(f_hz, 1.0))
    n_muscle = max(int(np.searchsorted(-low_pass, -0.02)), n_wander)
    return wander[:n_wander], muscle[:n_muscle]


@lru_cache(maxsize=64)
def _padded(n_samples: int) -> int:
    """A period longer than the recording, so that its end does not join its start; its factors suit the FFT."""
    n = n_samples + n_samples // 20
    while n != gcd(n, 2**24 * 3**12 * 5**9):
        n += 1
    return n


def _mains(rng: np.random.Generator, n_samples: int, fs_hz: float, mains_hz: float) -> np.ndarray:
    """Hum in µV (8, time): one frequency, its own size and phase at each electrode."""
    turn = 2 * np.pi * (mains_hz + rng.normal(0, 0.02)) / fs_hz * np.arange(n_samples)
    size_uv = 5 * rng.lognormal(0, 0.6) * rng.normal(0, 1, (9, 2))
    return np.asarray(_leads(size_uv) @ np.stack([np.cos(turn), np.sin(turn)]))


def _motion(rng: np.random.Generator, n_samples: int, fs_hz: float) -> np.ndarray:
    """One electrode is pulled at some moment: a step in µV (time,) that decays."""
    since_s = np.arange(n_samples) / fs_hz - rng.uniform(0.05, 0.95) * n_samples / fs_hz
    step_uv = rng.uniform(150, 700) * rng.choice([-1, 1])
    return np.where(since_s > 0, step_uv * np.exp(-np.maximum(since_s, 0) / rng.uniform(0.3, 1.0)), 0)
