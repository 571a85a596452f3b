"""HL7 annotated ECG: what the file says is what is decoded, and what it does not say is not guessed."""

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
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

SAMPLES = ["hl7_Example.xml", "fda_subject1_0.xml", "fda_minimum_aecg.xml"]


def sequence(code: str, value: str) -> str:
    return f'<component><sequence><code code="{code}" codeSystem="x"/>{value}</sequence></component>'


def series(ecg: Record, *, kind: str = "RHYTHM", increment: str = '<increment value="0.002" unit="s"/>') -> str:
    """A series of one set, with a beat of the same codes derived from it."""
    time = sequence("TIME_ABSOLUTE", f'<value xsi:type="GLIST_TS"><head value="20240229"/>{increment}</value>')
    leads = [
        sequence(
            f"MDC_ECG_LEAD_{lead.upper()}",
            f'<value xsi:type="SLIST_PQ"><origin value="0" unit="uV"/><scale value="{uv!r}" unit="uV"/>'
            f"<digits>{' '.join(map(str, counts))} </digits></value>",
        )
        for lead, counts, uv in zip(ecg.leads, ecg.counts.tolist(), ecg.uv_per_count, strict=True)
    ]
    beat = time + re.sub(r"<digits>[^<]*", "<digits>7 7 7", "".join(leads))
    return (
        f'<component><series><code code="{kind}"/><effectiveTime><low value="20240229101112.5"/></effectiveTime>'
        "<author><seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>Gerät &amp; Co"
        "</manufacturerModelName></manufacturedSeriesDevice></seriesAuthor></author>"
        f"<component><sequenceSet>{time}{''.join(leads)}</sequenceSet></component><derivation><derivedSeries>"
        f"<component><sequenceSet>{beat}</sequenceSet></component></derivedSeries></derivation></series></component>"
    )


def document(*content: str, namespace: str = 'xmlns="urn:hl7-org:v3"') -> bytes:
    body = "".join(content)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><!-- an aECG --><AnnotatedECG {namespace} xmlns:xsi="x">'
        '<id root="1"/><effectiveTime><center value="20230101"/></effectiveTime>'
        f"{body}</AnnotatedECG>"
    ).encode()


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.xml", lambda name: pytest.fail(f"asked for {name!r}"))


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def replaced(pattern: bytes, by: bytes, count: int = 1) -> Callable[[Record], bytes]:
    def change(ecg: Record) -> bytes:
        changed, n = re.subn(pattern, by, document(series(ecg)), count=count)
        assert n, pattern
        return changed

    return change


def excerpt(n_samples: int, leads: tuple[str, ...] = LEADS) -> Record:
    ecg = synth.record(seed=3, leads=leads)
    return replace(ecg, counts=ecg.counts[:, :n_samples])


@pytest.fixture(scope="module")
def short() -> Record:
    return excerpt(100)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_real_file_gives_the_numbers_that_lxml_gives(data, name):
    etree = pytest.importorskip("lxml.etree")
    path = data / "formats" / "samples" / "hl7_aecg" / name
    ns = {"h": "urn:hl7-org:v3"}
    (found,) = etree.parse(str(path)).xpath("/h:AnnotatedECG/h:component/h:series", namespaces=ns)
    sequences = found.xpath("h:component/h:sequenceSet/h:component/h:sequence", namespaces=ns)
    (increment,) = found.xpath("h:component/h:sequenceSet//h:increment", namespaces=ns)
    stored = {
        one.find("h:code", ns).get("code"): (one.findtext(".//h:digits", "", ns).split(), one.find(".//h:scale", ns))
        for one in sequences[1:]
    }
    record = decode(path.read_bytes())

    assert record.fs_hz == 1 / float(increment.get("value")) == 500
    assert [f"MDC_ECG_LEAD_{lead.upper()}" for lead in record.leads] == list(stored)
    assert_array_equal(record.counts, [list(map(int, digits)) for digits, _ in stored.values()])
    assert record.uv_per_count == tuple(float(scale.get("value")) for _, scale in stored.values())
    assert set(record.zero_counts) == {0.0}
    assert record.acquired_at == datetime(2002, 11, 22, 9, 10)


