"""GE CardioSoft XML: the strip or the full disclosure, never the median beats under the same names."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats, synth
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

SAMPLE = "formats/samples/cardiosoft_xml/ecgvisualizer_example1.xml"
MEDIAN = (
    '<SampleRate units="Hz">250</SampleRate><ChannelSampleCountTotal>3</ChannelSampleCountTotal>'
    '<Resolution units="uVperLsb">2</Resolution><WaveformData lead="I">7,7,7</WaveformData>'
)
TIME = "<Hour>10</Hour><Minute>11</Minute><Second>12</Second><Day>29</Day><Month>2</Month><Year>2024</Year>"


def strip(ecg: Record) -> str:
    leads = [
        f'<WaveformData lead="{lead}">\t\t{",".join(map(str, counts))}\n</WaveformData>'
        for lead, counts in zip(ecg.leads, ecg.counts.tolist(), strict=True)
    ]
    return (
        f'<StripData><NumberOfLeads>{len(leads)}</NumberOfLeads><SampleRate units="Hz">500</SampleRate>'
        f"<ChannelSampleCountTotal>{ecg.n_samples}</ChannelSampleCountTotal>"
        f'<Resolution units="uVperLsb">5</Resolution>{"".join(leads)}</StripData>'
    )


def disclosure(samples: np.ndarray, leads: tuple[str, ...], fs_hz: str = "500", n_elements: int = 1) -> str:
    """A list of samples in the order given, in one element or cut into several."""
    parts = np.array_split(samples.ravel(), n_elements)
    lists = [f"<FullDisclosureData>\n\t{','.join(map(str, part.tolist()))},\n</FullDisclosureData>" for part in parts]
    return (
        "<FullDisclosure><StartTime><Minute>0</Minute></StartTime>"
        f'<NumberOfChannels>{len(leads)}</NumberOfChannels><SampleRate units="Hz">{fs_hz}</SampleRate>'
        f'<Resolution units="uVperLsb">5</Resolution><LeadOrder>{", ".join(leads)}</LeadOrder>{"".join(lists)}'
        "</FullDisclosure>"
    )


def document(*sections: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="ISO8859-1" ?>\n<CardiologyXML><ObservationType>RestECG</ObservationType>'
        f"<ObservationDateTime>{TIME}</ObservationDateTime><ClinicalInfo><DeviceInfo><Desc>CardioSoft</Desc>"
        "</DeviceInfo></ClinicalInfo><PatientInfo><Name><FamilyName>SYNTHÉTIQUE</FamilyName></Name></PatientInfo>"
        f"<RestingECGMeasurements><MedianSamples>{MEDIAN}</MedianSamples></RestingECGMeasurements>"
        f"{''.join(sections)}</CardiologyXML>"
    ).encode("latin-1")


def in_blocks(counts: np.ndarray, fs: int) -> np.ndarray:
    """(lead, time) as a full disclosure lists it: a second of each lead in turn."""
    return counts.reshape(len(counts), -1, fs).transpose(1, 0, 2)


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.xml", lambda name: pytest.fail(f"asked for {name!r}"))


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def replaced(pattern: bytes, by: bytes, count: int = 1) -> Callable[[Record], bytes]:
    """In what follows the medians."""

    def change(ecg: Record) -> bytes:
        medians, end, rest = document(strip(ecg)).partition(b"</RestingECGMeasurements>")
        changed, n = re.subn(pattern, by, rest, count=count)
        assert n, pattern
        return medians + end + changed

    return change


def excerpt(n_samples: int, leads: tuple[str, ...] = LEADS) -> Record:
    ecg = synth.record(seed=3, leads=leads)
    return replace(ecg, counts=ecg.counts[:, :n_samples])


@pytest.fixture(scope="module")
def short() -> Record:
    return excerpt(100)


@pytest.fixture(scope="module")
def twelve() -> Record:
    """Two seconds whose stored limb leads obey Einthoven's law."""
    ecg = excerpt(1000)
    counts = ecg.counts.astype(np.int64)
    counts[2] = counts[1] - counts[0]
    return replace(ecg, counts=counts)


