"""Records as HL7 annotated ECG states them: a sequence of decimal digits a lead, and the beat derived from them."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from ecgbatch.record import Record
from ecgbatch.synth.decimals import decimals
from ecgbatch.synth.ecg import one_beat

__all__ = ["aecg_xml"]

_LEAD_SCHEME = 'codeSystem="2.16.840.1.113883.6.24" codeSystemName="MDC"'


def aecg_xml(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The document of a record of int16 counts; the identity in it is plainly made up."""
    moment = f"{record.acquired_at:%Y%m%d%H%M%S}" if record.acquired_at else ""
    subject = f'<id root="1.2.3.4.5" extension="{patient_id}"/><subjectDemographicPerson><name>SYNTHÉTIQUE, PERSONNE'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">',
        f'<id root="1.2.3.4.5" extension="{patient_id}-1"/>',
        '<code code="93000" codeSystem="2.16.840.1.113883.6.12" codeSystemName="CPT-4"/>',
        f'<effectiveTime><center value="{moment}"/></effectiveTime>',
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>",
        f'{subject}</name><birthTime value="19000101"/></subjectDemographicPerson>',
        "</trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>",
        '<component><series><code code="RHYTHM" codeSystem="2.16.840.1.113883.5.4"/>',
        f'<effectiveTime><low value="{moment}" inclusive="true"/></effectiveTime>',
        "<author><seriesAuthor><manufacturedSeriesDevice>",
        f"<manufacturerModelName>{escape(record.device_model or '')}</manufacturerModelName>",
        "</manufacturedSeriesDevice></seriesAuthor></author>",
        *_sequence_set(record, record.counts, "TIME_ABSOLUTE", f'xsi:type="GLIST_TS"><head value="{moment}"/>'),
        '<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT" codeSystem="2.16.840.1.113883.5.4"/>',
        *_sequence_set(record, one_beat(record), "TIME_RELATIVE", 'xsi:type="GLIST_PQ"><head value="0" unit="s"/>'),
        "</derivedSeries></derivation>",
        "</series></component>",
        "</AnnotatedECG>",
        "",
    ]
    return "\n".join(lines).encode()


def _sequence_set(record: Record, counts: np.ndarray, time: str, head: str) -> Iterator[str]:
    increment = f'<increment value="{1 / record.fs_hz:.10g}" unit="s"/>'
    yield "<component><sequenceSet>"
    yield _sequence(f'code="{time}" codeSystem="2.16.840.1.113883.5.4"', f"{head}{increment}")
    for row, lead in enumerate(record.leads):
        uv = record.uv_per_count[row]
        origin_uv = 0.0 - record.zero_counts[row] * uv
        value = (
            f'xsi:type="SLIST_PQ"><origin value="{origin_uv:.10g}" unit="uV"/><scale value="{uv:.10g}" unit="uV"/>'
            f"<digits>{decimals(counts[row], ' ')}</digits>"
        )
        yield _sequence(f'code="MDC_ECG_LEAD_{lead.upper()}" {_LEAD_SCHEME}', value)
    yield "</sequenceSet></component>"


def _sequence(code: str, value: str) -> str:
    return f"<component><sequence><code {code}/>\n<value {value}</value></sequence></component>"