@pytest.mark.parametrize("name", SAMPLES[:2])
def test_the_limb_leads_of_a_real_file_obey_einthoven_and_goldberger(data, name):
    record = decode((data / "formats" / "samples" / "hl7_aecg" / name).read_bytes())
    lead = dict(zip(record.leads, record.counts.astype(float), strict=True))

    assert np.abs(lead["II"] - lead["I"] - lead["III"]).max() <= 1
    assert np.abs(lead["aVR"] + (lead["I"] + lead["II"]) / 2).max() <= 1
    assert (record.device_model, record.counts.shape) == ("ELI250", (12, 5000))


def test_one_lead_of_thirteen_samples_is_a_record_that_no_model_takes(data):
    record = decode((data / "formats" / "samples" / "hl7_aecg" / "fda_minimum_aecg.xml").read_bytes())

    assert (record.leads, record.n_samples) == (("II",), 13)
    with pytest.raises(RecordError) as defect:
        waveform.nanovolts(record, INDEPENDENT_LEADS)
    assert defect.value.reason == Reason.MISSING_LEADS


def test_what_is_written_is_read(ecg):
    record = decode(document(series(ecg)))

    assert_array_equal(record.counts, ecg.counts)
    assert (record.format, record.leads, record.fs_hz) == ("hl7-aecg", ecg.leads, 500.0)
    assert (record.uv_per_count, record.zero_counts) == (ecg.uv_per_count, (0.0,) * 8)
    assert record.acquired_at == datetime(2024, 2, 29, 10, 11, 12)
    assert record.device_model == "Gerät & Co"


@pytest.mark.parametrize("namespace", ["", 'xmlns="urn:hl7-org:v1"', 'xmlns="urn:hl7-org:v2"'])
def test_the_default_namespace_may_be_any(short, namespace):
    assert_array_equal(decode(document(series(short), namespace=namespace)).counts, short.counts)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("prefix", ["hl7", "n1"])
def test_elements_may_have_a_prefix(short, prefix, encoding):
    plain = document(series(short), namespace=f'xmlns:{prefix}="urn:hl7-org:v3"').decode()
    prefixed = re.sub(r"<(/?)(?=[A-Za-z])", rf"<\1{prefix}:", plain)
    record = decode(prefixed.encode(encoding))

    assert_array_equal(record.counts, short.counts)
    assert record.device_model == "Gerät & Co"


@pytest.mark.parametrize(
    ("increment", "fs_hz"),
    [
        (b'value="0.0010000" unit="s"', 1000),
        (b'value="4" unit="ms"', 250),
        (b"unit='us' value='2000'", 500),
    ],
)
def test_the_increment_in_any_unit_gives_the_rate(short, increment, fs_hz):
    raw = replaced(rb'value="0.002" unit="s"', increment, 1)(short)

    assert decode(raw).fs_hz == fs_hz


@pytest.mark.parametrize(
    ("scale", "uv_per_count"),
    [
        (b'value="0.0025" unit="mV"', 2.5),
        (b'value="2500" unit="nV"', 2.5),
        (b'value="1e-6" unit="V"', 1),
        ('value="5" unit="µV"'.encode(), 5),
    ],
)
def test_the_scale_in_any_unit_gives_the_gain(short, scale, uv_per_count):
    raw = replaced(rb'(<scale )value="[^"]*" unit="uV"', rb"\1" + scale, 0)(short)

    assert decode(raw).uv_per_count == pytest.approx((uv_per_count,) * 12)


