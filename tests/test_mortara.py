"""Mortara ELI Link XML: channels whose samples are attributes, at the rate and gain that each states.

There is no public sample; the documents here have the attributes that its readers are known to look for.
"""

import base64
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, Reason, Record


def encoded(counts: np.ndarray) -> str:
    return base64.b64encode(counts.astype("<i2").tobytes()).decode()


def channels(ecg: Record) -> str:
    return "".join(
        [
            f'<CHANNEL OFFSET="0" BITS="16" FORMAT="SIGNED" UNITS_PER_MV="400" DURATION="{ecg.n_samples}" '
            f'SAMPLE_FREQ="500" NAME="{lead}" ENCODING="BASE64" DATA="{encoded(counts)}" />\n'
            for lead, counts in zip(ecg.leads, ecg.counts, strict=True)
        ]
    )


def document(*content: str) -> bytes:
    beat = encoded(np.arange(9))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ECG ACQUISITION_TIME="20240229101112" COMMENT="O\'Neil > 9" AGE="99">'
        "<SUBJECT LAST_NAME='SYNTHÉTIQUE' DOB=''/><SOURCE TYPE='RESTING' MODEL='ELI 250&quot;c&quot;' />"
        '<TYPICAL_CYCLE BITS="16" UNITS_PER_MV="200" DURATION="9" SAMPLE_FREQ="250">'
        f'<TYPICAL_CYCLE_CHANNEL NAME="I" DATA="{beat}"/><CHANNEL NAME="I" DATA="{beat}"/></TYPICAL_CYCLE>'
        f"{''.join(content)}</ECG>"
    ).encode()


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.xml", lambda name: pytest.fail(f"asked for {name!r}"))


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def replaced(pattern: str, by: str, count: int = 1) -> Callable[[Record], bytes]:
    def change(ecg: Record) -> bytes:
        changed, n = re.subn(pattern, by, channels(ecg), count=count)
        assert n, pattern
        return document(changed)

    return change


def excerpt(n_samples: int, leads: tuple[str, ...] = LEADS) -> Record:
    ecg = synth.record(seed=3, leads=leads)
    return replace(ecg, counts=ecg.counts[:, :n_samples])


@pytest.fixture(scope="module")
def short() -> Record:
    return excerpt(101)


def test_what_is_written_is_read(ecg):
    record = decode(document(channels(ecg)))

    assert_array_equal(record.counts, ecg.counts)
    assert (record.format, record.leads, record.fs_hz) == ("mortara-xml", ecg.leads, 500.0)
    assert (record.uv_per_count, record.zero_counts) == ((2.5,) * 8, (0.0,) * 8)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 10, 11, 12), 'ELI 250"c"')


def test_an_offset_is_added_to_every_count(short):
    record = decode(replaced('OFFSET="0"', 'OFFSET="-12"', 0)(short))

    assert_array_equal(waveform.nanovolts(record, ("V1",))[0], (short.counts[6].astype(int) - 12) * 2500)


def test_each_lead_has_its_own_gain(short):
    record = decode(replaced('UNITS_PER_MV="400"', 'UNITS_PER_MV="200"')(short))

    assert record.uv_per_count == (5.0,) + (2.5,) * 11


def test_other_channels_are_left_alone(short):
    record = decode(replaced('NAME="I" ENCODING="BASE64"', 'NAME="V7" ENCODING="?"')(short))

    assert record.leads == LEADS[1:]
    assert_array_equal(record.counts, short.counts[1:])


@pytest.mark.parametrize("name", ["OFFSET", "BITS", "FORMAT", "DURATION", "ENCODING"])
def test_a_channel_without_an_optional_attribute_is_decoded(short, name):
    assert_array_equal(decode(replaced(f' {name}="[^"]*"', "", 0)(short)).counts, short.counts)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_every_encoding_gives_the_same_record(short, encoding):
    assert_array_equal(decode(document(channels(short)).decode().encode(encoding)).counts, short.counts)


@pytest.mark.parametrize("newline", [b"\n\t", b"&#10;", b"&#xD;&#xA;"])
def test_base64_may_be_broken_into_lines(short, newline):
    raw = re.sub(rb'DATA="(.{8})', rb'DATA="\1' + newline, document(channels(short)))

    assert_array_equal(decode(raw).counts, short.counts)


