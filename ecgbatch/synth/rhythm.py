"""When the heart beats, and which beats are ectopic."""

from dataclasses import dataclass

import numpy as np

__all__ = ["RHYTHMS", "Beats", "draw_beats", "draw_rhythm"]

RATE_BPM = {
    "sinus": (62, 98),
    "bradycardia": (40, 57),
    "tachycardia": (103, 150),
    "afib": (60, 140),
    "pvc": (60, 90),
    "paced": (60, 75),
    "rbbb": (60, 95),
    "lbbb": (60, 95),
    "lvh": (60, 95),
    "st-elevation-anterior": (65, 105),
    "st-elevation-inferior": (55, 95),
}
"""Range of the mean ventricular rate; sinus rhythm is 60 to 100 by definition."""

RHYTHMS = tuple(RATE_BPM)

_SHARE = np.array([0.50, 0.10, 0.08, 0.08, 0.05, 0.03, 0.05, 0.03, 0.04, 0.02, 0.02])
"""Roughly what a hospital records; in the order of RHYTHMS."""

LEAD_IN_S = 2.0
"""Beats are drawn from here on, so that the first sample lies anywhere in a beat."""


@dataclass(frozen=True, slots=True)
class Beats:
    """The beats of a recording, some of them before its start or after its end."""

    onset_s: np.ndarray
    """(beat,): onset of the QRS complex"""
    rr_s: np.ndarray
    """(beat,): interval before it"""
    is_ectopic: np.ndarray
    """(beat,)"""


def draw_rhythm(rng: np.random.Generator) -> str:
    """One of RHYTHMS, the common ones more often."""
    return RHYTHMS[int(np.searchsorted(np.cumsum(_SHARE), rng.random() * _SHARE.sum(), side="right"))]


def draw_beats(rng: np.random.Generator, rhythm: str, seconds: float) -> Beats:
    """Beats from before the start of a recording to after its end."""
    low, high = RATE_BPM[rhythm]
    mean_s = 60 / rng.uniform(low, high)
    n = int((seconds + LEAD_IN_S + 1) / (0.5 * mean_s)) + 2
    match rhythm:
        case "afib":
            rr_s = _irregular(rng, mean_s, n)
        case "paced":
            rr_s = np.full(n, mean_s)
        case _:
            rr_s = _sinus(rng, mean_s, n)
    is_ectopic = np.zeros(n, bool)
    if rhythm == "pvc":
        first = LEAD_IN_S + rng.uniform(0.1, 0.6) * seconds
        is_ectopic, rr_s = _with_extrasystoles(rng, rr_s, first)
    onset_s = np.cumsum(rr_s) - LEAD_IN_S - rng.uniform(0, mean_s)
    kept = onset_s < seconds + 1
    return Beats(onset_s[kept], rr_s[kept], is_ectopic[kept])


def _sinus(rng: np.random.Generator, mean_s: float, n: int) -> np.ndarray:
    """Intervals that breathe: bands of Task Force 1996 (Circulation 93:1043), about 40 ms at rest, less when fast."""
    t_s = np.arange(n) * mean_s
    breath, slow = rng.uniform(0.18, 0.35), rng.uniform(0.07, 0.13)  # Hz: high- and low-frequency band
    phase = rng.uniform(0, 2 * np.pi, 2)
    depth = rng.uniform(0.015, 0.05) * min(1.0, mean_s) ** 2
    swing = np.sin(2 * np.pi * breath * t_s + phase[0]) + 0.5 * np.sin(2 * np.pi * slow * t_s + phase[1])
    return np.asarray(mean_s * (1 + depth * swing + rng.normal(0, 0.004, n)))


def _irregular(rng: np.random.Generator, mean_s: float, n: int) -> np.ndarray:
    """Intervals without order: the node lets fibrillation through at random, never faster than it recovers."""
    spread = rng.uniform(0.18, 0.28)
    return np.maximum(mean_s * rng.lognormal(-(spread**2) / 2, spread, n), 0.32)


def _with_extrasystoles(rng: np.random.Generator, rr_s: np.ndarray, first_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Some beats come early and are followed by a full pause; one of them near `first_s`."""
    is_ectopic = rng.random(rr_s.size) < 0.10
    is_ectopic[np.searchsorted(np.cumsum(rr_s), first_s)] = True
    is_ectopic[1:] &= ~is_ectopic[:-1]
    is_ectopic[0] = False
    early = np.flatnonzero(is_ectopic[:-1])
    rr_s = rr_s.copy()
    lead_s = rr_s[early] * rng.uniform(0.30, 0.45, early.size)
    rr_s[early] -= lead_s
    rr_s[early + 1] += lead_s
    return is_ectopic, rr_s
