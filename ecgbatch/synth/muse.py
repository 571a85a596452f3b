"""Records as GE MUSE writes them: an XML document of base64 int16 leads, each with its CRC-32."""

import binascii
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch.record import Record
from ecgbatch.synth.ecg import one_beat

__all__ = ["muse_xml"]

_LINE = 68
"""Characters of base64 a line."""
_NONE: Mapping[str, str | None] = MappingProxyType({})


def muse_xml(
    record: Record,
    *,
    encoding: str = "ISO-8859-1",
    patient_id: str = "SYNTH-0000000",
    waveforms: tuple[str, ...] = ("Median", "Rhythm"),
    overrides: Mapping[str, str | None] = _NONE,
) -> bytes:
    """The document of a record of int16 counts, one gain a lead.

    `encoding` is a Python codec (`utf-8-sig` and `utf-16` write a mark first). `overrides` gives elements, wherever
    they occur, another text, or None to leave them out: `{"SampleBase": "0"}`. The identity in it is plainly made up,
    so that a test can prove that none of it leaks.
    """
    lines = [
        f'<?xml version="1.0" encoding="{encoding.upper().removesuffix("-SIG")}"?>',
        '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">',
        "<RestingECG>",
        *_block("MuseInfo", {"MuseVersion": "9.0.7.17363"}, overrides),
        *_block("PatientDemographics", _patient(patient_id), overrides),
        *_block("TestDemographics", _test(record), overrides),
        *_block("RestingECGMeasurements", _rate(record, "ECG"), overrides),
        *_block("Diagnosis", {"Modality": "RESTING", "DiagnosisStatement": "Synthetic ECG"}, overrides),
    ]
    for kind in waveforms:
        lines += _waveform(record, kind, overrides)
    lines += _block("PharmaData", {"PharmaUniqueECGID": patient_id}, overrides)
    lines += ["</RestingECG>", ""]
    return "\n".join(lines).encode(encoding)


def _patient(patient_id: str) -> dict[str, str]:
    return {
        "PatientID": patient_id,
        "PatientAge": "61",
        "AgeUnits": "YEARS",
        "DateofBirth": "01-01-1900",
        "Gender": "FEMALE",
        "PatientLastName": "SYNTHÉTIQUE",  # not ASCII: each encoding writes it differently
        "PatientFirstName": "PERSONNE",
    }


def _test(record: Record) -> dict[str, str]:
    fields = {"DataType": "RESTING", "Site": "1", "SiteName": "SYNTH HOSPITAL", "Status": "CONFIRMED"}
    if record.device_model:
        fields["AcquisitionDevice"] = record.device_model
    if record.acquired_at:
        fields["AcquisitionTime"] = f"{record.acquired_at:%H:%M:%S}"
        fields["AcquisitionDate"] = f"{record.acquired_at:%m-%d-%Y}"
    return fields


def _rate(record: Record, prefix: str = "") -> dict[str, str]:
    return {f"{prefix}SampleBase": f"{record.fs_hz:g}", f"{prefix}SampleExponent": "0"}


def _block(name: str, fields: Mapping[str, str], overrides: Mapping[str, str | None]) -> Iterator[str]:
    yield f"   <{name}>"
    yield from _elements(fields, overrides, "      ")
    yield f"   </{name}>"


def _elements(fields: Mapping[str, str], overrides: Mapping[str, str | None], indent: str) -> Iterator[str]:
    for name, text in fields.items():
        shown = overrides.get(name, text)
        if shown is not None:
            yield f"{indent}<{name}>{escape(shown)}</{name}>"


def _waveform(record: Record, kind: str, overrides: Mapping[str, str | None]) -> Iterator[str]:
    counts = record.counts if kind == "Rhythm" else one_beat(record)
    head = {
        "WaveformType": kind,
        "WaveformStartTime": "0",
        "NumberofLeads": str(len(record.leads)),
        "SampleType": "CONTINUOUS_SAMPLES",
        **_rate(record),
        "HighPassFilter": "16",
        "LowPassFilter": "150",
        "ACFilter": "60",
    }
    yield "   <Waveform>"
    yield from _elements(head, overrides, "      ")
    for row, lead in enumerate(record.leads):
        samples = np.ascontiguousarray(counts[row], "<i2").tobytes()
        yield "      <LeadData>"
        yield from _elements(_lead(record, row, lead, samples), overrides, "         ")
        yield f"         <WaveFormData>\n{_base64(samples)}\n         </WaveFormData>"
        yield "      </LeadData>"
    yield "   </Waveform>"


def _lead(record: Record, row: int, lead: str, samples: bytes) -> dict[str, str]:
    return {
        "LeadByteCountTotal": str(len(samples)),
        "LeadTimeOffset": "0",
        "LeadSampleCountTotal": str(len(samples) // 2),
        "LeadAmplitudeUnitsPerBit": f"{record.uv_per_count[row]:g}",
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadHighLimit": "32767",
        "LeadLowLimit": "-32768",
        "LeadID": lead,
        "LeadOffsetFirstSample": "0",
        "FirstSampleBaseline": f"{-record.zero_counts[row]:.0f}",
        "LeadSampleSize": "2",
        "LeadOff": "FALSE",
        "BaselineSway": "FALSE",
        "LeadDataCRC32": str(zlib.crc32(samples)),
    }


def _base64(samples: bytes) -> str:
    text = np.frombuffer(binascii.b2a_base64(samples, newline=False), np.uint8)
    lines = np.full((-(-text.size // _LINE), _LINE + 1), ord("\n"), np.uint8)
    whole = text.size // _LINE
    lines[:whole, :_LINE] = text[: whole * _LINE].reshape(whole, _LINE)
    lines[whole:, : text.size % _LINE] = text[whole * _LINE :]
    return lines.tobytes().decode("ascii").rstrip("\n")
