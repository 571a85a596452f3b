"""The beat model: each wave of a beat is a Gaussian pulse of the heart vector, seen by every lead from its own side.

    wave: when, how wide, and a vector in mV ── LEAD_VECTORS ──► its amplitude in I, II, V1 … V6

Sums of Gaussians follow McSharry et al. 2003 (IEEE TBME 50:289), the moving dipole Sameni et al. 2007 (EURASIP JASP
43407). Axes are Frank's: x to the left, y to the feet, z to the back. Time runs from the onset of the QRS complex.
"""

from dataclasses import dataclass, replace
from math import cos, pi, sin, sqrt

import numpy as np

__all__ = ["ATRIAL_VECTOR", "LEAD_VECTORS", "Heart", "Waves", "conducted", "draw_heart", "ectopic", "low_pass_sd_s"]

LEAD_VECTORS = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""I, II, V1 … V6 of a heart vector (x, y, z): Dower, Machado, Osborne 1980 (Clin Cardiol 3:87)."""

ATRIAL_VECTOR = np.array([-0.45, 0.55, -0.70])
"""Direction of fibrillatory waves, which are largest in V1."""

_P = np.array([[0.02, 0.09, -0.05], [0.06, 0.04, 0.05]])
"""Right, then left atrium: upright in II, up then down in V1."""
_NARROW = np.array([[-0.15, -0.05, -0.25], [1.00, 0.70, 0.30], [-0.25, -0.10, 0.55]])
"""Septum, left ventricle, base: r then S in V1, q then R in V6, R growing from V1 to V5."""
_RIGHT_BLOCK = np.array([[-0.15, -0.05, -0.25], [0.95, 0.65, 0.25], [-0.50, 0.00, -0.55]])
"""The right ventricle comes last: R' in V1, wide S in I and V6."""
_LEFT_BLOCK = np.array([[0.35, 0.20, 0.15], [0.75, 0.25, 0.65], [0.90, 0.10, 0.85]])
"""No septal q, slow notched R in I and V6, deep S in V1."""
_PACED = np.array([[0.25, -0.45, 0.30], [0.55, -0.95, 0.70], [0.45, -0.55, 0.60]])
"""From the apex of the right ventricle: as a left block with the axis upwards."""

_DISCORDANT = np.array([-0.45, 0.05, -0.50])
"""T of an abnormally conducted beat points away from its QRS."""
_T = np.array([0.36, 0.21, -0.15])

_STIMULUS = np.array([[-0.004, 0, 0.0003, 0, 1.2, -3.5, 2.0]])
"""0.5 ms of the pacemaker, as a row of `_ventricles`; the device's low-pass makes it low and wide."""

_NARROW_AT, _NARROW_SD = np.array([0.22, 0.45, 0.72]), np.array([0.085, 0.115, 0.10])
_WIDE_AT, _WIDE_SD = np.array([0.20, 0.42, 0.70]), np.array([0.09, 0.13, 0.12])
"""Centres and widths of the QRS vectors as shares of its duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heart:
    """One person's conduction and repolarisation; the vectors in mV, row by row as (x, y, z)."""

    pr_s: float
    """0 where no P wave leads to the QRS complex."""
    qrs_s: float
    qtc_s: float
    """QT at a heart rate of 60/min."""
    qrs_mv: np.ndarray
    t_mv: np.ndarray
    st_mv: np.ndarray
    is_paced: bool
    lead_vectors: np.ndarray
    """(8, 3): `LEAD_VECTORS` for this body and these electrode positions."""


@dataclass(frozen=True, slots=True)
class Waves:
    """The waves of some beats."""

    centre_s: np.ndarray
    """(beat, wave) after the onset of QRS"""
    sd_s: np.ndarray
    """(beat, wave)"""
    leads_uv: np.ndarray
    """(beat, 8, wave): peak of each wave in I, II, V1 … V6"""


def draw_heart(rng: np.random.Generator, rhythm: str) -> Heart:
    """A person with the conduction that `rhythm` names.

    Within the limits for adults: PR 120-200 ms; QRS below 110 ms, and from 120 ms on in a block (Surawicz et al. 2009,
    AHA/ACCF/HRS part III); QTc below 450 ms (Rautaharju et al. 2009, part IV).
    """
    heart = Heart(
        pr_s=rng.uniform(0.130, 0.190),
        qrs_s=rng.uniform(0.078, 0.104),
        qtc_s=float(np.clip(rng.normal(0.412, 0.016), 0.370, 0.445)),
        qrs_mv=_NARROW * rng.lognormal(0, 0.12, (3, 1)),
        t_mv=_T * rng.lognormal(0, 0.25),
        st_mv=np.zeros(3),
        is_paced=False,
        lead_vectors=_body(rng),
    )
    size = rng.uniform(0.85, 1.15)
    match rhythm:
        case "afib":
            heart = replace(heart, pr_s=0.0)
        case "rbbb":
            wide_s = rng.uniform(0.125, 0.155)
            heart = replace(heart, qrs_s=wide_s, qrs_mv=_RIGHT_BLOCK * size, t_mv=_T * np.array([1, 1, -0.7]))
        case "lbbb":
            wide_s = rng.uniform(0.130, 0.165)
            heart = replace(heart, qrs_s=wide_s, qrs_mv=_LEFT_BLOCK * size, t_mv=_DISCORDANT, st_mv=0.2 * _DISCORDANT)
        case "paced":
            wide_s, away = rng.uniform(0.140, 0.180), np.array([-0.35, 0.50, -0.45])
            heart = replace(heart, pr_s=0.0, qrs_s=wide_s, qrs_mv=_PACED * size, t_mv=away, st_mv=0.2 * away)
            heart = replace(heart, is_paced=True)
        case "lvh":  # S in V1 + R in V5 or V6 above 3.5 mV: Sokolow and Lyon 1949 (Am Heart J 37:161); with strain
            tall = _NARROW * np.array([[1.0], [2.3], [1.9]]) * size
            strain_mv = np.array([-0.20, -0.05, -0.25])
            heart = replace(heart, qrs_mv=tall, t_mv=strain_mv, st_mv=0.3 * strain_mv)
        case "st-elevation-anterior":  # at least 0.2 mV in V2-V3: Thygesen et al. 2018 (Circulation 138:e618)
            heart = replace(heart, st_mv=np.array([0.15, 0.00, -0.30]) * size, t_mv=_T * 1.3)
        case "st-elevation-inferior":  # at least 0.1 mV in II, III, aVF; depression in aVL
            heart = replace(heart, st_mv=np.array([-0.05, 0.30, 0.05]) * size, t_mv=_T * np.array([0.8, 1.7, 1.0]))
    return heart


