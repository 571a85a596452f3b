"""Records to model input on the host: the compiled twin of `waveform.py`."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numpy import ndarray

from ecgbatch import _kernels
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Reason, Record
from ecgbatch.waveform import mixing, polyphase

__all__ = [
    "Mixes",
    "flat_leads",
    "leads_derived",
    "mark",
    "measured",
    "mixes",
    "model_input",
    "n_offset",
    "nanovolts",
    "normalise",
    "per_nv",
    "put",
    "refuse_gaps",
    "refuse_short",
    "refuse_silence",
    "room",
]

_NO_MARK = 2**40
"""No count of any type equals it: for containers that do not mark missing samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixes:
    """How leads follow from channels: the tables (lead, 2) of `_kernels.Mixer`."""

    channel: Int64[ndarray, "lead 2"]
    nv_per_count: Float64[ndarray, "lead 2"]
    zero_counts: Float64[ndarray, "lead 2"]


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
    mixer = _mixer(record.leads, record.uv_per_count, record.zero_counts, _replaced(flat, leads), leads)
    nv = np.empty((len(leads), record.n_samples), np.int32)
    return nv, mixer(record.counts, mark(record), nv)


def mark(record: Record) -> int:
    """The count that marks a missing sample: one that no count equals, where the container has no such mark."""
    return _NO_MARK if record.invalid_count is None else record.invalid_count


def mixes(record: Record, leads: tuple[str, ...], flat: tuple[str, ...] = ()) -> Mixes:
    """How the asked leads follow from the record's channels, as `measured` has it.

    Raises:
        RecordError: a lead is neither stored nor a sum of stored ones.
    """
    return _mixes(record.leads, record.uv_per_count, record.zero_counts, _replaced(flat, leads), leads)


def normalise(record: Record, spec: InputSpec, out: Float32[ndarray, "lead samples"]) -> None:
    """Write the model's float32 (lead, time) input of one record into `out`.

    Raises:
        RecordError: leads are missing, the record is too short, or has missing samples or no signal where the model
            looks.
    """
    model_input(nanovolts(record, spec.leads, flat_leads(record)), record.fs_hz, spec, out)


def room(n_records: int, spec: InputSpec) -> Float32[ndarray, "record lead samples"]:
    """Place for the model input of so many records: float32 (record, lead, time)."""
    return np.empty((n_records, len(spec.leads), spec.samples), np.float32)


def put(
    record: Record,
    spec: InputSpec,
    out: Float32[ndarray, "lead samples"],
    *,
    flat: tuple[str, ...],
    independent_nv: Int32[ndarray, "independent time"],
    has_gaps: bool,
) -> None:
    """Write a record's model input into `out`, a row of `room`; `independent_nv` spares computing it once more.

    Raises:
        RecordError: leads are missing, the record is too short, or has missing samples or no signal where the model
            looks.
    """
    if spec.leads == INDEPENDENT_LEADS:
        model_input(independent_nv, record.fs_hz, spec, out, has_gaps=has_gaps)
    else:
        model_input(nanovolts(record, spec.leads, flat), record.fs_hz, spec, out)


def model_input(
    nv: Int32[ndarray, "lead time"],
    fs_hz: float | int,
    spec: InputSpec,
    out: Float32[ndarray, "lead samples"],
    *,
    has_gaps: bool = True,
) -> None:
    """Filter, resample, fit and scale int32 nV (lead, time) of `spec.leads` into float32 `out` (lead, time).

    `has_gaps` is False where the caller knows that no sample is missing.

    Raises:
        RecordError: too short, or missing samples or no signal where the model looks.
    """
    refuse_short(nv.shape[1], fs_hz, spec)
    if has_gaps:
        refuse_gaps(nv, fs_hz, spec)
    refuse_silence(nv, fs_hz, spec)
    _resampler(fs_hz, spec)(nv, out)


def refuse_short(n_samples: int, fs_hz: float | int, spec: InputSpec) -> None:
    """Nothing, for a record that is as long as the model demands.

    Raises:
        RecordError: it is not.
    """
    if n_samples < spec.min_seconds * fs_hz:
        detail = f"{n_samples / fs_hz:.2f} s, expected at least {spec.min_seconds:g} s"
        raise RecordError(Reason.TOO_SHORT, detail)