def test_the_origin_is_what_digit_zero_means(short):
    raw = replaced(rb'<origin value="0" unit="uV"', b'<origin value="0.1" unit="mV"', 0)(short)
    record = decode(raw)

    uv = (record.counts[0].astype(float) - record.zero_counts[0]) * record.uv_per_count[0]
    assert uv == pytest.approx(100 + short.counts[0] * short.uv_per_count[0])


def test_an_origin_that_is_absent_is_zero(short):
    assert decode(replaced(rb"<origin [^>]*>", b"", 0)(short)).zero_counts == (0.0,) * 12


def test_leads_may_be_coded_in_the_nomenclature_of_monitors(short):
    assert decode(replaced(b"MDC_ECG_LEAD_", b"NOM_ECG_LEAD_", 0)(short)).leads == LEADS


def test_other_channels_are_left_alone(short):
    record = decode(replaced(b"MDC_ECG_LEAD_III", b"MDC_ECG_LEAD_V7", 1)(short))

    assert record.leads == (*LEADS[:2], *LEADS[3:])
    assert_array_equal(record.counts, np.delete(short.counts, 2, axis=0))


def test_a_fraction_of_zeros_is_an_integer(short):
    raw = re.sub(rb"<digits>[^<]*", lambda found: found[0].replace(b" ", b".0\n\t "), document(series(short)))

    assert_array_equal(decode(raw).counts, short.counts)


@pytest.mark.parametrize("others", [["REPRESENTATIVE_BEAT"], ["REPRESENTATIVE_BEAT", "OTHER"]])
def test_the_rhythm_is_the_series_coded_so(ecg, short, others):
    assert decode(document(*[series(short, kind=kind) for kind in others], series(ecg))).n_samples == ecg.n_samples


def test_the_first_of_several_sets_is_the_rhythm(short):
    later = b"<component><sequenceSet></sequenceSet></component><derivation>"

    assert_array_equal(decode(replaced(b"<derivation>", later)(short)).counts, short.counts)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("20240229235959", datetime(2024, 2, 29, 23, 59, 59)),
        ("20240229235959.123-0500", datetime(2024, 2, 29, 23, 59, 59)),
        ("202402292359", datetime(2024, 2, 29, 23, 59)),
        ("20240229", datetime(2024, 2, 29)),
        ("20240230", datetime(2023, 1, 1)),
        ("00010101", datetime(2023, 1, 1)),
        ("2" * 5000, None),
        ("", datetime(2023, 1, 1)),
    ],
)
def test_the_moment_is_that_of_the_series_or_else_of_the_document(short, value, moment):
    raw = replaced(rb'<low value="[^"]*"', f'<low value="{value}"'.encode())(short)
    if moment is None:
        assert refusal(raw) == Reason.MALFORMED  # a tag longer than any
    else:
        assert decode(raw).acquired_at == moment


