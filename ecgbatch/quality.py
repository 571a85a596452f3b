"""What is measured of a signal, in plain NumPy: the definition that the compiled kernel is held to.

Samples are averaged down to 250 to 500 a second, and cut into blocks of 20 ms, segments of ten blocks (0.2 s) and
windows of ten segments (2 s; the last takes what is left over). A missing sample holds the value before it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int32
from numpy import ndarray

from ecgbatch.record import INVALID
from ecgbatch.waveform import mixing

__all__ = ["LIMB_LEADS", "MEASURES", "WORST_IS_LEAST", "features", "lead_measures", "limb_residual", "worst"]

MEASURES = (
    "amplitude_uv",
    "flat_share",
    "clipped_share",
    "spike_uv",
    "wander_uv",
    "noise_uv",
    "mains_uv",
    "qrs_uv",
    "qrs_agreement",
)
"""What is measured of each lead, in the kernel's order; `lead_measures` says what they are."""

LIMB_LEADS = ("III", "aVR", "aVL", "aVF")
"""The leads that follow from I and II, so that a stored one can be compared with them."""

WORST_IS_LEAST = ("qrs_uv", "qrs_agreement")
"""The measures that are bad where they are small; all others are where they are large."""

_PER_SEGMENT, _PER_HALF, _PER_WINDOW = 10, 25, 100
"""Blocks in 0.2 s, 0.5 s and 2 s."""
_RATE_HZ = 250
_LINES_HZ = (50, 60)
_FLOOR_UV = 10
"""Added to a lead's QRS before its activity is scaled by it: below it, there is none."""
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a record is cut; counts of averaged samples, blocks, segments and windows."""

    averaged: int
    fs_hz: float
    n: int
    lag: int
    block: int

    @classmethod
    def of(cls, n_stored: int, stored_hz: float | int) -> "_Grid":
        averaged = int(np.clip(int(stored_hz / _RATE_HZ), 1, n_stored))
        fs_hz, n = stored_hz / averaged, n_stored // averaged
        return cls(averaged, fs_hz, n, max(1, _rounded(0.004 * fs_hz)), int(np.clip(_rounded(0.02 * fs_hz), 1, n)))

    @property
    def n_blocks(self) -> int:
        return self.n // self.block

    def windows(self, n: int, each: int) -> list[slice]:
        """Of `n` blocks or segments, `each` of them a window."""
        n_windows = max(1, self.n_blocks // _PER_WINDOW)
        return [slice(w * each, n if w + 1 == n_windows else (w + 1) * each) for w in range(n_windows)]


def lead_measures(nv: Int32[ndarray, "8 time"], fs_hz: float | int) -> Float64[ndarray, "measure 8"]:
    """(measure, lead) of the eight independent leads.

    Amplitude: peak to peak. Flat: share of blocks without any change. Clipped: share of samples at either of the lead's
    own extremes, where these are taken more than once. QRS: the largest change within a block, in the middle one of the
    windows. Spike: how much larger it once is, for a step or a spike. Wander: peak to peak of half-second means.
    Mains: amplitude at 50 or 60 Hz. Noise: effective value of the second difference over 4 ms, mains left out; both in
    the quietest segment of each window, so between the beats. Agreement: correlation of the blocks' ranges, cut at the
    lead's QRS, with those of the other leads: low where a lead has no QRS when the others have.
    """
    held = _without_gaps(nv)
    grid = _Grid.of(held.shape[1], fs_hz)
    x = held[:, : grid.n * grid.averaged].reshape(len(held), grid.n, grid.averaged).mean(-1) * 1e-3
    blocks = x[:, : grid.n_blocks * grid.block].reshape(len(x), grid.n_blocks, grid.block)
    ranges, means = np.ptp(blocks, axis=-1), blocks.mean(-1)
    largest = np.stack([ranges[:, at].max(1) for at in grid.windows(grid.n_blocks, _PER_WINDOW)], axis=1)
    qrs = np.sort(largest, axis=1)[:, largest.shape[1] // 2]
    mains, noise = _between_beats(x, grid, fs_hz)
    return np.stack(
        [
            np.ptp(held, axis=1) * 1e-3,
            (ranges == 0).mean(1),
            _clipped(held),
            largest.max(1) - qrs,
            _wander(means),
            noise,
            mains,
            qrs,
            _agreement(ranges, qrs),
        ]
    )


def worst(measures: Float[ndarray, "*record measure lead"]) -> Float[ndarray, "*record measure"]:
    """Each measure in the lead where it is worst."""
    is_least = np.isin(MEASURES, WORST_IS_LEAST)
    return np.where(is_least, measures.min(-1), measures.max(-1))


def features(measures: Float[ndarray, "record measure lead"]) -> Float64[ndarray, "record feature"]:
    """What the gate weighs: every measure in its worst lead, then every measure's middle; µV as log10(1 + µV)."""
    is_uv = np.char.endswith(MEASURES, "_uv")
    x = np.sort(measures.astype(np.float64), axis=-1)
    x[:, is_uv] = np.log10(1 + x[:, is_uv])
    return np.concatenate([worst(x), np.median(x, axis=-1)], axis=1)