def refuse_gaps(nv: Int32[ndarray, "lead time"], fs_hz: float | int, spec: InputSpec) -> None:
    """Nothing, for a record that has every sample which the model's input depends on.

    Raises:
        RecordError: it has not.
    """
    if (seen := nv[:, : _seen(fs_hz, spec)]).min() == INVALID:
        detail = f"{int((seen == INVALID).any(axis=0).sum())} missing samples in the first {spec.seconds:g} s"
        raise RecordError(Reason.INVALID_SAMPLES, detail)


def refuse_silence(nv: Int32[ndarray, "lead time"], fs_hz: float | int, spec: InputSpec) -> None:
    """Nothing, for a record of which any lead changes in the seconds that the model looks at.

    Raises:
        RecordError: none does.
    """
    seen = nv[:, : round(spec.seconds * fs_hz)]
    if (seen[:, 0] == seen[:, -1]).all() and (seen == seen[:, :1]).all():  # mostly the ends differ
        raise RecordError(Reason.NO_SIGNAL, f"no lead changes in the first {seen.shape[1] / fs_hz:g} s")


def n_offset(fs_hz: float | int, spec: InputSpec) -> int:
    """How many samples a lead's offset is the mean of; 0 where it is not taken off."""
    return round(spec.seconds * fs_hz) if spec.filter == "offset" else 0


def per_nv(spec: InputSpec) -> Float32[ndarray, " lead"]:
    """What nanovolts of each lead are multiplied by."""
    return (1e-6 / np.array(spec.scale_mv)).astype(np.float32)


def _seen(fs_hz: float | int, spec: InputSpec) -> int:
    """How many samples of a record the model's input depends on."""
    bank = polyphase(fs_hz, spec.fs_hz)
    return max(bank.position(spec.samples - 1)[1] + bank.n_taps, n_offset(fs_hz, spec))


@lru_cache(maxsize=64)
def _resampler(fs_hz: float | int, spec: InputSpec) -> _kernels.ModelInput:
    bank = polyphase(fs_hz, spec.fs_hz)
    return _kernels.ModelInput(bank.up, bank.down, bank.half, bank.taps, per_nv(spec), n_offset(fs_hz, spec), spec.clip)


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


def _replaced(flat: tuple[str, ...], leads: tuple[str, ...]) -> tuple[str, ...]:
    """The flat leads, where any of the asked ones is among them."""
    return flat if set(flat) & set(leads) else ()


@lru_cache(maxsize=1024)
def _mixer(
    channels: tuple[str, ...],
    uv_per_count: tuple[float, ...],
    zero_counts: tuple[float, ...],
    flat: tuple[str, ...],
    leads: tuple[str, ...],
) -> _kernels.Mixer:
    mix = _mixes(channels, uv_per_count, zero_counts, flat, leads)
    return _kernels.Mixer(mix.channel, mix.nv_per_count, mix.zero_counts)


@lru_cache(maxsize=1024)
def _mixes(
    channels: tuple[str, ...],
    uv_per_count: tuple[float, ...],
    zero_counts: tuple[float, ...],
    flat: tuple[str, ...],
    leads: tuple[str, ...],
) -> Mixes:
    """Each lead from the channels that are not flat, and from all of them where those do not do."""
    mixing(channels, leads)  # raises, naming all that are missing
    alive = tuple(lead for lead in channels if lead not in flat)
    mix = Mixes(np.zeros((len(leads), 2), np.int64), np.zeros((len(leads), 2)), np.zeros((len(leads), 2)))
    for row, lead in enumerate(leads):
        stored = alive if _follows(alive, lead) else channels
        (weights,) = mixing(stored, (lead,))
        for slot, column in enumerate(np.flatnonzero(weights)):
            at = channels.index(stored[column])
            mix.channel[row, slot] = at
            mix.nv_per_count[row, slot] = weights[column] * uv_per_count[at] * 1000
            mix.zero_counts[row, slot] = zero_counts[at]
    return mix
