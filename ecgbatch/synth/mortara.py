"""Records as Mortara's ELI Link writes them: an element a lead, its base64 samples in an attribute."""

from binascii import b2a_base64
from xml.sax.saxutils import quoteattr

import numpy as np

from ecgbatch.record import Record
from ecgbatch.synth.ecg import one_beat

__all__ = ["mortara_xml"]


def mortara_xml(record: Record, *, patient_id: str = "SYNTH-0000000") -> bytes:
    """The document of a record of int16 counts; the identity in it is plainly made up."""
    moment = f"{record.acquired_at:%Y%m%d%H%M%S}" if record.acquired_at else ""
    rate = f'SAMPLE_FREQ="{record.fs_hz:g}"'
    beat = one_beat(record)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<ECG VERSION="3" ACQUISITION_TIME="{moment}" NUM_QRS="10">',
        f'<SUBJECT ID="{patient_id}" LAST_NAME="SYNTHÉTIQUE" FIRST_NAME="PERSONNE" DOB="19000101" AGE="61" />',
        f'<SOURCE TYPE="RESTING" MANUFACTURER="SYNTH" MODEL={quoteattr(record.device_model or "")} />',
        f'<TYPICAL_CYCLE BITS="16" FORMAT="SIGNED" DURATION="{beat.shape[1]}" {rate} ENCODING="BASE64">',
        *[
            f'<TYPICAL_CYCLE_CHANNEL NAME="{lead}" UNITS_PER_MV="{_per_mv(record, row)}" DATA="{_base64(beat[row])}" />'
            for row, lead in enumerate(record.leads)
        ],
        "</TYPICAL_CYCLE>",
        *[
            f'<CHANNEL OFFSET="{0.0 - record.zero_counts[row]:g}" BITS="16" FORMAT="SIGNED" '
            f'UNITS_PER_MV="{_per_mv(record, row)}" DURATION="{record.n_samples}" {rate} '
            f'NAME="{lead}" ENCODING="BASE64" DATA="{_base64(record.counts[row])}" />'
            for row, lead in enumerate(record.leads)
        ],
        "</ECG>",
        "",
    ]
    return "\n".join(lines).encode()


def _per_mv(record: Record, row: int) -> str:
    return f"{1000 / record.uv_per_count[row]:.10g}"


def _base64(counts: np.ndarray) -> str:
    return b2a_base64(counts.astype("<i2").tobytes(), newline=False).decode("ascii")