def test_a_real_strip_gives_the_numbers_that_lxml_gives(data):
    etree = pytest.importorskip("lxml.etree")
    raw = (data / SAMPLE).read_bytes()
    stored = etree.fromstring(raw).find("StripData")
    record = decode(raw)

    assert record.leads == tuple(lead.get("lead") for lead in stored.iter("WaveformData")) == LEADS
    assert_array_equal(record.counts, [list(map(int, one.text.split(","))) for one in stored.iter("WaveformData")])
    assert record.fs_hz == float(stored.findtext("SampleRate")) == 500
    assert record.uv_per_count == (float(stored.findtext("Resolution")),) * 12 == (5.0,) * 12
    assert (record.acquired_at, record.device_model) == (None, "CardioSoft")  # it is of the year 1


def test_the_limb_leads_of_a_real_strip_obey_einthoven_and_goldberger(data):
    record = decode((data / SAMPLE).read_bytes())
    lead = dict(zip(record.leads, record.counts.astype(float), strict=True))

    assert record.counts.shape == (12, 5000)
    assert np.abs(lead["II"] - lead["I"] - lead["III"]).max() <= 1
    assert np.abs(lead["aVF"] - (lead["II"] + lead["III"]) / 2).max() <= 1


def test_what_is_written_is_read(ecg):
    record = decode(document(strip(ecg)))

    assert_array_equal(record.counts, ecg.counts)
    assert (record.format, record.leads, record.fs_hz) == ("cardiosoft-xml", ecg.leads, 500.0)
    assert (record.uv_per_count, record.zero_counts) == ((5.0,) * 8, (0.0,) * 8)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 10, 11, 12), "CardioSoft")


@pytest.mark.parametrize("spelling", [str.upper, str.lower, "Lead {}".format])
def test_leads_are_known_in_any_spelling(short, spelling):
    assert decode(document(strip(replace(short, leads=tuple(map(spelling, LEADS)))))).leads == LEADS


def test_other_channels_are_left_alone(short):
    record = decode(document(strip(replace(short, leads=("V7", *LEADS[1:])))))

    assert record.leads == LEADS[1:]
    assert_array_equal(record.counts, short.counts[1:])


def test_the_strip_is_taken_where_there_is_a_full_disclosure_too(short, twelve):
    for sections in (
        [strip(short), disclosure(twelve.counts, LEADS)],
        [disclosure(twelve.counts, LEADS), strip(short)],
    ):
        assert_array_equal(decode(document(*sections)).counts, short.counts)


@pytest.mark.parametrize("n_elements", [1, 3])
@pytest.mark.parametrize("empty", ["", "<StripData></StripData>", '<StripData><WaveformData lead="I"/></StripData>'])
def test_a_full_disclosure_is_a_second_of_each_lead_in_turn(twelve, empty, n_elements):
    record = decode(document(empty, disclosure(in_blocks(twelve.counts, 500), LEADS, n_elements=n_elements)))

    assert_array_equal(record.counts, twelve.counts)
    assert (record.leads, record.fs_hz, record.uv_per_count) == (LEADS, 500.0, (5.0,) * 12)


def test_a_full_disclosure_of_leads_that_obey_no_law_is_still_in_seconds(rng):
    counts = rng.integers(-90, 90, (8, 300)).cumsum(axis=1)
    leads = ("V9", "I", "II", "V1", "V2", "V3", "V4", "V5")
    record = decode(document(disclosure(in_blocks(counts, 100), leads, "100")))

    assert (record.leads, record.fs_hz) == (leads[1:], 100.0)
    assert_array_equal(record.counts, counts[1:])


@pytest.mark.parametrize("noise", [0, 4, 20], ids="noise of {} counts".format)
@pytest.mark.parametrize("leads", [LEADS, INDEPENDENT_LEADS], ids=["12-leads", "8-leads"])
def test_the_order_of_a_full_disclosure_is_the_one_in_which_it_does_not_jump(rng, leads, noise):
    clean = synth.record(seed=3, leads=leads).counts
    counts = clean + rng.integers(-noise, noise + 1, clean.shape)

    for samples in (counts.T, in_blocks(counts, 500)):
        assert_array_equal(decode(document(disclosure(samples, leads))).counts, counts)


