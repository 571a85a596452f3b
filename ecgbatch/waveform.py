"""The definition of "correct": what becomes of a record's samples before a model sees them, in plain NumPy.

The compiled kernels do the same, fast; tests hold them to these functions, and these to SciPy.

    counts ── nanovolts ──► int32 nV (lead, time) ── offset off ── resample ──► mV ── fit ── scale ──► float32

The integer nanovolts in the middle are also what `waveform_hash` is taken of, those of the independent leads, so a
model of these gives records of equal hash equal scores whatever container they came in.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32
from numpy import ndarray

from ecgbatch.errors import RecordError
from ecgbatch.record import INVALID, LEADS, Reason, Record

__all__ = ["Polyphase", "fit", "mixing", "nanovolts", "offset", "polyphase", "prepare", "resample", "scale"]

_LIMB = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Each limb lead as a sum of I and II: Einthoven's law and Goldberger's definitions."""


@lru_cache(maxsize=256)
def mixing(stored: tuple[str, ...], wanted: tuple[str, ...]) -> Float64[ndarray, "wanted stored"]:
    """Weights (wanted, stored) that give each wanted lead from the stored ones, at most two of them a row.

    A stored lead is taken as it is. A limb lead that is absent follows from the first two stored limb leads.

    Raises:
        RecordError: a wanted lead is neither stored nor a sum of stored ones.
    """
    weights = np.zeros((len(wanted), len(stored)))
    limb = [lead for lead in LEADS if lead in stored and lead in _LIMB][:2]
    missing = []
    for row, lead in enumerate(wanted):
        if lead in stored:
            weights[row, stored.index(lead)] = 1
        elif lead in _LIMB and len(limb) == 2:
            pair = np.linalg.solve(np.array([_LIMB[known] for known in limb]).T, _LIMB[lead])
            weights[row, [stored.index(known) for known in limb]] = np.round(pair * 12) / 12  # thirds or quarters
        else:
            missing.append(lead)
    if missing:
        raise RecordError(Reason.MISSING_LEADS, f"no lead {', '.join(missing)} among {', '.join(stored) or 'none'}")
    return weights


def nanovolts(record: Record, leads: tuple[str, ...]) -> Int32[ndarray, "lead time"]:
    """int32 nV (lead, time) of the asked leads; INVALID where any contributing sample is marked as missing."""
    weights = mixing(record.leads, leads)
    counts = record.counts.astype(np.float64)
    zero, nv_per_count = np.array(record.zero_counts), np.array(record.uv_per_count) * 1000
    nv = weights @ ((counts - zero[:, None]) * nv_per_count[:, None])
    nv = np.clip(np.rint(nv), INVALID + 1, -INVALID - 1).astype(np.int32)
    if record.invalid_count is not None:
        gone = record.counts == record.invalid_count  # (stored, time)
        nv[(weights != 0).astype(int) @ gone.astype(int) > 0] = INVALID
    return nv


def offset(nv: Int32[ndarray, "lead time"], n: int) -> Float64[ndarray, "lead 1"]:
    """Each lead's mean over its first `n` samples, in nV: electrodes and amplifiers give it, the heart does not."""
    return np.asarray(nv[:, :n].mean(1, keepdims=True))


@dataclass(frozen=True, slots=True, eq=False)
class Polyphase:
    """A rational resampler: output t is `taps[phase] @ x[first : first + n_taps]`, see `position`."""

    up: int
    down: int
    half: int
    """Half length of the prototype filter, in samples at `up` times the input rate."""
    taps: Float32[ndarray, "phase tap"]
    """Each row in order of increasing input time."""

    @property
    def n_taps(self) -> int:
        return int(self.taps.shape[1])

    def position(self, t: int) -> tuple[int, int]:
        """Phase and first input index of output `t`."""
        centre = t * self.down + self.half
        return centre % self.up, centre // self.up - (self.n_taps - 1)


@lru_cache(maxsize=64)
def polyphase(fs_hz: float | int, to_hz: int) -> Polyphase:
    """The anti-aliased resampler from one rate to another.

    A sinc at the lower of both Nyquist rates under a Kaiser window (beta 5) over ten zero crossings a side: the
    filter of `scipy.signal.resample_poly`. It is part of a model's contract: change it only with the model. Equal
    rates pass unchanged.
    """
    ratio = Fraction(to_hz / fs_hz).limit_denominator(4096)  # relative error under 1.3e-4: 1.3 ms in 10 s
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return Polyphase(1, 1, 0, np.ones((1, 1), np.float32))
    widest = max(up, down)
    half = 10 * widest
    prototype = np.sinc(np.arange(-half, half + 1) / widest) * np.kaiser(2 * half + 1, 5.0)
    prototype[np.abs(prototype) < 1e-12] = 0  # the sinc's own zeros, but for rounding: kernels skip them
    prototype *= up / prototype.sum()
    n_taps = -(-prototype.size // up)
    padded = np.zeros(n_taps * up)
    padded[: prototype.size] = prototype
    return Polyphase(up, down, half, padded.reshape(n_taps, up).T[:, ::-1].astype(np.float32).copy())


def resample(x: Float[ndarray, "lead time"], fs_hz: float | int, to_hz: int) -> Float64[ndarray, "lead out"]:
    """Band-limit and resample (lead, time); the first and last sample go on for ever beyond the ends."""
    bank = polyphase(fs_hz, to_hz)
    n_out = -(-x.shape[1] * bank.up // bank.down)
    out = np.empty((x.shape[0], n_out), np.float64)
    for t in range(n_out):
        phase, first = bank.position(t)
        at = np.clip(np.arange(first, first + bank.n_taps), 0, x.shape[1] - 1)
        out[:, t] = x[:, at] @ bank.taps[phase].astype(np.float64)
    return out


def fit(x: Float64[ndarray, "lead time"], samples: int) -> Float64[ndarray, "lead {samples}"]:
    """The first `samples` of (lead, time), zeros after the end of a shorter one."""
    return np.pad(x[:, :samples], ((0, 0), (0, max(0, samples - x.shape[1]))))


def scale(
    x_mv: Float[ndarray, "lead time"], scale_mv: Float[ndarray, " lead"], clip: float | int
) -> Float32[ndarray, "lead time"]:
    """float32 (lead, time): millivolts over each lead's constant, clipped to ±`clip`; amplitude survives."""
    return np.clip(x_mv / scale_mv[:, None], -clip, clip).astype(np.float32)


def prepare(
    record: Record,
    *,
    leads: tuple[str, ...],
    fs_hz: int,
    samples: int,
    scale_mv: Float[ndarray, " lead"],
    clip: float | int,
    filter: str = "none",  # noqa: A002  # as a bundle calls it
) -> Float32[ndarray, "lead {samples}"]:
    """float32 (lead, time): what a model is fed."""
    nv = nanovolts(record, leads)
    level = offset(nv, round(samples / fs_hz * record.fs_hz)) if filter == "offset" else 0.0
    return scale(fit(resample((nv - level) * 1e-6, record.fs_hz, fs_hz), samples), scale_mv, clip)