@pytest.mark.parametrize("moment", [b"20240230101112", b"00010229101112", b"x", b""])
def test_a_moment_that_is_none_is_unknown_and_harms_nothing(short, moment):
    assert decode(document(channels(short)).replace(b"20240229101112", moment)).acquired_at is None


REFUSALS: dict[str, tuple[Callable[[Record], bytes], Reason]] = {
    "no channel": (lambda _: document(), Reason.UNKNOWN_FORMAT),
    "no rate": (replaced('SAMPLE_FREQ="500"', ""), Reason.UNKNOWN_RATE),
    "rate 0": (replaced('SAMPLE_FREQ="500"', 'SAMPLE_FREQ="0"'), Reason.UNKNOWN_RATE),
    "two rates": (replaced('SAMPLE_FREQ="500"', 'SAMPLE_FREQ="250"'), Reason.MALFORMED),
    "no gain": (replaced('UNITS_PER_MV="400"', ""), Reason.UNKNOWN_GAIN),
    "gain 0": (replaced('UNITS_PER_MV="400"', 'UNITS_PER_MV="0"'), Reason.UNKNOWN_GAIN),
    "gain nan": (replaced('UNITS_PER_MV="400"', 'UNITS_PER_MV="nan"'), Reason.UNKNOWN_GAIN),
    "offset a word": (replaced('OFFSET="0"', 'OFFSET="x"'), Reason.MALFORMED),
    "offset beyond all": (replaced('OFFSET="0"', 'OFFSET="1e99"'), Reason.MALFORMED),
    "24 bits": (replaced('BITS="16"', 'BITS="24"'), Reason.MALFORMED),
    "unsigned": (replaced('FORMAT="SIGNED"', 'FORMAT="UNSIGNED"'), Reason.MALFORMED),
    "another encoding": (replaced('ENCODING="BASE64"', 'ENCODING="HEX"'), Reason.MALFORMED),
    "no standard lead": (replaced('NAME="', 'NAME="X', 0), Reason.MISSING_LEADS),
    "lead twice": (replaced('NAME="III"', 'NAME="I"'), Reason.DUPLICATE_LEAD),
    "duration wrong": (replaced('DURATION="101"', 'DURATION="100"'), Reason.MALFORMED),
    "duration a word": (replaced('DURATION="101"', 'DURATION="x"'), Reason.MALFORMED),
    "duration beyond the file": (replaced('DURATION="101"', f'DURATION="{10**12}"', 0), Reason.MALFORMED),
    "duration endless": (replaced('DURATION="101"', f'DURATION="{10**99}"', 0), Reason.MALFORMED),
    "no data": (replaced(' DATA="[^"]*"', ""), Reason.MALFORMED),
    "data empty": (replaced(' DATA="[^"]*"', ' DATA=""', 0), Reason.MALFORMED),
    "an odd byte": (replaced('DURATION="101"(.*) DATA="[^"]*"', r'\1 DATA="AAAA"', 0), Reason.MALFORMED),
    "a lead shorter": (replaced('DATA="....', 'DATA="'), Reason.MALFORMED),
    "not base64": (replaced('DATA=".', 'DATA="#'), Reason.CORRUPT_PAYLOAD),
    "an attribute without quotes": (replaced('BITS="16"', "BITS=16"), Reason.MALFORMED),
    "entities": (
        lambda ecg: document(channels(ecg)).replace(b"\n<", b"<!DOCTYPE a [<!ENTITY e 'x'>]><", 1),
        Reason.UNSAFE_XML,
    ),
    "cut": (lambda ecg: document(channels(ecg))[:-60], Reason.TRUNCATED),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(short, case):
    make, reason = REFUSALS[case]

    assert refusal(make(short)) == reason


def test_a_file_cut_at_every_tenth_byte_is_truncated(short):
    raw = document(channels(short))

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return document(channels(excerpt(9, ("I", "II"))))


@settings(deadline=500, max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_changed_anywhere_give_a_record_or_its_defect(tiny, changes):
    raw = bytearray(tiny)
    for place, byte in changes:
        raw[int(place * len(raw))] = byte
    with suppress(RecordError):
        assert decode(bytes(raw)).counts.size > 0