def conducted(heart: Heart, rr_s: np.ndarray, *, low_pass_hz: float) -> Waves:
    """The waves of conducted beats that follow intervals of `rr_s` (beat,)."""
    parts = [_ventricles(heart.qrs_s, heart.qrs_mv, heart.t_mv, heart.st_mv)]
    if heart.pr_s:
        parts.append(np.column_stack([np.array([0.036, 0.068]) - heart.pr_s, [0, 0], [0.015, 0.017], [0, 0], _P]))
    if heart.is_paced:
        parts.append(_STIMULUS)
    return _seen(np.vstack(parts), heart, _qt_s(heart, rr_s), low_pass_hz)


def ectopic(heart: Heart, direction_mv: np.ndarray, rr_s: np.ndarray, *, low_pass_hz: float) -> Waves:
    """The waves of ventricular extrasystoles: wide, no P, their T opposite to their QRS."""
    qrs_mv = np.array([[0.5], [1.0], [0.6]]) * direction_mv
    parts = _ventricles(0.150, qrs_mv, -0.42 * direction_mv, -0.08 * direction_mv)
    return _seen(parts, heart, 1.05 * _qt_s(heart, rr_s), low_pass_hz)


def low_pass_sd_s(cut_hz: float) -> float:
    """Standard deviation of the Gaussian smoothing that lets 0.71 of the amplitude through (-3 dB) at `cut_hz`."""
    return sqrt(2 * np.log(sqrt(2))) / (2 * pi * cut_hz)


def _qt_s(heart: Heart, rr_s: np.ndarray) -> np.ndarray:
    return np.asarray(heart.qtc_s * np.clip(rr_s, 0.3, 1.5) ** (1 / 3))  # Fridericia 1920 (Acta Med Scand 53:469)


def _ventricles(qrs_s: float, qrs_mv: np.ndarray, t_mv: np.ndarray, st_mv: np.ndarray) -> np.ndarray:
    """Rows (centre, its growth with QT, width, its growth with QT, x, y, z) of QRS, late T, early T and ST.

    T rises slower than it falls and ends at QT; ST fills the time between QRS and T.
    """
    at, sd = (_NARROW_AT, _NARROW_SD) if qrs_s < 0.115 else (_WIDE_AT, _WIDE_SD)
    rows = np.zeros((6, 7))
    rows[:3, 0], rows[:3, 2], rows[:3, 4:] = at * qrs_s, sd * qrs_s, qrs_mv
    rows[3, 1], rows[3, 3], rows[3, 4:] = 0.785, 0.093, 0.70 * t_mv
    rows[4, 1], rows[4, 3], rows[4, 4:] = 0.671, 0.122, 0.45 * t_mv
    rows[5] = qrs_s / 2, 0.336, 0.020 - 0.22 * qrs_s, 0.151, *st_mv
    return rows


def _seen(rows: np.ndarray, heart: Heart, qt_s: np.ndarray, low_pass_hz: float) -> Waves:
    """Waves as the leads of a device show them: a Gaussian after a Gaussian low-pass is a wider, lower Gaussian."""
    centre_s = rows[:, 0] + rows[:, 1] * qt_s[:, None]  # (beat, wave)
    sd_s = rows[:, 2] + rows[:, 3] * qt_s[:, None]
    seen_s = np.hypot(sd_s, low_pass_sd_s(low_pass_hz))
    peaks_uv = 1000 * heart.lead_vectors @ rows[:, 4:].T  # (8, wave)
    return Waves(centre_s, seen_s, peaks_uv * (sd_s / seen_s)[:, None, :])


def _body(rng: np.random.Generator) -> np.ndarray:
    """Lead vectors of another chest: the heart turned a little, the electrodes not quite in place."""
    frontal, horizontal = rng.normal(0, 0.20), rng.normal(0, 0.15)  # radian
    turn = np.array([[cos(frontal), -sin(frontal), 0], [sin(frontal), cos(frontal), 0], [0, 0, 1]]) @ np.array(
        [[cos(horizontal), 0, -sin(horizontal)], [0, 1, 0], [sin(horizontal), 0, cos(horizontal)]]
    )
    gain = rng.lognormal(0, 0.15) * np.concatenate([[1, 1], rng.lognormal(0, 0.10, 6)])
    return np.asarray((LEAD_VECTORS @ turn) * gain[:, None])
