"""Channel definitions of DICOM waveforms: which lead each channel is, and what its counts mean."""

import re
from functools import lru_cache
from math import isnan
from typing import NamedTuple

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats.dicom_file import ITEM, DataSet, elements, number, text
from ecgbatch.record import UV_PER_COUNT, Reason, lead_name

__all__ = ["Layout", "layout_of"]

_SOURCE, _UNITS = 0x003A0208, 0x003A0211
_CODE, _LONG_CODE, _MEANING = 0x00080100, 0x00080119, 0x00080104
_PATHS = {
    "Channel": [ITEM],
    "ChannelLabel": [ITEM, 0x003A0203],
    "SourceCode": [ITEM, _SOURCE, ITEM, _CODE],
    "SourceLongCode": [ITEM, _SOURCE, ITEM, _LONG_CODE],
    "SourceMeaning": [ITEM, _SOURCE, ITEM, _MEANING],
    "ChannelSensitivity": [ITEM, 0x003A0210],
    "UnitsCode": [ITEM, _UNITS, ITEM, _CODE],
    "ChannelSensitivityCorrectionFactor": [ITEM, 0x003A0212],
    "ChannelBaseline": [ITEM, 0x003A0213],
    "ChannelTimeSkew": [ITEM, 0x003A0214],
    "ChannelSampleSkew": [ITEM, 0x003A0215],
}
_NAMES = tuple(_PATHS)
_SCAN = _kernels.DicomPaths(list(_PATHS.values()))

_CODED = re.compile(
    r"(?:5\.6\.3-9-|2:)(\d{1,4})|(131[0-3]\d\d)|MDC_ECG_(?:LEAD|ELEC_POTL)_(\w+)", re.ASCII | re.IGNORECASE
)
"""SCP-ECG's code (EN 1064, 5.6.3, field 9); MDC partition and code (ISO/IEEE 11073-10101), both in one, or a name."""
_LEADS = {1: "I", 2: "II", **{n: f"V{n - 2}" for n in range(3, 9)}, 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
"""The twelve leads by the number that SCP-ECG and MDC agree on."""
_MDC_PARTITION = 2 * 65536
_POTENTIAL = 256
"""By so much MDC's code of the potential at a lead's electrodes is larger than that of the lead."""
_OTHER_SIGN = re.compile("INVER|NEGAT|MINUS", re.IGNORECASE)
_UV_PER_UNIT = {"uv": 1.0, "µv": 1.0, "\u03bcv": 1.0, "mv": 1e3, "v": 1e6, "nv": 1e-3}
"""UCUM, in any case."""
_MAX_BYTES = 2**18  # a channel takes some 500 bytes
_MAX_COUNT = 2**31  # of any sample


class Layout(NamedTuple):
    """The standard leads among the channels of a multiplex group, in stored order."""

    n_channels: int
    rows: tuple[int, ...]
    """Index of each lead's channel."""
    leads: tuple[str, ...]
    uv_per_count: tuple[float, ...]
    """0 where sensitivity, correction, baseline and unit do not give a gain in volts that makes sense."""
    zero_counts: tuple[float, ...]
    skew_samples: float
    """How much later the latest lead begins than the first, as far as that is stated in samples."""
    skew_s: float
    """The same, as far as it is stated in seconds."""


def layout_of(definitions: bytes, *, explicit_vr: bool, big_endian: bool) -> Layout:
    """The layout that the value of a ChannelDefinitionSequence states.

    Raises:
        RecordError: the value is no such sequence.
    """
    if len(definitions) > _MAX_BYTES:
        raise RecordError(Reason.MALFORMED, f"{len(definitions)} bytes of channel definitions")
    return _layout(DataSet(definitions, 0, explicit_vr, big_endian))


@lru_cache(maxsize=64)
def _layout(definitions: DataSet) -> Layout:
    """Kept, for an archive holds few different ones."""
    channels: list[dict[str, str]] = []
    for name, *span in elements(definitions, _SCAN, _NAMES):
        if name == "Channel":
            channels.append({})
        elif name in channels[-1]:
            raise RecordError(Reason.MALFORMED, f"{name} stands twice in a channel")
        else:
            channels[-1][name] = text(definitions.data, (span[0], span[1]))
    named = [(row, lead) for row, channel in enumerate(channels) if (lead := _lead(channel))]
    stored = [channels[row] for row, _ in named]
    calibrations = [_calibration(channel) for channel in stored]
    return Layout(
        len(channels),
        tuple([row for row, _ in named]),
        tuple([lead for _, lead in named]),
        tuple([uv_per_count for uv_per_count, _ in calibrations]),
        tuple([zero_count for _, zero_count in calibrations]),
        _spread([channel.get("ChannelSampleSkew", "") for channel in stored]),
        _spread([channel.get("ChannelTimeSkew", "") for channel in stored]),
    )


def _lead(channel: dict[str, str]) -> str | None:
    """By code; by its meaning or the channel's label only where the code is of no scheme that is known."""
    code = channel.get("SourceCode") or channel.get("SourceLongCode", "")
    if found := _CODED.fullmatch(code):
        number = int(found[1] or 0) or int(found[2] or 0) - _MDC_PARTITION
        return lead_name(found[3]) if found[3] else _LEADS.get(number) or _LEADS.get(number - _POTENTIAL)
    meaning = channel.get("SourceMeaning", "")
    if _OTHER_SIGN.search(meaning):
        return None
    return lead_name(re.split("[,(]", meaning, maxsplit=1)[0]) or lead_name(channel.get("ChannelLabel", ""))


def _calibration(channel: dict[str, str]) -> tuple[float, float]:
    """µV a count, 0 where that is unknown, and the count of 0 µV.

    A value is count times sensitivity times correction, plus the baseline, all in the stated unit.
    """
    correction = number(channel.get("ChannelSensitivityCorrectionFactor", ""), 1.0)
    per_count = number(channel.get("ChannelSensitivity", ""), 0.0) * correction
    baseline = number(channel.get("ChannelBaseline", ""), 0.0)
    uv_per_count = per_count * _UV_PER_UNIT.get(channel.get("UnitsCode", "").lower(), 0.0)
    if not UV_PER_COUNT[0] <= uv_per_count <= UV_PER_COUNT[1]:
        return 0.0, 0.0
    zero_count = 0.0 - baseline / per_count
    return (uv_per_count, zero_count) if abs(zero_count) <= _MAX_COUNT else (0.0, 0.0)


def _spread(skews: list[str]) -> float:
    """From the least to the largest; infinite where one is not a number."""
    stated = [number(skew, 0.0) for skew in skews]
    return float("inf") if any(map(isnan, stated)) else max(stated, default=0.0) - min(stated, default=0.0)
