"""Payloads: what a record's model input is computed from where the host does not compute it.

A record's counts go as they lie in its file, with a recipe that says what becomes of them. All that can be wrong with a
record is found here; what is left is arithmetic that cannot fail.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ecgbatch.bundle import InputSpec
from ecgbatch.feed import host
from ecgbatch.record import INDEPENDENT_LEADS, Record
from ecgbatch.waveform import offset, polyphase

__all__ = ["LAYOUT", "LEAD", "Payload", "of", "put", "room"]

LAYOUT = np.dtype(
    {
        "names": [
            "n_samples",
            "channel_stride",
            "time_stride",
            "is_wide",
            "invalid",
            "up",
            "down",
            "half",
            "n_taps",
        ],
        "formats": [np.int64] * 9,
    }
)
"""`Layout` of `kernels/recipe.h`."""

LEAD = np.dtype(
    [
        ("channel", np.int64, 2),
        ("nv_per_count", np.float64, 2),
        ("zero_counts", np.float64, 2),
        ("offset_nv", np.float64),
        ("per_nv", np.float64),
    ]
)
"""`Lead` of `kernels/recipe.h`, one for each row of a model's input."""


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """The operator's inputs for one record and one model."""

    counts: np.ndarray
    """int16: the record's samples, of int32 ones the lower halves and the upper ones in turn."""
    taps: np.ndarray
    """float32 (phase, tap)"""
    recipe: np.ndarray
    """bytes: a `LAYOUT` and `LEAD`s."""


def room(n_records: int, _: InputSpec) -> np.ndarray:
    """Place for the payloads of so many records."""
    return np.empty((n_records, 1), object)


def put(
    record: Record,
    spec: InputSpec,
    out: np.ndarray,
    *,
    flat: tuple[str, ...],
    independent_nv: np.ndarray,
    has_gaps: bool,
) -> None:
    """Write the record's payload into `out`, a row of `room`.

    Raises:
        RecordError: leads are missing, the record is too short, or has missing samples or no signal where the model
            looks.
    """
    host.refuse_short(record.n_samples, record.fs_hz, spec)
    nv = independent_nv
    if spec.leads != INDEPENDENT_LEADS:
        has_gaps = record.invalid_count is not None  # or may have: the independent leads do not tell
        nv = host.nanovolts(record, spec.leads, flat)
    if has_gaps:
        host.refuse_gaps(nv, record.fs_hz, spec)
    host.refuse_silence(nv, record.fs_hz, spec)
    out[0] = of(record, spec, flat, nv)


def of(record: Record, spec: InputSpec, flat: tuple[str, ...] = (), nv: np.ndarray | None = None) -> Payload:
    """A record's payload, of a recipe for one model; `nv` (lead, time) of the model's leads spares computing it.

    Raises:
        RecordError: leads are missing.
    """
    counts = record.counts
    is_interleaved = bool(counts.T.flags.c_contiguous)
    lying = counts.T if is_interleaved else np.ascontiguousarray(counts)
    recipe = _recipe(
        host.mixes(record, spec.leads, flat),
        spec,
        fs_hz=record.fs_hz,
        shape=counts.shape,
        is_interleaved=is_interleaved,
        is_wide=counts.dtype == np.int32,
        invalid=host.mark(record),
    )
    if n := host.n_offset(record.fs_hz, spec):
        nv = host.nanovolts(record, spec.leads, flat) if nv is None else nv
        recipe = recipe.copy()
        recipe[LAYOUT.itemsize :].view(LEAD)["offset_nv"] = offset(nv, n)[:, 0].astype(np.float32)
    return Payload(lying.reshape(-1).view(np.int16), polyphase(record.fs_hz, spec.fs_hz).taps, recipe)


@lru_cache(maxsize=1024)
def _recipe(
    mixes: host.Mixes,
    spec: InputSpec,
    *,
    fs_hz: float,
    shape: tuple[int, int],
    is_interleaved: bool,
    is_wide: bool,
    invalid: int,
) -> np.ndarray:
    """Bytes that records of one device share, offsets left out; `mixes` is one object where it is the same."""
    n_channels, n_samples = shape
    strides = (1, n_channels) if is_interleaved else (n_samples, 1)
    bank = polyphase(fs_hz, spec.fs_hz)
    layout = (n_samples, *strides, is_wide, invalid, bank.up, bank.down, bank.half, bank.n_taps)
    leads = np.empty(len(spec.leads), LEAD)
    leads["channel"], leads["nv_per_count"], leads["zero_counts"] = mixes.channel, mixes.nv_per_count, mixes.zero_counts
    leads["offset_nv"], leads["per_nv"] = 0, host.per_nv(spec)
    return np.frombuffer(np.array(layout, LAYOUT).tobytes() + leads.tobytes(), np.uint8)