def test_a_full_disclosure_of_noise_is_in_seconds_as_in_known_files(rng):
    for _ in range(20):
        counts = rng.integers(-90, 90, (8, 300))
        record = decode(document(disclosure(in_blocks(counts, 100), INDEPENDENT_LEADS, "100")))

        assert_array_equal(record.counts, counts)


@pytest.mark.parametrize("name", ["ptbxl", "chagas", "cinc2011_quality"])
def test_no_real_ecg_is_as_smooth_in_the_wrong_order(data, name):
    table = pl.read_parquet(data / "data" / f"{name}.parquet").sample(40, seed=1)
    for ecg in table.select("fs_hz", "leads", "samples").iter_rows(named=True):
        leads, fs = tuple(ecg["leads"]), int(ecg["fs_hz"])
        counts = np.array(ecg["samples"]).reshape(len(leads), -1)
        counts = counts[:, : counts.shape[1] // fs * fs]
        for samples in (counts.T, in_blocks(counts, fs)):
            found = decode(document(disclosure(samples, leads, str(fs))))
            assert_array_equal(found.counts, counts[[leads.index(lead) for lead in found.leads]])


@pytest.mark.parametrize(
    ("units", "number", "uv_per_count"),
    [(b"uVperLsb", b"4.88", 4.88), (b"mVperLsb", b"0.005", 5), (b"nVperLsb", b"1e3", 1)],
)
def test_the_gain_is_the_files_own(short, units, number, uv_per_count):
    raw = replaced(rb'"uVperLsb">5', b'"%s"> %s\n' % (units, number))(short)

    assert decode(raw).uv_per_count == pytest.approx((uv_per_count,) * 12)


@pytest.mark.parametrize("name", ["ObservationDateTime", "ClinicalInfo", "PatientInfo", "RestingECGMeasurements"])
def test_a_file_without_a_whole_block_is_decoded(short, name):
    raw = re.sub(f"<{name}>.*</{name}>".encode(), b"", document(strip(short)))

    assert_array_equal(decode(raw).counts, short.counts)


@pytest.mark.parametrize(
    ("pattern", "by", "moment"),
    [
        (b"<Hour>10</Hour><Minute>11</Minute><Second>12</Second>", b"", datetime(2024, 2, 29)),
        (b"<Day>29", b"<Day>30", None),
        (b"<Year>2024", b"<Year>24", None),
        (b"<Year>2024", b"<Year>" + b"9" * 5000, None),
        (b"<Month>2</Month>", b"", None),
    ],
)
def test_a_moment_that_is_none_is_unknown_and_harms_nothing(short, pattern, by, moment):
    assert decode(document(strip(short)).replace(pattern, by)).acquired_at == moment


def with_disclosure(pattern: str, by: str) -> Callable[[Record], bytes]:
    def change(ecg: Record) -> bytes:
        section = disclosure(np.zeros((4, 100), int), ("I", "II", "V1", "V2"), "100")
        assert re.search(pattern, section), pattern
        return document(re.sub(pattern, by, section, count=1))

    return change


REFUSALS: dict[str, tuple[Callable[[Record], bytes], Reason]] = {
    "medians only": (lambda _: document(), Reason.NO_RHYTHM),
    "empty strip": (lambda _: document("<StripData/>"), Reason.NO_RHYTHM),
    "two strips": (lambda ecg: document(strip(ecg), strip(ecg)), Reason.NO_RHYTHM),
    "no rate": (replaced(rb"<SampleRate.*?</SampleRate>", b""), Reason.UNKNOWN_RATE),
    "rate 0": (replaced(rb">500<", b">0<"), Reason.UNKNOWN_RATE),
    "rate a word": (replaced(rb">500<", b">fast<"), Reason.UNKNOWN_RATE),
    "rate in kHz": (replaced(rb'units="Hz"', b'units="kHz"'), Reason.UNKNOWN_RATE),
    "no gain": (replaced(rb"<Resolution.*?</Resolution>", b""), Reason.UNKNOWN_GAIN),
    "gain 0": (replaced(rb'"uVperLsb">5', b'"uVperLsb">0'), Reason.UNKNOWN_GAIN),
    "gain nan": (replaced(rb'"uVperLsb">5', b'"uVperLsb">nan'), Reason.UNKNOWN_GAIN),
    "gain without unit": (replaced(rb' units="uVperLsb"', b""), Reason.UNKNOWN_GAIN),
    "gain in ohm": (replaced(rb'units="uVperLsb"', b'units="ohm"'), Reason.UNKNOWN_GAIN),
    "no standard lead": (replaced(rb'lead="', b'lead="X', 0), Reason.MISSING_LEADS),
    "leads without names": (replaced(rb' lead="[^"]*"', b"", 0), Reason.MISSING_LEADS),
    "lead twice": (replaced(rb'lead="III"', b'lead="I"'), Reason.DUPLICATE_LEAD),
    "sample count wrong": (replaced(rb"Total>100<", b"Total>99<"), Reason.MALFORMED),
    "sample count a word": (replaced(rb"Total>100<", b"Total>x<"), Reason.MALFORMED),
    "a lead shorter": (replaced(rb'("V6">\s*)[-\d]+,', rb"\1"), Reason.MALFORMED),
    "a lead of nothing": (replaced(rb'("V6">)[^<]*', rb"\1 "), Reason.MALFORMED),
    "a sample missing": (replaced(rb",[-\d]+,", b",,"), Reason.CORRUPT_PAYLOAD),
    "a sample a word": (replaced(rb",[-\d]+,", b",x,"), Reason.CORRUPT_PAYLOAD),
    "markup among samples": (replaced(rb",[-\d]+,", b",<!-- 1 -->,"), Reason.CORRUPT_PAYLOAD),
    "a tag that is none": (replaced(rb'lead="I"', b"lead=I"), Reason.MALFORMED),
    "entities": (
        lambda ecg: document(strip(ecg)).replace(b"\n<", b"<!DOCTYPE a [<!ENTITY e 'x'>]><", 1),
        Reason.UNSAFE_XML,
    ),
    "cut": (lambda ecg: document(strip(ecg))[:-99], Reason.TRUNCATED),
    "disclosure without lead order": (with_disclosure("<LeadOrder.*</LeadOrder>", ""), Reason.MISSING_LEADS),
    "disclosure without rate": (with_disclosure("<SampleRate.*</SampleRate>", ""), Reason.UNKNOWN_RATE),
    "disclosure of another number of leads": (with_disclosure("Channels>4<", "Channels>5<"), Reason.MALFORMED),
    "disclosure of a broken second": (with_disclosure("Data>\n\t0,", "Data>"), Reason.MALFORMED),
    "disclosure at a broken rate": (with_disclosure(">100<", ">99.5<"), Reason.MALFORMED),
    "disclosure with a word": (with_disclosure("Data>\n\t0,", "Data>x,"), Reason.CORRUPT_PAYLOAD),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(short, case):
    make, reason = REFUSALS[case]

    assert refusal(make(short)) == reason


@pytest.mark.parametrize("section", ["strip", "disclosure"])
def test_a_file_cut_at_every_tenth_byte_is_truncated(section):
    ecg = excerpt(100, ("I", "II", "V1"))
    raw = document(strip(ecg) if section == "strip" else disclosure(ecg.counts, ecg.leads, "100"))

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


@pytest.fixture(scope="module")
def tiny() -> list[bytes]:
    ecg = excerpt(50, ("I", "II"))
    return [document(strip(replace(ecg, counts=ecg.counts[:, :9]))), document(disclosure(ecg.counts, ecg.leads, "50"))]


@settings(deadline=500, max_examples=300)
@given(
    st.integers(0, 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_bytes_changed_anywhere_give_a_record_or_its_defect(tiny, which, changes):
    raw = bytearray(tiny[which])
    for place, byte in changes:
        raw[int(place * len(raw))] = byte
    with suppress(RecordError):
        assert decode(bytes(raw)).counts.size > 0
