"""One synthetic ECG."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ecgbatch.errors import UsageError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Record
from ecgbatch.synth import heart, noise
from ecgbatch.synth.rhythm import RHYTHMS, draw_beats, draw_rhythm

__all__ = ["DEVICES", "Device", "one_beat", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An electrocardiograph, as far as it shows in its recordings."""

    model: str
    high_pass_hz: float
    low_pass_hz: float
    mains_hz: float


DEVICES = (
    Device(model="SYNTH-1600", high_pass_hz=0.05, low_pass_hz=100, mains_hz=60),
    Device(model="SYNTH-3500", high_pass_hz=0.16, low_pass_hz=150, mains_hz=60),
    Device(model="SYNTH-5500", high_pass_hz=0.05, low_pass_hz=150, mains_hz=50),
    Device(model="SYNTH-P40", high_pass_hz=0.5, low_pass_hz=40, mains_hz=50),
)
"""0.05 to 150 Hz is the diagnostic band (Kligfield et al. 2007, AHA/ACC/HRS part I); 0.5 to 40 Hz the monitor's."""

_EPOCH = datetime(2015, 1, 1)
_YEARS = 10
_BEAT_S = 1.2


def record(
    *,
    seed: int,
    rhythm: str | None = None,
    fs_hz: float = 500,
    seconds: float = 10,
    leads: tuple[str, ...] = INDEPENDENT_LEADS,
    uv_per_count: float = 4.88,
) -> Record:
    """A realistic resting ECG that follows from its arguments alone, in int16 counts (lead, time).

    `rhythm` is one of RHYTHMS; None draws one. Limb leads beyond I and II are computed from the counts of those, as
    devices do, so Einthoven's law holds to half a count.

    Raises:
        UsageError: an unknown rhythm or lead, a rate or length that is no recording.
    """
    _check(rhythm, fs_hz, seconds, leads)
    rng = np.random.Generator(np.random.PCG64(seed))
    rhythm = rhythm or draw_rhythm(rng)
    device = DEVICES[rng.integers(len(DEVICES))]
    acquired_at = _EPOCH + timedelta(seconds=int(rng.integers(_YEARS * 365 * 86400)))
    n_samples = round(fs_hz * seconds)
    low_pass_hz = min(device.low_pass_hz, 0.4 * fs_hz)  # below the Nyquist rate, so that nothing folds
    uv = _heart_uv(rng, rhythm, n_samples, fs_hz, low_pass_hz)
    uv += noise.draw_noise(
        rng,
        n_samples,
        fs_hz,
        high_pass_hz=device.high_pass_hz,
        low_pass_hz=low_pass_hz,
        mains_hz=device.mains_hz,
    )
    uv *= 1 / uv_per_count
    np.rint(uv, out=uv)
    np.clip(uv, -32767, 32767, out=uv)  # -32768 is a mark of missing samples in many containers
    return Record(
        format="synth",
        fs_hz=fs_hz,
        leads=leads,
        counts=_stored(uv.astype(np.int16), leads),
        uv_per_count=(float(uv_per_count),) * len(leads),
        zero_counts=(0.0,) * len(leads),
        acquired_at=acquired_at,
        device_model=device.model,
    )


def one_beat(record: Record) -> np.ndarray:
    """Counts (lead, 1.2 s) round the steepest slope, in place of the median of all beats that a device computes."""
    steepest = int(np.argmax(np.abs(np.diff(record.counts[0].astype(np.int32)))))
    at = steepest + np.arange(round(_BEAT_S * record.fs_hz)) - round(0.45 * record.fs_hz)
    return record.counts[:, at.clip(0, record.n_samples - 1)]


def _check(rhythm: str | None, fs_hz: float, seconds: float, leads: tuple[str, ...]) -> None:
    if rhythm is not None and rhythm not in RHYTHMS:
        raise UsageError(f"rhythm {rhythm!r}, expected one of {', '.join(RHYTHMS)}")
    if not leads or not set(leads) <= set(LEADS):
        raise UsageError(f"leads {', '.join(leads) or 'none'}, expected some of {', '.join(LEADS)}")
    if not 50 <= fs_hz <= 16000 or not 0.5 <= seconds <= 3600:
        raise UsageError(f"{seconds} s at {fs_hz} Hz, expected 0.5 to 3600 s at 50 to 16000 Hz")


