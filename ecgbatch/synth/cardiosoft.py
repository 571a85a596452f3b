"""Records as GE CardioSoft writes them: median beats and a strip, decimal numbers with commas."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch.record import Record
from ecgbatch.synth.decimals import decimals
from ecgbatch.synth.ecg import one_beat

__all__ = ["cardiosoft_xml"]


def cardiosoft_xml(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The document of a record of int16 counts, of one gain and with 0 µV at count 0.

    The identity in it is plainly made up.
    """
    lines = [
        '<?xml version="1.0" encoding="ISO-8859-1" ?>',
        "<CardiologyXML>",
        "\t<ObservationType>RestECG</ObservationType>",
        *_moment(record),
        "\t<ClinicalInfo>",
        f"\t\t<DeviceInfo><Desc>{escape(record.device_model or '')}</Desc></DeviceInfo>",
        "\t</ClinicalInfo>",
        "\t<PatientInfo>",
        f"\t\t<PID>{patient_id}</PID>",
        "\t\t<Name><FamilyName>SYNTHÉTIQUE</FamilyName><GivenName>PERSONNE</GivenName></Name>",
        "\t\t<BirthDateTime><Day>1</Day><Month>1</Month><Year>1900</Year></BirthDateTime>",
        "\t</PatientInfo>",
        "\t<RestingECGMeasurements>",
        *_samples(record, one_beat(record), "MedianSamples"),
        "\t</RestingECGMeasurements>",
        *_samples(record, record.counts, "StripData"),
        "</CardiologyXML>",
        "",
    ]
    return "\n".join(lines).encode("latin-1")


def _moment(record: Record) -> Iterator[str]:
    if moment := record.acquired_at:
        yield "\t<ObservationDateTime>"
        for name in ("Hour", "Minute", "Second", "Day", "Month", "Year"):
            yield f"\t\t<{name}>{getattr(moment, name.lower())}</{name}>"
        yield "\t</ObservationDateTime>"


def _samples(record: Record, counts: np.ndarray, name: str) -> Iterator[str]:
    yield f"\t<{name}>"
    yield f"\t\t<NumberOfLeads>{len(counts)}</NumberOfLeads>"
    yield f'\t\t<SampleRate units="Hz">{record.fs_hz:g}</SampleRate>'
    yield f"\t\t<ChannelSampleCountTotal>{counts.shape[1]}</ChannelSampleCountTotal>"
    yield f'\t\t<Resolution units="uVperLsb">{record.uv_per_count[0]:g}</Resolution>'
    for lead, row in zip(record.leads, counts, strict=True):
        yield f'\t\t<WaveformData lead="{lead}">\t\t{decimals(row, ",")[:-1]}\n\t\t</WaveformData>'
    yield f"\t</{name}>"
