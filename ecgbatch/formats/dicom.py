"""DICOM waveform objects (PS3.3, C.10.9): multiplex groups of interleaved samples, whatever their SOP class.

No element is read but those named here and in `dicom_channels`; what is said of a patient is passed over.
"""

import re
from datetime import datetime
from typing import NamedTuple

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import dicom_samples
from ecgbatch.formats.dicom_channels import Layout, layout_of
from ecgbatch.formats.dicom_file import ITEM, DataSet, data_set, elements, number, text
from ecgbatch.record import FIRST_YEAR, INDEPENDENT_LEADS, RATES_HZ, Reason, Record, model_name

__all__ = ["decode"]

_WAVEFORMS = 0x54000100
_PATHS = {
    "AcquisitionDate": [0x00080022],
    "AcquisitionDateTime": [0x0008002A],
    "AcquisitionTime": [0x00080032],
    "ManufacturerModelName": [0x00081090],
    "WaveformSequence": [_WAVEFORMS],
    "MultiplexGroup": [_WAVEFORMS, ITEM],
    "NumberOfWaveformChannels": [_WAVEFORMS, ITEM, 0x003A0005],
    "NumberOfWaveformSamples": [_WAVEFORMS, ITEM, 0x003A0010],
    "SamplingFrequency": [_WAVEFORMS, ITEM, 0x003A001A],
    "MultiplexGroupLabel": [_WAVEFORMS, ITEM, 0x003A0020],
    "ChannelDefinitionSequence": [_WAVEFORMS, ITEM, 0x003A0200],
    "WaveformBitsAllocated": [_WAVEFORMS, ITEM, 0x54001004],
    "WaveformSampleInterpretation": [_WAVEFORMS, ITEM, 0x54001006],
    "WaveformPaddingValue": [_WAVEFORMS, ITEM, 0x5400100A],
    "WaveformData": [_WAVEFORMS, ITEM, 0x54001010],
}
_NAMES = tuple(_PATHS)
_OF_INSTANCE = _NAMES[: _NAMES.index("MultiplexGroup")]
_SCAN = _kernels.DicomPaths(list(_PATHS.values()))

_AVERAGED = re.compile("MEDIAN|AVERAGE|BEAT|TEMPLATE")
_DATE_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?(?:[+-]\d{4})?", re.ASCII)

_Span = tuple[int, int]
_Fields = dict[str, _Span]
"""Where the value of each element lies in the data, by its name."""


class _Group(NamedTuple):
    """A multiplex group that may be the rhythm."""

    fields: _Fields
    layout: Layout
    is_called_rhythm: bool
    n_samples: int
    fs_hz: float
    """0 where no rate that makes sense is stated."""

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """Largest for the group to score: what the eight leads follow from, called rhythm, any lead, longest."""
        leads = set(self.layout.leads)
        limb = len(leads - set(INDEPENDENT_LEADS[2:]))
        is_whole = leads.issuperset(INDEPENDENT_LEADS[2:]) and limb >= 2
        return is_whole, self.is_called_rhythm, bool(leads), self.n_samples / self.fs_hz if self.fs_hz else 0.0


def decode(raw: bytes) -> Record:
    """The rhythm of a DICOM file: of several multiplex groups the longest that has the leads and is no average.

    Leads of different groups are never joined, for groups may follow one another.

    Raises:
        RecordError: no waveform, or anything about it is missing, contradictory or damaged.
    """
    found = data_set(raw)
    instance, items = _outline(found)
    if not items:
        raise RecordError(Reason.NO_RHYTHM, "DICOM without a waveform")
    group = _rhythm([_group(found, fields) for fields in items if not _is_averaged(found, fields)])
    layout = group.layout
    kind = text(found.data, group.fields.get("WaveformSampleInterpretation", (0, 0)))
    counts, padding = _counts(found, group, kind)
    zero = dicom_samples.ZERO_COUNT.get(kind, 0)
    zero_counts = tuple([count + zero for count in layout.zero_counts]) if zero else layout.zero_counts
    # Some writers state the padding 0, and store 0 where the signal is 0 µV.
    is_value = padding in zero_counts or (padding == 0 and kind not in dicom_samples.UNSIGNED)
    return Record(
        format="dicom",
        fs_hz=group.fs_hz,
        leads=layout.leads,
        counts=counts,
        uv_per_count=layout.uv_per_count,
        zero_counts=zero_counts,
        invalid_count=None if is_value else padding,
        acquired_at=_acquired_at(found, instance),
        device_model=model_name(text(found.data, instance.get("ManufacturerModelName", (0, 0)))),
    )


def _outline(found: DataSet) -> tuple[_Fields, list[_Fields]]:
    """The fields of the instance, and of each multiplex group."""
    instance: _Fields = {}
    groups: list[_Fields] = []
    for name, begin, end in elements(found, _SCAN, _NAMES):
        if name == "MultiplexGroup":
            groups.append({})
            continue
        fields = instance if name in _OF_INSTANCE else groups[-1]
        if name in fields:
            raise RecordError(Reason.MALFORMED, f"{name} stands twice")
        fields[name] = (begin, end)
    return instance, groups


