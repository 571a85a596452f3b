"""Records to model input on the host: the compiled twin of `waveform.py`."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int32
from numpy import ndarray

from ecgbatch import _kernels
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.record import INVALID, LEADS, Reason, Record
from ecgbatch.waveform import mixing, polyphase

__all__ = ["flat_leads", "leads_derived", "measured", "model_input", "nanovolts", "normalise"]

_NO_MARK = 2**40
"""No count of any type equals it: for containers that do not mark missing samples."""


def flat_leads(record: Record) -> tuple[str, ...]:
    """The stored leads whose samples are all equal."""
    return tuple([record.leads[channel] for channel in _kernels.flat_channels(record.counts)])


def leads_derived(record: Record, flat: tuple[str, ...]) -> tuple[str, ...]:
    """The leads that are computed from others: absent ones, and those in `flat` where that is possible."""
    return _derived(record.leads, flat)


def nanovolts(record: Record, leads: tuple[str, ...], flat: tuple[str, ...] = ()) -> Int32[ndarray, "lead time"]:
    """int32 nV (lead, time) of the asked leads: the first of `measured`."""
    return measured(record, leads, flat)[0]


def measured(
    record: Record, leads: tuple[str, ...], flat: tuple[str, ...] = ()
) -> tuple[Int32[ndarray, "lead time"], int]:
    """int32 nV (lead, time) of the asked leads, INVALID where a contributing sample is missing; and how many are.

    A lead in `flat` is derived from others where that is possible, and taken as stored where not.

    Raises:
        RecordError: a lead is neither stored nor a sum of stored ones.
    """
    if not flat or not set(flat) & set(leads):
        return _mixed(record, record.leads, leads)
    alive = tuple(lead for lead in record.leads if lead not in flat)
    rows = [_mixed(record, alive if _follows(alive, lead) else record.leads, (lead,)) for lead in leads]
    nv, n_missing = zip(*rows, strict=True)
    return np.concatenate(nv), sum(n_missing)


def normalise(record: Record, spec: InputSpec, out: Float32[ndarray, "lead samples"]) -> None:
    """Write the model's float32 (lead, time) input of one record into `out`.

    Raises:
        RecordError: leads are missing, the record is too short, or has missing samples where the model looks.
    """
    model_input(nanovolts(record, spec.leads, flat_leads(record)), record.fs_hz, spec, out)


def model_input(
    nv: Int32[ndarray, "lead time"],
    fs_hz: float | int,
    spec: InputSpec,
    out: Float32[ndarray, "lead samples"],
    *,
    has_gaps: bool = True,
) -> None:
    """Resample, fit and scale int32 nV (lead, time) of `spec.leads` into float32 `out` (lead, time).

    `has_gaps` is False where the caller knows that no sample is missing.

    Raises:
        RecordError: too short, or missing samples where the model looks.
    """
    n_samples = nv.shape[1]
    if n_samples < spec.min_seconds * fs_hz:
        detail = f"{n_samples / fs_hz:.2f} s, expected at least {spec.min_seconds:g} s"
        raise RecordError(Reason.TOO_SHORT, detail)
    if has_gaps and (seen := nv[:, : _seen(fs_hz, spec)]).min() == INVALID:
        detail = f"{int((seen == INVALID).any(axis=0).sum())} missing samples in the first {spec.seconds:g} s"
        raise RecordError(Reason.INVALID_SAMPLES, detail)
    _resampler(fs_hz, spec.fs_hz, spec.scale_mv, spec.clip)(nv, out)


def _seen(fs_hz: float | int, spec: InputSpec) -> int:
    """How many samples of a record the model's input depends on."""
    bank = polyphase(fs_hz, spec.fs_hz)
    return bank.position(spec.samples - 1)[1] + bank.n_taps


@lru_cache(maxsize=64)
def _resampler(fs_hz: float | int, to_hz: int, scale_mv: tuple[float, ...], clip: float | int) -> _kernels.ModelInput:
    bank = polyphase(fs_hz, to_hz)
    per_nv = (1e-6 / np.array(scale_mv)).astype(np.float32)
    return _kernels.ModelInput(bank.up, bank.down, bank.half, bank.taps, per_nv, clip)


@lru_cache(maxsize=1024)
def _derived(stored: tuple[str, ...], flat: tuple[str, ...]) -> tuple[str, ...]:
    alive = tuple(lead for lead in stored if lead not in flat)
    return tuple(lead for lead in LEADS if lead not in alive and (lead not in stored or _follows(alive, lead)))


def _follows(stored: tuple[str, ...], lead: str) -> bool:
    """Whether a lead is stored, or a sum of stored ones."""
    try:
        mixing(stored, (lead,))
    except RecordError:
        return False
    return True


def _mixed(record: Record, stored: tuple[str, ...], leads: tuple[str, ...]) -> tuple[ndarray, int]:
    mixer = _mixer(record.leads, record.uv_per_count, record.zero_counts, stored, leads)
    nv = np.empty((len(leads), record.n_samples), np.int32)
    return nv, mixer(record.counts, _NO_MARK if record.invalid_count is None else record.invalid_count, nv)


@lru_cache(maxsize=1024)
def _mixer(
    channels: tuple[str, ...],
    uv_per_count: tuple[float, ...],
    zero_counts: tuple[float, ...],
    stored: tuple[str, ...],
    leads: tuple[str, ...],
) -> _kernels.Mixer:
    """The kernel for a mixing from `stored`, a part of the record's `channels`."""
    weights = mixing(stored, leads)
    channel = np.zeros((len(leads), 2), np.int64)
    nv_per_count = np.zeros((len(leads), 2))
    zero = np.zeros((len(leads), 2))
    for row, weight in enumerate(weights):
        for slot, column in enumerate(np.flatnonzero(weight)):
            at = channels.index(stored[column])
            channel[row, slot] = at
            nv_per_count[row, slot] = weight[column] * uv_per_count[at] * 1000
            zero[row, slot] = zero_counts[at]
    return _kernels.Mixer(channel, nv_per_count, zero)