def _heart_uv(rng: np.random.Generator, rhythm: str, n_samples: int, fs_hz: float, low_pass_hz: float) -> np.ndarray:
    """The heart's own share in µV (8, time) of I, II, V1 … V6."""
    person = heart.draw_heart(rng, rhythm)
    beats = draw_beats(rng, rhythm, n_samples / fs_hz)
    settled_s = 0.5 * beats.rr_s + 0.5 * beats.rr_s.mean()  # QT follows the rate with a lag
    direction = np.array([rng.uniform(-0.8, 0.8), rng.choice([-0.9, 1.1]), rng.uniform(-0.7, 0.9)])
    breath = 1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.18, 0.35) * beats.onset_s)  # Moody et al. 1985
    uv = np.zeros((8, n_samples))
    own = ~beats.is_ectopic
    _add(uv, heart.conducted(person, settled_s[own], low_pass_hz=low_pass_hz), beats.onset_s[own], breath[own], fs_hz)
    if beats.is_ectopic.any():
        focus_mv = direction * (1.4 / np.linalg.norm(direction))
        early = heart.ectopic(person, focus_mv, settled_s[~own], low_pass_hz=low_pass_hz)
        _add(uv, early, beats.onset_s[~own], breath[~own], fs_hz)
    if rhythm == "afib":
        uv += _fibrillation_uv(rng, person, n_samples, fs_hz)
    return uv


def _add(uv: np.ndarray, waves: heart.Waves, onset_s: np.ndarray, size: np.ndarray, fs_hz: float) -> None:
    """Draw beats into (8, time), each as far as four deviations of its waves reach."""
    centre_s = onset_s[:, None] + waves.centre_s  # (beat, wave)
    first = ((centre_s - 4 * waves.sd_s).min(axis=1) * fs_hz).astype(int).clip(0, uv.shape[1])
    last = ((centre_s + 4 * waves.sd_s).max(axis=1) * fs_hz + 1).astype(int).clip(0, uv.shape[1])
    leads_uv = size[:, None, None] * waves.leads_uv  # (beat, 8, wave)
    at, per_sd = centre_s[..., None] * fs_hz, 1 / (waves.sd_s[..., None] * fs_hz)
    for i in np.flatnonzero(first < last):
        z = np.arange(first[i], last[i]) - at[i]  # (wave, time)
        z *= per_sd[i]
        z *= z
        z *= -0.5
        np.exp(z, out=z)
        uv[:, first[i] : last[i]] += leads_uv[i] @ z


def _fibrillation_uv(rng: np.random.Generator, person: heart.Heart, n_samples: int, fs_hz: float) -> np.ndarray:
    """Fibrillatory waves, (8, time): a sawtooth of 4 to 9 Hz that hurries and lags (Bollmann et al. 2006)."""
    t_s = np.arange(n_samples) / fs_hz
    turn = 2 * np.pi * rng.uniform(4.5, 8.0) * t_s + rng.uniform(0, 2 * np.pi)
    turn += rng.uniform(0.8, 2.0) * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * t_s + rng.uniform(0, 2 * np.pi))
    sawtooth = np.sin(turn) + 0.4 * np.sin(2 * turn + 0.3)
    size_uv = rng.uniform(40, 110) * (person.lead_vectors @ heart.ATRIAL_VECTOR)
    return np.asarray(size_uv[:, None] * sawtooth)


def _stored(eight: np.ndarray, leads: tuple[str, ...]) -> np.ndarray:
    """int16 (lead, time) of the asked leads, from the counts of the independent ones."""
    if leads == INDEPENDENT_LEADS:
        return eight
    row = dict(zip(INDEPENDENT_LEADS, eight, strict=True))
    one, two = eight[0].astype(np.int32), eight[1].astype(np.int32)
    derived = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    for lead in set(leads) & set(derived):
        row[lead] = np.clip(np.rint(derived[lead]), -32767, 32767).astype(np.int16)
    return np.stack([row[lead] for lead in leads])
