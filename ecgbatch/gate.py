"""The quality columns of one record, by the compiled kernels, and the gate: would a reader accept the ECG?"""

import math
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from ecgbatch import _kernels, quality
from ecgbatch.bundle import SHIPPED
from ecgbatch.errors import BundleError
from ecgbatch.quality import LIMB_LEADS, MEASURES, WORST_IS_LEAST
from ecgbatch.record import INDEPENDENT_LEADS, Quality
from ecgbatch.waveform import mixing

__all__ = ["AMPLITUDE_UV", "RESIDUAL_UV", "WEIGHED", "Gate", "comparable", "judgement", "measure", "shipped"]

WEIGHED = MEASURES[1:]
"""What the gate weighs. Not the amplitude: a large wander and a large heart look alike in it."""

FLAT_SHARE = 0.5
CLIPPED_SHARE = 0.05
QRS_AGREEMENT = 0.4  # 1 % of the leads of ECGs that readers accepted lie below it (PhysioNet/CinC Challenge 2011)
"""Beyond any of them a lead is poor."""

RESIDUAL_UV = 50.0
RESIDUAL_SHARE = 0.2
"""Beyond both, a limb lead contradicts I and II: filters that differ and rounding stay below."""

_MEASURED = 1
"""Of how a signal is hashed and measured, and of the limits here: one more whenever a quality column may change."""

AMPLITUDE_UV = (100.0, 20_000.0)
"""Peak to peak of the largest lead; beyond, the unit or the gain is wrong, or there is no ECG."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A logistic regression on the worst and the middle lead of each of `WEIGHED`."""

    version: str
    intercept: float
    worst: tuple[float, ...]
    middle: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> "Gate":
        """Read `gate.toml`.

        Raises:
            BundleError: it cannot be read, or does not weigh what is measured.
        """
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
            weights = raw["weights"]
            if set(weights) != set(WEIGHED):
                raise BundleError(f"{path}: weights of {', '.join(weights)}, expected of {', '.join(WEIGHED)}")
            worst, middle = zip(*((float(a), float(b)) for a, b in map(weights.get, WEIGHED)), strict=True)
            return cls(version=str(raw["version"]), intercept=float(raw["intercept"]), worst=worst, middle=middle)
        except (OSError, ValueError, TypeError, KeyError) as err:
            raise BundleError(f"{path}: no quality gate: {err}") from err

    @cached_property
    def _kernel(self) -> _kernels.Gate:
        weights = dict(zip(WEIGHED, zip(self.worst, self.middle, strict=True), strict=True))
        rows = [(name in WORST_IS_LEAST, name.endswith("_uv"), *weights.get(name, (0.0, 0.0))) for name in MEASURES]
        return _kernels.Gate(rows, self.intercept)

    def __call__(self, measures: ndarray) -> tuple[float, list[float]]:
        """Probability that a reader would accept an ECG of these float32 (measure, lead); each measure at its worst."""
        logit, worst = self._kernel(measures)
        return 1 / (1 + math.exp(-logit)), worst


@lru_cache(maxsize=1)
def shipped() -> Gate:
    """The gate that comes with the package."""
    return Gate.load(SHIPPED / "quality" / "gate.toml")


def judgement() -> str:
    """The version of all that hash and quality are the result of."""
    return f"{shipped().version}/{_MEASURED}"


@lru_cache(maxsize=1024)
def comparable(stored: tuple[str, ...], flat: tuple[str, ...]) -> tuple[str, ...]:
    """The stored limb leads that can contradict I and II; none where I and II are computed from all there are."""
    alive = [lead for lead in ("I", "II", *LIMB_LEADS) if lead in stored and lead not in flat]
    return tuple(lead for lead in alive if lead in LIMB_LEADS) if len(alive) > 2 else ()


def measure(
    nv: Int32[ndarray, "lead time"], fs_hz: float | int, flat: tuple[str, ...], compared: tuple[str, ...] = ()
) -> Quality:
    """Quality of nV (lead, time): the independent leads, then those `compared` with I and II."""
    measures = np.empty((len(MEASURES), len(INDEPENDENT_LEADS)), np.float32)
    _kernels.lead_measures(nv[: len(INDEPENDENT_LEADS)], fs_hz, measures)
    chance, (amplitude_uv, flat_share, clipped_share, spike, wander, noise, mains, qrs, agreement) = shipped()(measures)
    residual_uv, is_suspect = _compared(nv, fs_hz, compared)
    has_poor = flat_share > FLAT_SHARE or clipped_share > CLIPPED_SHARE or agreement < QRS_AGREEMENT
    return Quality(
        quality=chance,
        flat_leads=flat,
        poor_leads=_poor_leads(measures) if has_poor else (),
        amplitude_uv=amplitude_uv,
        amplitude_suspect=not AMPLITUDE_UV[0] <= amplitude_uv <= AMPLITUDE_UV[1],
        flat_share=flat_share,
        clipped_share=clipped_share,
        spike_uv=spike,
        wander_uv=wander,
        noise_uv=noise,
        mains_uv=mains,
        qrs_uv=qrs,
        qrs_agreement=agreement,
        limb_residual_uv=residual_uv,
        leads_suspect=is_suspect,
    )


def _poor_leads(measures: ndarray) -> tuple[str, ...]:
    flat, clipped, agreement = (
        measures[MEASURES.index(name)] for name in ("flat_share", "clipped_share", "qrs_agreement")
    )
    is_poor = (flat > FLAT_SHARE) | (clipped > CLIPPED_SHARE) | (agreement < QRS_AGREEMENT)
    return tuple(lead for lead, poor in zip(INDEPENDENT_LEADS, is_poor, strict=True) if poor)


def _compared(nv: ndarray, fs_hz: float | int, compared: tuple[str, ...]) -> tuple[float | None, bool]:
    """The largest residual of a limb lead in µV, and whether any contradicts I and II."""
    if not compared:
        return None, False
    first = len(INDEPENDENT_LEADS)
    residual_nv = _kernels.limb_residuals(nv, first, _weights(compared), fs_hz)
    most_uv = max(residual_nv) * 1e-3
    if most_uv <= RESIDUAL_UV:
        return most_uv, False
    both = [quality.limb_residual(nv, first + at, lead, fs_hz) for at, lead in enumerate(compared)]
    return most_uv, any(apart > max(RESIDUAL_UV * 1e3, RESIDUAL_SHARE * size) for apart, size in both)


@lru_cache(maxsize=16)
def _weights(leads: tuple[str, ...]) -> list[tuple[float, float]]:
    """Of I and II in each lead."""
    return [(one, two) for one, two in mixing(("I", "II"), leads).tolist()]