REFUSALS: dict[str, tuple[Callable[[Record], bytes], Reason]] = {
    "no series": (lambda _: document(), Reason.NO_RHYTHM),
    "a beat only": (lambda ecg: document(series(ecg, kind="REPRESENTATIVE_BEAT")), Reason.NO_RHYTHM),
    "two rhythms": (lambda ecg: document(series(ecg), series(ecg)), Reason.NO_RHYTHM),
    "two without code": (lambda ecg: document(series(ecg, kind=""), series(ecg, kind="")), Reason.NO_RHYTHM),
    "no set": (replaced(rb"<sequenceSet>.*?</sequenceSet>", b""), Reason.MISSING_LEADS),
    "no standard lead": (replaced(rb"MDC_ECG_LEAD_", b"MDC_ECG_LEAD_X", 0), Reason.MISSING_LEADS),
    "lead twice": (replaced(rb"LEAD_III", b"LEAD_I"), Reason.DUPLICATE_LEAD),
    "no increment": (lambda ecg: document(series(ecg, increment="")), Reason.UNKNOWN_RATE),
    "increment 0": (replaced(rb'value="0.002"', b'value="0"'), Reason.UNKNOWN_RATE),
    "increment negative": (replaced(rb'value="0.002"', b'value="-0.002"'), Reason.UNKNOWN_RATE),
    "increment nan": (replaced(rb'value="0.002"', b'value="nan"'), Reason.UNKNOWN_RATE),
    "increment in hours": (replaced(rb'unit="s"', b'unit="h"'), Reason.UNKNOWN_RATE),
    "increment without unit": (replaced(rb'unit="s"', b""), Reason.UNKNOWN_RATE),
    "no scale": (replaced(rb"<scale [^>]*>", b""), Reason.UNKNOWN_GAIN),
    "scale 0": (replaced(rb'<scale value="[^"]*"', b'<scale value="0"'), Reason.UNKNOWN_GAIN),
    "scale without unit": (replaced(rb'(<scale value="[^"]*") unit="uV"', rb"\1"), Reason.UNKNOWN_GAIN),
    "scale in ohm": (replaced(rb'(<scale value="[^"]*") unit="uV"', rb'\1 unit="ohm"'), Reason.UNKNOWN_GAIN),
    "scale inf": (replaced(rb'<scale value="[^"]*"', b'<scale value="inf"'), Reason.UNKNOWN_GAIN),
    "origin a word": (replaced(rb'<origin value="0"', b'<origin value="x"'), Reason.UNKNOWN_GAIN),
    "origin beyond all": (replaced(rb'<origin value="0"', b'<origin value="1e99"'), Reason.UNKNOWN_GAIN),
    "no digits": (replaced(rb"<digits>[^<]*</digits>", b""), Reason.MALFORMED),
    "digits empty": (replaced(rb"<digits>[^<]*</digits>", b"<digits/>"), Reason.MALFORMED),
    "a lead shorter": (replaced(rb"<digits>\S* ", b"<digits>"), Reason.MALFORMED),
    "digits with a word": (replaced(rb"<digits>\S*", b"<digits>x"), Reason.CORRUPT_PAYLOAD),
    "digits with a fraction": (replaced(rb"<digits>", b"<digits>1.5 "), Reason.CORRUPT_PAYLOAD),
    "digits beyond 32 bits": (replaced(rb"<digits>", b"<digits>3000000000 "), Reason.CORRUPT_PAYLOAD),
    "digits with markup": (replaced(rb"<digits>", b"<digits><!-- x -->"), Reason.CORRUPT_PAYLOAD),
    "an attribute without value": (replaced(rb"<scale value=", b"<scale x value="), Reason.MALFORMED),
    "entities": (
        lambda ecg: document(series(ecg)).replace(b"<!-- an aECG -->", b"<!DOCTYPE a [<!ENTITY e 'x'>]>"),
        Reason.UNSAFE_XML,
    ),
    "cut": (lambda ecg: document(series(ecg))[:-40], Reason.TRUNCATED),
    "closed too early": (replaced(rb"</sequence>", b""), Reason.MALFORMED),
    "another root": (
        lambda ecg: document(series(ecg)).replace(b"AnnotatedECG", b"xAnnotatedECG"),
        Reason.UNKNOWN_FORMAT,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(short, case):
    make, reason = REFUSALS[case]

    assert refusal(make(short)) == reason


def test_a_file_cut_at_every_tenth_byte_is_truncated(short):
    raw = document(series(short))
    reasons = {refusal(raw[:n]) for n in range(10, len(raw), 10)}

    assert reasons == {Reason.TRUNCATED}


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return document(series(excerpt(9, ("I", "II"))))


@settings(deadline=500, max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_changed_anywhere_give_a_record_or_its_defect(tiny, changes):
    raw = bytearray(tiny)
    for place, byte in changes:
        raw[int(place * len(raw))] = byte
    with suppress(RecordError):
        assert decode(bytes(raw)).counts.size > 0
