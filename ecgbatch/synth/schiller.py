"""Records as Schiller's SEMA writes them: rhythm and averages side by side, decimal numbers with commas."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch.record import Record
from ecgbatch.synth.decimals import decimals
from ecgbatch.synth.ecg import one_beat

__all__ = ["schiller_xml"]

_ROOT = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"


def schiller_xml(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The document of a record of int16 counts, of one gain and with 0 µV at count 0.

    The identity in it is plainly made up.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<{_ROOT}>",
        f"<patdata><id>{patient_id}</id><lastname>SYNTHÉTIQUE</lastname><firstname>PERSONNE</firstname>",
        "<birthdate>19000101</birthdate></patdata>",
        "<examdescript>",
        *_moment(record),
        "<aquiringdevice><hardware><vendor>SYNTH</vendor>",
        f"<model>{escape(record.device_model or '')}</model></hardware></aquiringdevice>",
        "</examdescript>",
        "<eventdata><event>",
        *_wavedata(record, record.counts, "ECG_RHYTHMS"),
        *_wavedata(record, one_beat(record), "ECG_AVERAGES"),
        "</event></eventdata>",
        f"</{_ROOT}>",
        "",
    ]
    return "\n".join(lines).encode("utf-8-sig")


def _moment(record: Record) -> Iterator[str]:
    if moment := record.acquired_at:
        yield f"<startdatetime><date>{moment:%Y%m%d}</date><time>{moment:%H%M%S}</time></startdatetime>"


def _wavedata(record: Record, counts: np.ndarray, kind: str) -> Iterator[str]:
    yield f"<wavedata><type>{kind}</type><resolution>"
    yield f"<samplerate><value>{record.fs_hz:g}</value><exponent>1</exponent></samplerate>"
    yield f"<yres><unitperbit>{record.uv_per_count[0]:.10g}</unitperbit><units>UV</units></yres></resolution>"
    for lead, row in zip(record.leads, counts, strict=True):
        yield f"<channel><name>{lead.upper()}</name><datastype>COMMASEPARATE</datastype>"
        yield f"<data>{decimals(row, ',')}</data></channel>"
    yield "</wavedata>"
