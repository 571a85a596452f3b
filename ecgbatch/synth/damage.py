"""What goes wrong with files, each kind with the reason it must be rejected for.

Every kind is unambiguous: a reader that checks what the format lets it check can name only that reason.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ecgbatch.record import Reason, Record

__all__ = ["DAMAGE", "damaged_file", "damaged_muse", "damaged_record", "damaged_wfdb"]

_RECORD_DAMAGE: Mapping[str, Reason] = MappingProxyType(
    {
        "three-leads": Reason.MISSING_LEADS,
        "lead-twice": Reason.DUPLICATE_LEAD,
        "flat": Reason.NO_SIGNAL,
        "one-second": Reason.TOO_SHORT,
    }
)

_FILE_DAMAGE: Mapping[str, Reason] = MappingProxyType(
    {"cut": Reason.TRUNCATED, "empty": Reason.EMPTY, "junk": Reason.UNKNOWN_FORMAT}
)

_XML_DAMAGE: Mapping[str, Reason] = MappingProxyType(
    {**_FILE_DAMAGE, "text": Reason.UNKNOWN_FORMAT, "entities": Reason.UNSAFE_XML}
)

_EDIT_DAMAGE: Mapping[str, Reason] = MappingProxyType(
    {
        "rate-zero": Reason.UNKNOWN_RATE,
        "gain-missing": Reason.UNKNOWN_GAIN,
        "median-only": Reason.NO_RHYTHM,
        "count-wrong": Reason.MALFORMED,
        "lead-short": Reason.MALFORMED,
        "digits-broken": Reason.CORRUPT_PAYLOAD,
        "base64-broken": Reason.CORRUPT_PAYLOAD,
    }
)

_EDITS: Mapping[str, Mapping[str, tuple[bytes, bytes, int]]] = MappingProxyType(
    {
        "hl7-aecg": {
            "rate-zero": (rb'(<increment value=")[^"]+', rb"\g<1>0", 0),
            "gain-missing": (rb"<scale [^>]*>", b"", 0),
            "median-only": (rb'"RHYTHM"', b'"REPRESENTATIVE_BEAT"', 1),
            "lead-short": (rb"-?\d+ </digits>", b"</digits>", 1),
            "digits-broken": (rb"(<digits>-?\d+) ", rb"\1x ", 1),
        },
        "cardiosoft-xml": {
            "rate-zero": (rb"(<SampleRate [^>]*>)\d+", rb"\g<1>0", 0),
            "gain-missing": (rb"<Resolution .*", b"", 0),
            "median-only": (rb"(?s)<StripData>.*</StripData>", b"", 1),
            "count-wrong": (rb"(<ChannelSampleCountTotal>)\d+", rb"\g<1>12", 0),
            "digits-broken": (rb"(?s)(<StripData>.*?<WaveformData [^>]*>\s*-?\d+),", rb"\1x,", 1),
        },
        "dicom": {
            "rate-zero": (rb"(?s)(:\0\x1a\0DS\x04\0)....", rb"\g<1>0   ", 0),
            "gain-missing": (rb"(?s)(:\0\x10\x02DS\x04\0)....", rb"\g<1>    ", 0),
            "median-only": (rb"RHYTHM", b"MEDIAN", 1),
            "count-wrong": (rb"(?s)(:\0\x10\0UL\x04\0)....", b"\\g<1>\1\2\0\0", 0),
        },
        "edf": {
            "rate-zero": (rb"(?s)^(.{244}).{8}", rb"\g<1>0       ", 1),
            "gain-missing": (rb"uV {6}", b" " * 8, 0),
            "count-wrong": (rb"(?s)^(.{236}).{8}", rb"\g<1>3       ", 1),
        },
        "mortara-xml": {
            "rate-zero": (rb'(SAMPLE_FREQ=")\d+', rb"\g<1>0", 0),
            "gain-missing": (rb'UNITS_PER_MV="[^"]*"', b"", 0),
            "count-wrong": (rb'(<CHANNEL [^>]*DURATION=")\d+', rb"\g<1>12", 1),
            "base64-broken": (rb'(<CHANNEL [^>]*DATA=".{200}).', rb"\1!", 1),
        },
        "philips-xml": {
            "rate-zero": (rb'(samplespersecond=")\d+', rb"\g<1>0", 0),
            "gain-missing": (rb'resolution="[^"]*"|<resolution>[^<]*</resolution>', b"", 0),
            "median-only": (rb"(?s)<parsedwaveforms .*</parsedwaveforms>", b"", 1),
            "count-wrong": (rb'(durationperchannel=")\d+', rb"\g<1>8998", 1),
            "base64-broken": (rb"(?s)(<parsedwaveforms [^>]*>.{200}).", rb"\1!", 1),
        },
        "schiller-xml": {
            "rate-zero": (rb"(<samplerate><value>)\d+", rb"\g<1>0", 0),
            "gain-missing": (rb"<unitperbit>[^<]*</unitperbit>", b"", 0),
            "median-only": (rb"ECG_RHYTHMS", b"ECG_AVERAGES", 1),
            "lead-short": (rb"-?\d+,</data>", b"</data>", 1),
            "digits-broken": (rb"(<data>-?\d+),", rb"\1x,", 1),
        },
    }
)
"""What to find in a sound file of a container, what to put in its place, and how often (0: everywhere)."""

DAMAGE: Mapping[str, Mapping[str, Reason]] = MappingProxyType(
    {
        "muse-xml": {
            "cut": Reason.TRUNCATED,
            "crc-wrong": Reason.CHECKSUM,
            "base64-broken": Reason.CORRUPT_PAYLOAD,
            "empty": Reason.EMPTY,
            "junk": Reason.UNKNOWN_FORMAT,
            "text": Reason.UNKNOWN_FORMAT,
            "median-only": Reason.NO_RHYTHM,
            "rate-zero": Reason.UNKNOWN_RATE,
            "gain-missing": Reason.UNKNOWN_GAIN,
            "entities": Reason.UNSAFE_XML,
            **_RECORD_DAMAGE,
        },
        "wfdb": {
            "signal-cut": Reason.TRUNCATED,
            "sample-flipped": Reason.CHECKSUM,
            "signal-missing": Reason.MISSING_SIGNAL,
            "header-missing": Reason.ORPHAN_SIGNAL,
            "empty": Reason.EMPTY,
            "junk": Reason.UNKNOWN_FORMAT,
            "rate-zero": Reason.UNKNOWN_RATE,
            "sentinels": Reason.INVALID_SAMPLES,
            **_RECORD_DAMAGE,
        },
        "hdf5-code15": {
            "sentinels": Reason.INVALID_SAMPLES,
            "flat": Reason.NO_SIGNAL,
            "one-second": Reason.TOO_SHORT,
        },
        **{
            container: {
                **{kind: _EDIT_DAMAGE[kind] for kind in edits},
                **(_FILE_DAMAGE if container in ("dicom", "edf") else _XML_DAMAGE),
                **({"sentinels": Reason.INVALID_SAMPLES} if container == "dicom" else {}),
                **_RECORD_DAMAGE,
            }
            for container, edits in _EDITS.items()
        },
    }
)
"""By container: each kind of damage, and the reason it must be rejected for."""

_LETTER = b"Dear colleague,\n\nthe recording of this visit is in the paper file.\n"
_SAMPLES_AT = 24
"""Past the MATLAB header that a signal file may have; even, so that a low byte follows."""


def damaged_record(record: Record, kind: str) -> Record:
    """The record of a device at fault; the same one for the kinds that strike its file later."""
    match kind:
        case "three-leads":
            record = _with_rows(record, [record.leads.index(lead) for lead in ("I", "II", "V5")])
        case "lead-twice":
            record = _with_rows(record, [*range(len(record.leads)), record.leads.index("V1")])
        case "flat":
            record = replace(record, counts=np.zeros_like(record.counts))
        case "one-second":
            record = replace(record, counts=record.counts[:, : round(record.fs_hz)])
        case "sentinels":
            counts = record.counts.copy()
            counts[record.leads.index("V1"), round(0.5 * record.fs_hz) : round(0.7 * record.fs_hz)] = -32768
            record = replace(record, counts=counts, invalid_count=-32768)
    return record


def damaged_file(content: bytes, container: str, kind: str, rng: np.random.Generator) -> bytes:
    """A file of any container in `_EDITS`, in an 8-bit encoding where it is text, as `kind` leaves it."""
    if edit := _EDITS[container].get(kind):
        pattern, by, count = edit
        return re.sub(pattern, by, content, count=count)
    match kind:
        case "cut":
            content = content[: int(len(content) * rng.uniform(0.3, 0.95))]
        case "empty":
            content = b""
        case "junk":
            content = _junk(rng)
        case "text":
            content = _LETTER
        case "entities":
            content = content.replace(b"?>", b'?><!DOCTYPE ECG [<!ENTITY a "ecg"><!ENTITY b "&a;&a;&a;&a;&a;">]>', 1)
    return content


def damaged_muse(document: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A document in an 8-bit encoding as `kind` leaves it."""
    last_lead = document.rindex(b"<LeadDataCRC32>")
    match kind:
        case "cut":  # the median waveform is the first eighth, so this falls into the rhythm
            document = document[: int(len(document) * rng.uniform(0.3, 0.95))]
        case "crc-wrong":
            at = last_lead + len(b"<LeadDataCRC32>")
            other = b"1" if document[at : at + 1] != b"1" else b"2"
            document = document[:at] + other + document[at + 1 :]
        case "base64-broken":
            at = document.index(b"<WaveFormData>", last_lead) + 200
            document = document[:at] + b"!" + document[at + 1 :]
        case "empty":
            document = b""
        case "junk":
            document = _junk(rng)
        case "text":
            document = _LETTER
        case "median-only":
            start, end = document.rindex(b"   <Waveform>"), document.rindex(b"</Waveform>\n") + len(b"</Waveform>\n")
            document = document[:start] + document[end:]
        case "rate-zero":
            document = re.sub(rb"SampleBase>[\d.]+<", b"SampleBase>0<", document)
        case "gain-missing":
            document = re.sub(rb" *<LeadAmplitudeUnitsPerBit>[\d.]+</LeadAmplitudeUnitsPerBit>\n", b"", document)
        case "entities":
            bomb = b'RestingECG [<!ENTITY a "ecg"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
            document = document.replace(b'RestingECG SYSTEM "restecg.dtd">', bomb, 1)
            document = document.replace(b"Synthetic ECG", b"&b;", 1)
    return document


