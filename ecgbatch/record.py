"""The nouns everyone shares: one decoded ECG, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

import numpy as np

__all__ = [
    "FIRST_YEAR",
    "INDEPENDENT_LEADS",
    "INVALID",
    "LEADS",
    "MAX_BYTES",
    "RATES_HZ",
    "UV_PER_COUNT",
    "Judged",
    "Quality",
    "Reason",
    "Record",
    "Reject",
    "Row",
    "lead_name",
    "model_name",
]

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The leads that carry all information of the twelve: the other four are sums of I and II."""

INVALID = -(2**31)
"""The int32 that stands for "no sample here", in counts and in nanovolts."""

RATES_HZ = (50.0, 100_000.0)
"""The sampling rates that a resting ECG may have; any other number is damage, and no resampler could serve it."""

UV_PER_COUNT = (1e-9, 1e6)
"""The gains that an ECG may have; beyond them a heartbeat would vanish in a count, or a count exceed a volt."""

MAX_BYTES = 64 * 2**20
"""A larger file is no resting ECG: 24 hours of Holter, an image, something else. The largest ECG seen has 1.2 MB."""

FIRST_YEAR = 1901
"""A date before it is not when an ECG was recorded (Einthoven's first paper: 1901): one of two digits, say, or the
first day of 1900, which databases have for none."""

_MAX_NAME = 64  # characters of a channel's name that may be a lead's
_CANONICAL: Mapping[str, str] = MappingProxyType({lead.upper(): lead for lead in LEADS})


def lead_name(text: str) -> str | None:
    """The standard name of a lead, whatever the file's spelling (`avr`, `Lead II`); None for any other channel."""
    return _lead_name(text) if len(text) <= _MAX_NAME else None


@lru_cache(maxsize=4096)
def _lead_name(text: str) -> str | None:
    name = text.strip().upper()
    return _CANONICAL.get(name.removeprefix("LEAD").strip(" _"))


def model_name(text: str) -> str | None:
    """What a file calls its device, on one line; None where it says nothing, or what no terminal should be given."""
    name = " ".join(text[:256].split())[:64]
    return name if name and name.isprintable() else None


class Reason(StrEnum):
    """Why a record is not scored: the closed list of `rejects.reason`."""

    UNREADABLE = "unreadable"
    """The bytes cannot be had: permission, I/O error, a dangling link, not a regular file."""
    SOURCE_CHANGED = "source-changed"
    """Size or modification time differ from the plan's."""
    EMPTY = "empty"
    TOO_LARGE = "too-large"
    """Larger than any resting ECG of its kind."""
    UNKNOWN_FORMAT = "unknown-format"
    ORPHAN_SIGNAL = "orphan-signal"
    """A signal file without the header that gives its rate, gain and leads."""
    MISSING_SIGNAL = "missing-signal"
    """A header names a signal file that is not there."""
    UNSAFE_XML = "unsafe-xml"
    """The document declares entities."""
    TRUNCATED = "truncated"
    """The file ends before what it declares."""
    MALFORMED = "malformed"
    """The structure contradicts itself or the format."""
    CORRUPT_PAYLOAD = "corrupt-payload"
    """The samples' encoding is broken (base64, FLAC, byte counts)."""
    CHECKSUM = "checksum"
    """The samples do not have the checksum stored beside them."""
    NO_RHYTHM = "no-rhythm"
    """The file holds no rhythm waveform (a median beat only, say)."""
    MISSING_LEADS = "missing-leads"
    DUPLICATE_LEAD = "duplicate-lead"
    UNKNOWN_RATE = "unknown-rate"
    UNKNOWN_GAIN = "unknown-gain"
    TOO_SHORT = "too-short"
    INVALID_SAMPLES = "invalid-samples"
    """Samples marked as missing lie in the part that a model would see."""
    NO_SIGNAL = "no-signal"
    """Every lead is flat."""
    POOR_QUALITY = "poor-quality"
    """Below the quality that was asked for; only where one was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The row of an entry that could not be scored."""

    record_id: str
    source_path: str
    stage: str
    """Where it failed: `read`, `decode` or `prepare`."""
    reason: Reason
    detail: str
    """One line for a person; never patient data."""


@dataclass(slots=True, kw_only=True)
class Quality:
    """What a reader would want to know of a signal before trusting its score; `quality.py` defines the measures.

    Each measure is that of the independent lead where it is worst, but the amplitude.
    """

    quality: float
    """Probability that a reader would call the ECG acceptable."""
    flat_leads: tuple[str, ...]
    """Leads stored without any signal."""
    poor_leads: tuple[str, ...]
    """Independent leads that are flat half of the time, clipped, or without a QRS in step with the other leads'."""
    amplitude_uv: float
    """Largest peak-to-peak amplitude of the eight independent leads."""
    amplitude_suspect: bool
    """Whether that is no ECG's: the unit or the gain may be wrong."""
    flat_share: float
    clipped_share: float
    spike_uv: float
    wander_uv: float
    noise_uv: float
    mains_uv: float
    qrs_uv: float
    qrs_agreement: float
    """-1 to 1"""
    limb_residual_uv: float | None
    """How far a stored III, aVR, aVL or aVF is from what I and II say it is; None where none is stored."""
    leads_suspect: bool
    """Whether that is much: leads may be swapped or mislabelled."""


@dataclass(slots=True, kw_only=True)
class Judged:
    """What is found out about a record whatever the model."""

    waveform_hash: str
    quality: Quality


@dataclass(slots=True, kw_only=True, eq=False)  # not frozen, as Quality and Row are not: that costs 1 µs a record
class Record:
    """One resting ECG as its file stores it: the rhythm, nothing derived, nothing resampled."""

    format: str
    """Container, e.g. `muse-xml`, `wfdb`."""
    fs_hz: float
    leads: tuple[str, ...]
    """Names of the stored channels, each one of `LEADS`, in stored order."""
    counts: np.ndarray
    """int16 or int32 (lead, time), any strides: a view of the file's own samples where possible."""
    uv_per_count: tuple[float, ...]
    """One a channel."""
    zero_counts: tuple[float, ...]
    """One a channel: the count that means 0 µV."""
    invalid_count: int | None = None
    """The count that means "no sample", or None where the container has no such mark."""
    acquired_at: datetime | None = None
    """Local time of the device, without zone."""
    device_model: str | None = None
    judged: Judged | None = None
    """Where a pack has kept it."""

    @property
    def n_samples(self) -> int:
        return int(self.counts.shape[1])

    @property
    def seconds(self) -> float:
        return self.n_samples / self.fs_hz


@dataclass(slots=True, kw_only=True)
class Row:
    """What the row of a scored record says besides its scores."""

    record_id: str
    source_path: str
    format: str
    waveform_hash: str
    acquired_at: datetime | None
    device_model: str | None
    fs_hz: float
    seconds: float
    leads_derived: tuple[str, ...]
    quality: Quality
