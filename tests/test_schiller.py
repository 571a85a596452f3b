"""Schiller SEMA XML: the rhythm, not the averages, at the rate and gain that its resolution states.

There is no public sample; the documents here have the elements that its readers are known to look for.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats, synth
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, Reason, Record

ROOT = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"


def wavedata(ecg: Record, kind: str = "ECG_RHYTHMS") -> str:
    channels = [
        f"<channel><name>{lead.upper()}</name><datastype>COMMASEPARATE</datastype>"
        f"<samplecount>{len(counts)}</samplecount><data>{','.join(map(str, counts))},</data></channel>"
        for lead, counts in zip(ecg.leads, ecg.counts.tolist(), strict=True)
    ]
    return (
        f"<wavedata><type>{kind}</type><resolution><samplerate><value>500</value><exponent>1</exponent></samplerate>"
        f"<yres><unitperbit>1.0</unitperbit><units>UV</units></yres></resolution>{''.join(channels)}</wavedata>"
    )


def document(*waveforms: str, root: str = ROOT) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}><patdata><lastname>SYNTHÉTIQUE</lastname></patdata>'
        "<examdescript><startdatetime><date>20240229</date><time>101112</time></startdatetime><aquiringdevice>"
        "<hardware><vendor>SCHILLER</vendor><model>AT-102</model></hardware></aquiringdevice></examdescript>"
        f"<eventdata><event>{''.join(waveforms)}</event></eventdata></{root}>"
    ).encode("utf-8-sig")


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.xml", lambda name: pytest.fail(f"asked for {name!r}"))


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def replaced(pattern: str, by: str, count: int = 1) -> Callable[[Record], bytes]:
    def change(ecg: Record) -> bytes:
        changed, n = re.subn(pattern, by, wavedata(ecg), count=count)
        assert n, pattern
        return document(changed)

    return change


def excerpt(n_samples: int, leads: tuple[str, ...] = LEADS) -> Record:
    ecg = synth.record(seed=3, leads=leads)
    return replace(ecg, counts=ecg.counts[:, :n_samples])


@pytest.fixture(scope="module")
def short() -> Record:
    return excerpt(100)


@pytest.mark.parametrize("root", [ROOT, "ComXiriuzSemaXmlSchillerEDISchillerEDI"])
def test_what_is_written_is_read(root):
    twelve = excerpt(4998)
    record = decode(document(wavedata(twelve), root=root))

    assert_array_equal(record.counts, twelve.counts)
    assert (record.format, record.leads, record.fs_hz) == ("schiller-xml", LEADS, 500.0)
    assert (record.uv_per_count, record.zero_counts) == ((1.0,) * 12, (0.0,) * 12)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 10, 11, 12), "AT-102")


@pytest.mark.parametrize("rhythm", ["ECG_RHYTHMS", "ECG_RHYTHM", " ecg_rhythms\n"])
def test_the_rhythm_is_chosen_by_its_type_wherever_it_stands(short, rhythm):
    averages, rhythms = wavedata(excerpt(50), "ECG_AVERAGES"), wavedata(short, rhythm)

    for waveforms in ([averages, rhythms], [rhythms, averages], [rhythms]):
        assert_array_equal(decode(document(*waveforms)).counts, short.counts)


@pytest.mark.parametrize(
    ("number", "unit", "uv_per_count"), [("2.5", "uV", 2.5), ("0.005", "mv", 5), ("4880", "NV", 4.88)]
)
def test_the_gain_is_the_files_own(short, number, unit, uv_per_count):
    raw = replaced("1.0</unitperbit><units>UV", f"{number}</unitperbit><units>{unit}")(short)

    assert decode(raw).uv_per_count == pytest.approx((uv_per_count,) * 12)


def test_other_channels_are_left_alone(short):
    assert decode(replaced("<name>V1", "<name>V3R")(short)).leads == tuple(lead for lead in LEADS if lead != "V1")


def test_a_file_that_says_nothing_else_is_decoded(short):
    raw = re.sub(rb"<(patdata|examdescript)>.*</\1>", b"", document(wavedata(short)))
    record = decode(raw)

    assert_array_equal(record.counts, short.counts)
    assert (record.acquired_at, record.device_model) == (None, None)


@pytest.mark.parametrize(
    ("date", "time", "moment"),
    [
        (b"20240229", b"", datetime(2024, 2, 29)),
        (b"20240230", b"101112", None),
        (b"00240229", b"101112", None),
        (b"", b"101112", None),
    ],
)
def test_a_moment_that_is_none_is_unknown_and_harms_nothing(short, date, time, moment):
    raw = document(wavedata(short)).replace(b"20240229", date).replace(b"101112", time)

    assert decode(raw).acquired_at == moment


REFUSALS: dict[str, tuple[Callable[[Record], bytes], Reason]] = {
    "no waveform": (lambda _: document(), Reason.NO_RHYTHM),
    "averages only": (lambda ecg: document(wavedata(ecg, "ECG_AVERAGES")), Reason.NO_RHYTHM),
    "two rhythms": (lambda ecg: document(wavedata(ecg), wavedata(ecg)), Reason.NO_RHYTHM),
    "untyped": (replaced("<type>.*</type>", ""), Reason.NO_RHYTHM),
    "no rate": (replaced("<samplerate>.*</samplerate>", ""), Reason.UNKNOWN_RATE),
    "rate as text": (replaced("<samplerate>.*</samplerate>", "<samplerate>500</samplerate>"), Reason.UNKNOWN_RATE),
    "rate 0": (replaced("<value>500", "<value>0"), Reason.UNKNOWN_RATE),
    "exponent 2": (replaced("<exponent>1", "<exponent>2"), Reason.UNKNOWN_RATE),
    "exponent a word": (replaced("<exponent>1", "<exponent>x"), Reason.UNKNOWN_RATE),
    "no gain": (replaced("<yres>.*</yres>", ""), Reason.UNKNOWN_GAIN),
    "gain 0": (replaced("<unitperbit>1.0", "<unitperbit>0"), Reason.UNKNOWN_GAIN),
    "gain nan": (replaced("<unitperbit>1.0", "<unitperbit>nan"), Reason.UNKNOWN_GAIN),
    "gain without unit": (replaced("<units>UV</units>", ""), Reason.UNKNOWN_GAIN),
    "gain in ohm": (replaced("<units>UV", "<units>OHM"), Reason.UNKNOWN_GAIN),
    "no standard lead": (replaced("<name>", "<name>X", 0), Reason.MISSING_LEADS),
    "no channel": (replaced("<channel>.*</channel>", ""), Reason.MISSING_LEADS),
    "lead twice": (replaced("<name>III", "<name>I"), Reason.DUPLICATE_LEAD),
    "another encoding": (replaced("COMMASEPARATE", "BASE64"), Reason.MALFORMED),
    "no data": (replaced("<data>[^<]*</data>", ""), Reason.MALFORMED),
    "a lead shorter": (replaced("<data>[^,]*,", "<data>"), Reason.MALFORMED),
    "a sample missing": (replaced("<data>[^,]*,", "<data>,"), Reason.CORRUPT_PAYLOAD),
    "a sample a word": (replaced("<data>[^,]*,", "<data>x,"), Reason.CORRUPT_PAYLOAD),
    "entities": (
        lambda ecg: document(wavedata(ecg)).replace(b"\n<", b"<!DOCTYPE a [<!ENTITY e 'x'>]><", 1),
        Reason.UNSAFE_XML,
    ),
    "cut": (lambda ecg: document(wavedata(ecg))[:-60], Reason.TRUNCATED),
    "closed too early": (replaced("</channel>", ""), Reason.MALFORMED),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(short, case):
    make, reason = REFUSALS[case]

    assert refusal(make(short)) == reason


def test_a_file_cut_at_every_tenth_byte_is_truncated(short):
    raw = document(wavedata(short))

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return document(wavedata(excerpt(9, ("I", "II"))))


@settings(deadline=500, max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_changed_anywhere_give_a_record_or_its_defect(tiny, changes):
    raw = bytearray(tiny)
    for place, byte in changes:
        raw[int(place * len(raw))] = byte
    with suppress(RecordError):
        assert decode(bytes(raw)).counts.size > 0
