"""Philips cardiograph XML (`restingecgdata`): SierraECG 1.03, PhilipsECG 1.04 to 1.04.02.

What an attribute or element means is said in the vendor's schema, `PhilipsECG.xsd`: the attributes of the waveform hold
for its samples, and `signalcharacteristics` for the device, which is all that 1.03 states.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import FIRST_YEAR, LEADS, RATES_HZ, UV_PER_COUNT, Reason, Record, lead_name, model_name

__all__ = ["decode"]

_SIGNAL = (
    "samplingrate",
    "signalresolution",
    "resolution",
    "signaloffset",
    "signalsigned",
    "acquisitiontype",
    "numberchannelsallocated",
    "numberchannelsvalid",
)
_FIELDS = (
    "waveforms/parsedwaveforms",
    "dataacquisition",
    "dataacquisition/machine",
    *(f"dataacquisition/signalcharacteristics/{name}" for name in _SIGNAL),
)
_PATHS = _kernels.XmlPaths([f"restingecgdata/{field}" for field in _FIELDS])
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d):(\d\d)(?:\.\d*)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)

_LIMB_LEADS = LEADS[:6]
_PREDICTED_FROM = {"III": ("I", "II"), "aVR": ("I", "II"), "aVL": ("I", "III"), "aVF": ("II", "III")}
_TWELVE_LEADS = ("STD-12", "10-WIRE")  # acquisition types whose channels are the twelve leads, in standard order
_IEC_CHEST_LEAD = re.compile(r"C([1-6])")  # the schema's other name of V1 to V6

_MAX_SAMPLES = 2**20  # of a lead; a resting ECG has 5500, and XLI may pack silence without bound
_MAX_SIGNAL_BYTES = 4096  # of its fields, some 50
_MAX_GROWTH = 615  # ten bits of XLI are at most 768 bytes
_XLI_DEFECTS = (
    (Reason.TRUNCATED, "the payload ends before its samples"),
    (Reason.CORRUPT_PAYLOAD, "not XLI"),
    (Reason.MALFORMED, "another number of samples than durationperchannel says"),
    (Reason.CORRUPT_PAYLOAD, "not base64"),
)

_CALIBRATION_S = 1.0  # behind the ECG: its rest, silence from 0.65 s on, and 1 mV from 0.7 to 0.9 s
_SILENT_S, _PULSE_S = 0.35, (0.3, 0.1)  # before the end

_Span = tuple[int, int]


class _Layout(NamedTuple):
    """What the declarations say of the payload."""

    coding: str
    """`XLI`, which is in Base64, or else `Base64` or `Plain`."""
    fs_hz: float
    n_stored: int
    n_samples: int
    """Of each lead."""
    leads: tuple[str, ...]
    channels: tuple[int, ...]
    """Of each lead, its place among the stored ones."""
    uv_per_count: float
    zero_count: float


def decode(text: bytes) -> Record:
    """The rhythm of a Philips document in an ASCII-compatible encoding, less the second that holds a calibration pulse.

    Raises:
        RecordError: no rhythm, or anything about it is missing, contradictory or damaged.
    """
    found: dict[str, _Span] = {}
    start_tags: dict[str, bytes] = {}
    for path, tag, begin, end in xml.tags(text, _PATHS):
        if path == 0 and _FIELDS[0] in found:
            raise RecordError(Reason.NO_RHYTHM, "parsedwaveforms twice, expected one")
        found[_FIELDS[path]] = (begin, end)
        start_tags[_FIELDS[path]] = text[tag:begin]
    if _FIELDS[0] not in found:
        raise RecordError(Reason.NO_RHYTHM, "no parsedwaveforms in this file")
    payload = found[_FIELDS[0]]
    stated = [text[slice(*found.get(field, (0, 0)))] for field in _FIELDS[3:]]
    layout = _layout(start_tags[_FIELDS[0]], b"\0".join(stated))
    counts = {"XLI": _xli, "Base64": _uncompressed, "Plain": _plain}[layout.coding](text, payload, layout)
    return Record(
        format="philips-xml",
        fs_hz=layout.fs_hz,
        leads=layout.leads,
        counts=_rhythm(counts, layout),
        uv_per_count=(layout.uv_per_count,) * len(layout.leads),
        zero_counts=(layout.zero_count,) * len(layout.leads),
        acquired_at=_acquired_at(start_tags.get("dataacquisition", b"")),
        device_model=_device_model(text, found.get("dataacquisition/machine")),
    )


@lru_cache(maxsize=1024)
def _layout(tag: bytes, signal: bytes) -> _Layout:
    """From the start tag of the waveform and the `_SIGNAL` fields; kept, for an archive holds few different ones."""
    if len(signal) > _MAX_SIGNAL_BYTES:
        raise RecordError(Reason.MALFORMED, f"{len(signal)} bytes of signalcharacteristics")
    contents = signal.decode("latin-1").split("\0")
    if len(contents) != len(_SIGNAL):
        raise RecordError(Reason.MALFORMED, "a NUL in signalcharacteristics")
    device = {name: content.strip() for name, content in zip(_SIGNAL, contents, strict=True)}
    waveform = xml.attributes(tag)
    fs_hz = _number(waveform.get("samplespersecond") or device["samplingrate"])
    if not RATES_HZ[0] <= fs_hz <= RATES_HZ[1]:
        raise RecordError(Reason.UNKNOWN_RATE, "samplespersecond or samplingrate do not give a sampling rate")
    gain = waveform.get("resolution") or device["signalresolution"] or device["resolution"]
    if not UV_PER_COUNT[0] <= (uv_per_count := _number(gain)) <= UV_PER_COUNT[1]:
        raise RecordError(Reason.UNKNOWN_GAIN, "resolution or signalresolution do not give a gain")
    n_samples = _number(waveform.get("durationperchannel", "")) * fs_hz / 1000
    if not 1 <= n_samples <= _MAX_SAMPLES:
        raise RecordError(Reason.MALFORMED, "durationperchannel is not the length of a resting ECG")
    offset = "0" if "leadlabels" in waveform else device["signaloffset"]  # the schema's own default from 1.04 on
    zero_count = _number(waveform.get("signaloffset") or offset or "0")
    if not abs(zero_count) < 2**15:
        raise RecordError(Reason.MALFORMED, "signaloffset is beyond any sample")
    _require_16_bits(waveform, device)
    coding = _coding(waveform)
    stored = _stored_leads(waveform, device)
    channels = _channels(stored, has_true_residuals=coding == "XLI" and zero_count == 0)
    return _Layout(
        coding,
        fs_hz,
        len(stored),
        round(n_samples),
        tuple(channels),
        tuple(channels.values()),
        uv_per_count,
        zero_count,
    )


def _require_16_bits(waveform: dict[str, str], device: dict[str, str]) -> None:
    is_signed = waveform.get("signalsigned") or device["signalsigned"] or "True"
    n_bits = waveform.get("bitspersample") or waveform.get("nbitspersample") or "16"
    if is_signed != "True" or _number(n_bits) != 16:
        raise RecordError(Reason.MALFORMED, "expected signed samples of 16 bits")


def _coding(waveform: dict[str, str]) -> str:
    """How the payload is written; 1.03 has a flag for compression, 1.04 leaves the attribute out where there is none.

    `Plain` are decimal numbers, which nothing has compressed whatever the other attributes say: programs that decode a
    document leave them as they were.
    """
    encoding = waveform.get("dataencoding", "Base64")
    if encoding not in ("Base64", "Plain"):
        raise RecordError(Reason.MALFORMED, "samples neither in Base64 nor Plain")
    method = waveform.get("compression") or waveform.get("compressmethod", "")
    if encoding == "Plain" or waveform.get("compressflag", "True" if method else "False") != "True":
        return encoding
    if method != "XLI":
        raise RecordError(Reason.MALFORMED, "a compression other than XLI")
    return method


def _stored_leads(waveform: dict[str, str], device: dict[str, str]) -> tuple[str, ...]:
    """Labels of the valid channels; what is stored behind them is none of the ECG."""
    if "leadlabels" in waveform:
        labels = tuple(waveform["leadlabels"].split())
        n_leads = _number(waveform.get("numberofleads") or str(len(labels)))
        if not 1 <= n_leads <= len(labels) or n_leads != int(n_leads):
            raise RecordError(Reason.MALFORMED, "numberofleads and leadlabels disagree")
        return labels[: int(n_leads)]
    n_valid = device["numberchannelsvalid"] or device["numberchannelsallocated"]
    if device["acquisitiontype"] not in _TWELVE_LEADS or n_valid != str(len(LEADS)):
        raise RecordError(Reason.MISSING_LEADS, "neither leadlabels nor a standard 12-lead acquisition")
    return LEADS


def _channels(stored: tuple[str, ...], *, has_true_residuals: bool) -> dict[str, int]:
    """The channel of each standard lead.

    XLI stores III, aVR, aVL and aVF as what is left once they are predicted from other leads. They are left alone where
    those leads are absent, and where nothing says whether they are such residuals.
    """
    channels: dict[str, int] = {}
    for channel, label in enumerate(stored):
        lead = lead_name(_IEC_CHEST_LEAD.sub(r"V\1", label) if _IEC_CHEST_LEAD.fullmatch(label) else label)
        if lead in channels:
            raise RecordError(Reason.DUPLICATE_LEAD, f"lead {lead} is stored twice")
        if lead:
            channels[lead] = channel
    for lead, sources in _PREDICTED_FROM.items():
        if lead in channels and not (has_true_residuals and all(source in channels for source in sources)):
            del channels[lead]
    if not channels:
        raise RecordError(Reason.MISSING_LEADS, "no standard lead in the rhythm")
    return channels


def _xli(text: bytes, payload: _Span, layout: _Layout) -> np.ndarray:
    """int16 (lead, time), limb leads restored."""
    n_bytes = 2 * layout.n_samples * len(layout.leads)
    if n_bytes > (payload[1] - payload[0]) * 3 // 4 * _MAX_GROWTH:
        raise RecordError(Reason.MALFORMED, f"{n_bytes} bytes of samples declared, and no payload to hold them")
    counts = np.empty((len(layout.leads), layout.n_samples), np.int16)
    row = {channel: row for row, channel in enumerate(layout.channels)}
    rows = [row.get(channel, -1) for channel in range(max(row) + 1)]
    limbs = [layout.leads.index(lead) if lead in layout.leads else -1 for lead in _LIMB_LEADS]
    status, lead = _kernels.xli_leads(text, payload, rows, limbs, counts)
    if status:
        reason, what = _XLI_DEFECTS[status - 1]
        raise RecordError(reason, f"lead {lead + 1} of {layout.n_stored}: {what}")
    return counts


def _uncompressed(text: bytes, payload: _Span, layout: _Layout) -> np.ndarray:
    """int16 (lead, time) of a payload that holds lead after lead."""
    n_bytes = 2 * layout.n_samples * layout.n_stored
    if n_bytes > (payload[1] - payload[0]) * 3 // 4:
        raise RecordError(Reason.MALFORMED, f"{n_bytes} bytes declared, and not as many characters of base64")
    samples = np.empty((1, n_bytes), np.uint8)
    (n_found, _), *_ = _kernels.base64_blocks(text, [payload], samples)
    if n_found < 0:
        raise RecordError(Reason.CORRUPT_PAYLOAD, "not base64")
    if n_found < n_bytes or n_found % (2 * layout.n_samples):
        raise RecordError(Reason.MALFORMED, f"{n_found} bytes of samples, expected {n_bytes}")
    return samples.view("<i2").reshape(layout.n_stored, -1)[list(layout.channels)]


def _plain(text: bytes, payload: _Span, layout: _Layout) -> np.ndarray:
    """int32 (lead, time) of a payload of decimal numbers, lead after lead."""
    (samples,) = xml.integers(text, [payload], ["parsedwaveforms"])
    if samples.size < layout.n_stored * layout.n_samples or samples.size % layout.n_samples:
        detail = f"{samples.size} samples, expected {layout.n_stored} leads of {layout.n_samples}"
        raise RecordError(Reason.MALFORMED, detail)
    return samples.reshape(-1, layout.n_samples)[list(layout.channels)]


def _rhythm(counts: np.ndarray, layout: _Layout) -> np.ndarray:
    """Without the last second, if it ends in every lead as only the device's own calibration does.

    An ECG cannot: I, II and aVR would be +1 mV at once, while aVR is -(I + II) / 2.
    """
    pulse = _pulse(layout.fs_hz, layout.uv_per_count)
    if counts.shape[1] <= layout.fs_hz * _CALIBRATION_S:
        return counts
    tail = counts[:, -len(pulse) :].astype(np.int32) - round(layout.zero_count)
    is_calibration = np.abs(tail - pulse).max() <= 1
    return counts[:, : -round(layout.fs_hz * _CALIBRATION_S)] if is_calibration else counts


@lru_cache(maxsize=64)
def _pulse(fs_hz: float, uv_per_count: float) -> np.ndarray:
    """Counts of the silence and the pulse of 1 mV that end a calibration."""
    rises, falls = (round(_SILENT_S * fs_hz) - round(before_end_s * fs_hz) for before_end_s in _PULSE_S)
    pulse = np.zeros(round(_SILENT_S * fs_hz))
    pulse[rises:falls] = round(1000 / uv_per_count)
    return pulse


def _acquired_at(acquisition: bytes) -> datetime | None:
    """When the attributes of the start tag of `dataacquisition` say; None where that is no moment."""
    stated = xml.attributes(acquisition)
    date, time = stated.get("date", "").strip(), stated.get("time", "").strip()
    match = _MOMENT.fullmatch(f"{date}T{time}" if time else date)
    try:
        moment = datetime(*map(int, filter(None, match.groups()))) if match else None  # type: ignore[arg-type]
    except ValueError:
        return None
    return moment if moment and moment.year >= FIRST_YEAR else None


def _device_model(text: bytes, machine: _Span | None) -> str | None:
    """The machine's name: its number and its software stand in attributes."""
    name = model_name(xml.free_text(text[slice(*machine)])) if machine else None
    return None if name == "Unknown" else name


def _number(text: str) -> float:
    """The number that a text is, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