def limb_residual(nv: Int32[ndarray, "lead time"], row: int, lead: str, fs_hz: float | int) -> tuple[float, float]:
    """How far a row of nV (lead, time), which begins with I and II, is from what they say it is, and its size; in nV.

    The largest difference and the peak-to-peak of every second fifth of a second (a multiple of 16 samples; leads that
    are swapped are so all the time); nine of ten fifths have no more than what is given. A fifth with a missing sample
    counts as 0.
    """
    weights = mixing(("I", "II"), (lead,))[0]
    length = min(max(16, _rounded(0.2 * fs_hz) // 16 * 16), nv.shape[1])
    cut = nv[[0, 1, row], : nv.shape[1] // length * length].reshape(3, -1, length)[:, ::2]  # (lead, segment, time)
    is_whole = (cut != INVALID).all((0, 2))
    x = cut.astype(np.float64)
    apart = is_whole * np.abs(x[2] - weights[0] * x[0] - weights[1] * x[1]).max(-1)
    size = is_whole * np.ptp(x[2], axis=-1)
    at = len(apart) * 9 // 10
    return float(np.sort(apart)[at]), float(np.sort(size)[at])


def _rounded(x: float | int) -> int:
    """To the nearest, a half away from zero."""
    return int(np.floor(x + 0.5))


def _without_gaps(nv: Int32[ndarray, "lead time"]) -> Float64[ndarray, "lead time"]:
    is_there = nv != INVALID
    at = np.maximum.accumulate(np.where(is_there, np.arange(nv.shape[1]), -1), axis=1)
    at = np.where(at < 0, is_there.argmax(1)[:, None], at)
    return np.where(is_there.any(1)[:, None], np.take_along_axis(nv, at, axis=1), 0).astype(np.float64)


def _clipped(held: Float64[ndarray, "lead time"]) -> Float64[ndarray, " lead"]:
    low, high = held.min(1, keepdims=True), held.max(1, keepdims=True)
    n_there = ((held == low) | (held == high)).sum(1)
    return np.where((n_there > 2) & (low < high)[:, 0], n_there, 0) / held.shape[1]


def _wander(means: Float64[ndarray, "lead block"]) -> Float64[ndarray, " lead"]:
    n = means.shape[1] // _PER_HALF
    if n == 0:
        return np.zeros(len(means))
    return np.asarray(np.ptp(means[:, : n * _PER_HALF].reshape(len(means), n, _PER_HALF).mean(-1), axis=1))


def _between_beats(x: Float64[ndarray, "lead time"], grid: _Grid, stored_hz: float | int) -> tuple[ndarray, ndarray]:
    """Mains and noise of each lead in µV."""
    length = grid.block * _PER_SEGMENT
    n_segments = grid.n_blocks // _PER_SEGMENT
    if n_segments == 0:
        return np.zeros(len(x)), np.zeros(len(x))
    around = np.pad(x, ((0, 0), (grid.lag, grid.lag)), mode="edge")
    bend = x - (around[:, : -2 * grid.lag] + around[:, 2 * grid.lag :]) / 2
    segments = bend[:, : n_segments * length].reshape(len(x), n_segments, length)
    turns = np.exp(-2j * np.pi * np.outer(_LINES_HZ, np.arange(length)) / grid.fs_hz)
    lines = 2 * np.abs(segments @ turns.T / length) ** 2  # (lead, segment, line): power
    rest = np.maximum((segments**2).mean(-1) - lines.sum(-1), 0)
    windows = grid.windows(n_segments, _PER_WINDOW // _PER_SEGMENT)
    quiet = np.stack([lines[:, at].min(1) for at in windows], axis=1).mean(1)  # (lead, line)
    noise = np.stack([rest[:, at].min(1) for at in windows], axis=1).mean(1)
    amplitude = [np.sqrt(2 * quiet[:, k]) * _gain(line, grid, stored_hz) for k, line in enumerate(_LINES_HZ)]
    return np.maximum(*amplitude), np.sqrt(noise)


def _gain(line_hz: float | int, grid: _Grid, stored_hz: float | int) -> float:
    """Undoes what averaging and differencing do to a frequency; 0 where the rate is too low for it."""
    if line_hz >= 0.45 * grid.fs_hz:
        return 0.0
    half = np.pi * line_hz / stored_hz
    averaged = np.sin(half * grid.averaged) / (grid.averaged * np.sin(half))
    return float(1 / (averaged * (1 - np.cos(2 * np.pi * line_hz * grid.lag / grid.fs_hz))))


def _agreement(ranges: Float64[ndarray, "lead block"], qrs: Float64[ndarray, " lead"]) -> Float64[ndarray, " lead"]:
    activity = np.minimum(ranges, qrs[:, None]) / (qrs[:, None] + _FLOOR_UV)
    others = (activity.sum(0) - activity) / (len(ranges) - 1)
    own = activity - activity.mean(1, keepdims=True)
    other = others - others.mean(1, keepdims=True)
    spread = (own**2).sum(1) * (other**2).sum(1) + _LEAST_SPREAD
    return np.asarray((own * other).sum(1) / np.sqrt(spread))