def _is_averaged(found: DataSet, fields: _Fields) -> bool:
    return _AVERAGED.search(text(found.data, fields.get("MultiplexGroupLabel", (0, 0))).upper()) is not None


def _group(found: DataSet, fields: _Fields) -> _Group:
    begin, end = fields.get("ChannelDefinitionSequence", (0, 0))
    layout = layout_of(found.data[begin:end], explicit_vr=found.explicit_vr, big_endian=found.big_endian)
    fs_hz = number(text(found.data, fields.get("SamplingFrequency", (0, 0))), 0.0)
    return _Group(
        fields,
        layout,
        "RHYTHM" in text(found.data, fields.get("MultiplexGroupLabel", (0, 0))).upper(),
        _integer(found, fields, "NumberOfWaveformSamples"),
        fs_hz if RATES_HZ[0] <= fs_hz <= RATES_HZ[1] else 0.0,
    )


def _rhythm(groups: list[_Group]) -> _Group:
    """The group to score, its leads known to be simultaneous and calibrated."""
    if not groups:
        raise RecordError(Reason.NO_RHYTHM, "DICOM of averaged beats only")
    best = max(groups, key=lambda group: group.rank)
    layout = best.layout
    if not layout.leads:
        raise RecordError(Reason.MISSING_LEADS, f"no standard lead in {len(groups)} multiplex groups")
    if twice := [lead for lead in layout.leads if layout.leads.count(lead) > 1]:
        raise RecordError(Reason.DUPLICATE_LEAD, f"lead {twice[0]} is stored twice")
    if not best.fs_hz:
        raise RecordError(Reason.UNKNOWN_RATE, "SamplingFrequency does not give a sampling rate")
    if not all(layout.uv_per_count):
        lead = layout.leads[layout.uv_per_count.index(0.0)]
        raise RecordError(Reason.UNKNOWN_GAIN, f"lead {lead}: its sensitivity does not give a gain in volts")
    if not layout.skew_samples + layout.skew_s * best.fs_hz < 1:
        raise RecordError(Reason.MALFORMED, "leads of different start, expected simultaneous leads")
    return best


def _counts(found: DataSet, group: _Group, kind: str) -> tuple[np.ndarray, int | None]:
    """int16 or int32 (lead, time), and the count that is called padding."""
    n_channels, rows = group.layout.n_channels, group.layout.rows
    if _integer(found, group.fields, "NumberOfWaveformChannels") != n_channels:
        raise RecordError(Reason.MALFORMED, f"{n_channels} channels defined, expected NumberOfWaveformChannels")
    bits = _integer(found, group.fields, "WaveformBitsAllocated")
    n_bytes = dicom_samples.sample_bytes(kind, bits, big_endian=found.big_endian)
    begin, end = group.fields.get("WaveformData", (0, 0))
    n = group.n_samples * n_channels
    if not n or end - begin not in (n * n_bytes, n * n_bytes + n * n_bytes % 2):
        detail = f"{end - begin} bytes of samples, expected {group.n_samples} samples of {n_channels} channels"
        raise RecordError(Reason.MALFORMED, detail)
    channels = dicom_samples.counts(found, kind, begin, n).reshape(-1, n_channels).T
    mark, mark_end = group.fields.get("WaveformPaddingValue", (0, 0))
    if mark_end - mark not in (0, n_bytes, n_bytes + n_bytes % 2):
        raise RecordError(Reason.MALFORMED, f"WaveformPaddingValue of {mark_end - mark} bytes, expected {n_bytes}")
    padding = int(dicom_samples.counts(found, kind, mark, 1)[0]) if mark_end > mark else None
    return channels if len(rows) == n_channels else channels[list(rows)], padding


def _integer(found: DataSet, fields: _Fields, name: str) -> int:
    """A binary number of two or four bytes."""
    begin, end = fields.get(name, (0, 0))
    if end - begin not in (2, 4):
        raise RecordError(Reason.MALFORMED, f"{name} is not a number")
    return int.from_bytes(found.data[begin:end], "big" if found.big_endian else "little")


def _acquired_at(found: DataSet, instance: _Fields) -> datetime | None:
    """AcquisitionDateTime, or date and time apart; the zone that may follow is left alone, for the time is local."""
    moment = text(found.data, instance.get("AcquisitionDateTime", (0, 0)))
    if not moment:
        moment = "".join([text(found.data, instance.get(f"Acquisition{part}", (0, 0))) for part in ("Date", "Time")])
    parts = _DATE_TIME.fullmatch(moment)
    if not parts:
        return None
    year, month, day, hour, minute, second = [int(part or 0) for part in parts.groups()[:6]]
    try:
        acquired_at = datetime(year, month, day, hour, minute, second, int(f"{parts[7] or 0:0<6}"))
    except ValueError:
        return None
    return acquired_at if year >= FIRST_YEAR else None