def damaged_wfdb(files: dict[str, bytes], kind: str, rng: np.random.Generator) -> dict[str, bytes]:
    """Header and one signal file of format 16 as `kind` leaves them; what has no header left has no signal either."""
    (header, text), (signal, samples) = files.items()
    match kind:
        case "signal-cut":
            files = {header: text, signal: samples[: int(len(samples) * rng.uniform(0.05, 0.95))]}
        case "sample-flipped":
            at = _SAMPLES_AT + 2 * int(rng.integers((len(samples) - _SAMPLES_AT) // 2))
            files = {header: text, signal: samples[:at] + bytes([samples[at] ^ 1]) + samples[at + 1 :]}
        case "signal-missing":
            files = {header: text}
        case "header-missing":
            files = {signal: samples}
        case "empty":
            files = {header: b""}
        case "junk":
            files = {header: _junk(rng)}
        case "rate-zero":
            files = {header: re.sub(rb"^(\S+ \d+) [\d.]+", rb"\1 0", text, count=1), signal: samples}
    return files


def _with_rows(record: Record, rows: list[int]) -> Record:
    return replace(
        record,
        leads=tuple(record.leads[row] for row in rows),
        counts=record.counts[rows],
        uv_per_count=tuple(record.uv_per_count[row] for row in rows),
        zero_counts=tuple(record.zero_counts[row] for row in rows),
    )


def _junk(rng: np.random.Generator) -> bytes:
    """Bytes that start like no format."""
    return b"\x00\x01\xfe\xff" + rng.bytes(3000)
