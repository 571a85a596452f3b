"""GE MUSE XML: what the file says is what is decoded, and what it does not say is not guessed."""

import base64
import codecs
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ecgbatch import formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record


def decode(document: bytes) -> Record:
    return formats.decode(document, "ecg.xml", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"a MUSE file has no sibling, asked for {name!r}")


def refusal(document: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(document)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def in_rhythm(document: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The document with its last waveform, the rhythm, changed."""
    start = document.rindex(b"<Waveform>")
    return document[:start] + change(document[start:])


def replaced(pattern: bytes, by: bytes, count: int = 0) -> Callable[[bytes], bytes]:
    def change(document: bytes) -> bytes:
        changed, n = re.subn(pattern, by, document, count=count, flags=re.DOTALL)
        assert n, pattern
        return changed

    return change


@pytest.mark.parametrize("name", ["braveheart_example1.xml", "braveheart_example2.xml"])
def test_a_real_file_gives_the_numbers_that_lxml_and_base64_give(data, name):
    etree = pytest.importorskip("lxml.etree")
    path = data / "formats" / "samples" / "ge_muse_xml" / name
    rhythm = etree.parse(str(path), etree.XMLParser(load_dtd=False, no_network=True)).xpath(
        "/RestingECG/Waveform[WaveformType='Rhythm']"
    )[0]
    record = decode(path.read_bytes())

    assert record.fs_hz == float(rhythm.findtext("SampleBase"))
    assert record.leads == tuple(lead.findtext("LeadID") for lead in rhythm.iter("LeadData"))
    for lead, counts, uv in zip(rhythm.iter("LeadData"), record.counts, record.uv_per_count, strict=True):
        assert_array_equal(counts, np.frombuffer(base64.b64decode(lead.findtext("WaveFormData")), "<i2"))
        assert uv == float(lead.findtext("LeadAmplitudeUnitsPerBit")) == 4.88


def test_the_first_real_sample_is_known_to_the_nanovolt(data):
    record = decode((data / "formats" / "samples" / "ge_muse_xml" / "braveheart_example1.xml").read_bytes())
    counts = [-20, -22, 4, -12, -8, -16, -14, -14]  # of the first sample
    sums = [-12_251, 1_586, -9_574, -14_247, -1_162, -3_128, -9_425, -7_992]

    assert (record.leads, record.fs_hz, record.counts.shape) == (INDEPENDENT_LEADS, 500.0, (8, 5000))
    assert record.counts.sum(axis=1).tolist() == sums
    assert waveform.nanovolts(record, INDEPENDENT_LEADS)[:, 0].tolist() == [4880 * count for count in counts]
    assert waveform.nanovolts(record, ("III",))[0, 0] == 4880 * (-22 + 20)


@pytest.mark.parametrize(
    "encoding", ["ISO-8859-1", "windows-1252", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_every_encoding_gives_the_same_record(ecg, encoding):
    record = decode(synth.muse_xml(ecg, encoding=encoding))

    assert_array_equal(record.counts, ecg.counts)
    assert record.leads == ecg.leads
    assert (record.fs_hz, record.uv_per_count) == (500.0, (4.88,) * 8)
    assert (record.acquired_at, record.device_model) == (ecg.acquired_at, ecg.device_model)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_that_calls_itself_something_else_is_decoded_by_its_bytes(ecg, encoding):
    document = synth.muse_xml(ecg, encoding="utf-8").decode().encode(encoding)

    assert_array_equal(decode(document).counts, ecg.counts)


@pytest.mark.parametrize(
    "mark", [b"?", b"???", codecs.BOM_UTF8 * 2, codecs.BOM_UTF8.decode("latin-1").encode(), codecs.BOM_UTF8 + b"\n"]
)
def test_what_re_saving_makes_of_a_byte_order_mark_does_not_fail_the_file(ecg, mark):
    assert_array_equal(decode(mark + synth.muse_xml(ecg)).counts, ecg.counts)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("filling", ["\0" * 300, "\x1a", "\n\x1a\0"])
def test_what_fills_the_files_last_block_is_no_damage(ecg, encoding, filling):
    document = synth.muse_xml(ecg, encoding="utf-8").decode()

    assert_array_equal(decode((document + filling).encode(encoding)).counts, ecg.counts)
    assert refusal((document[:-20] + filling).encode(encoding)) == Reason.TRUNCATED


def test_bytes_that_no_encoding_allows_in_a_name_do_not_fail_the_file(ecg):
    document = synth.muse_xml(ecg, encoding="utf-8").replace("SYNTHÉTIQUE".encode(), b"\xff\xfe\x81\x00\xc3")

    assert_array_equal(decode(document).counts, ecg.counts)


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "utf-8", "utf-16"])
def test_a_device_keeps_its_name_in_every_encoding(ecg, encoding):
    document = synth.muse_xml(replace(ecg, device_model="Gerät <5> & Co"), encoding=encoding)

    assert decode(document).device_model == "Gerät <5> & Co"


@pytest.mark.parametrize("waveforms", [("Median", "Rhythm"), ("Rhythm", "Median"), ("Rhythm",)], ids=" then ".join)
def test_the_rhythm_is_chosen_by_its_type_wherever_it_stands(ecg, waveforms):
    assert_array_equal(decode(synth.muse_xml(ecg, waveforms=waveforms)).counts, ecg.counts)


@pytest.mark.parametrize("kind", ["RHYTHM", " Rhythm\n", "rhythm"])
def test_a_rhythm_is_one_in_any_spelling(ecg, kind):
    document = in_rhythm(synth.muse_xml(ecg), replaced(b"<WaveformType>Rhythm<", f"<WaveformType>{kind}<".encode()))

    assert decode(document).n_samples == 5000


def test_the_only_waveform_is_the_rhythm_where_it_has_no_type(ecg):
    document = synth.muse_xml(ecg, waveforms=("Rhythm",), overrides={"WaveformType": None, "SampleExponent": None})

    assert_array_equal(decode(document).counts, ecg.counts)


@pytest.mark.parametrize(
    ("gain", "unit", "uv_per_count"),
    [
        ("2.44", "MICROVOLTS", 2.44),
        ("0.00488", "MILLIVOLTS", 4.88),
        ("4880", "NANOVOLTS", 4.88),
        ("1e1", "microvolts", 10.0),
    ],
)
def test_the_gain_is_the_files_own(ecg, gain, unit, uv_per_count):
    overrides = {"LeadAmplitudeUnitsPerBit": gain, "LeadAmplitudeUnits": unit}
    record = decode(synth.muse_xml(ecg, overrides=overrides))

    assert record.uv_per_count == pytest.approx((uv_per_count,) * 8)


def test_each_lead_has_its_own_gain(ecg):
    gains = tuple(1 + 0.5 * i for i in range(8))

    assert decode(synth.muse_xml(replace(ecg, uv_per_count=gains))).uv_per_count == gains


@pytest.mark.parametrize(
    ("base", "exponent", "fs_hz"),
    [
        ("250", "0", 250),
        ("5", "2", 500),
        ("5000", "-1", 500),
        ("500", None, 500),
        ("500", "", 500),
        ("249.89", "0", 249.89),
    ],
)
def test_the_rate_is_base_times_ten_to_the_exponent(ecg, base, exponent, fs_hz):
    document = synth.muse_xml(ecg, overrides={"SampleBase": base, "SampleExponent": exponent})

    assert decode(document).fs_hz == pytest.approx(fs_hz)


def test_a_baseline_is_added_to_every_sample(ecg):
    record = decode(synth.muse_xml(ecg, overrides={"FirstSampleBaseline": "12"}))

    assert_array_equal(waveform.nanovolts(record, ("V1",)), np.rint((ecg.counts[2:3] + 12.0) * 4880))


def test_leads_are_taken_by_name_in_any_order(ecg):
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    leads = tuple(INDEPENDENT_LEADS[i] for i in order)
    record = decode(synth.muse_xml(replace(ecg, leads=leads, counts=ecg.counts[order])))

    assert record.leads == leads
    assert_array_equal(waveform.nanovolts(record, INDEPENDENT_LEADS), waveform.nanovolts(ecg, INDEPENDENT_LEADS))


def test_lead_names_are_known_in_any_spelling():
    twelve = synth.record(seed=1, leads=LEADS)
    document = synth.muse_xml(replace(twelve, leads=tuple(f"Lead {lead.upper()}" for lead in LEADS)))

    assert decode(document).leads == LEADS


def test_of_fifteen_leads_the_twelve_standard_ones_are_taken():
    twelve = synth.record(seed=1, leads=LEADS)
    leads = ("V7", *LEADS[:6], "V3R", *LEADS[6:], "V4R")
    rows = [0, *range(6), 1, *range(6, 12), 2]
    fifteen = replace(
        twelve, leads=leads, counts=twelve.counts[rows], uv_per_count=(4.88,) * 15, zero_counts=(0.0,) * 15
    )
    record = decode(synth.muse_xml(fifteen))

    assert record.leads == LEADS
    assert_array_equal(record.counts, twelve.counts)


@pytest.mark.parametrize(
    "name",
    [
        "LeadDataCRC32",
        "LeadByteCountTotal",
        "LeadSampleCountTotal",
        "LeadSampleSize",
        "LeadTimeOffset",
        "LeadOffsetFirstSample",
        "FirstSampleBaseline",
        "NumberofLeads",
        "PatientID",
        "AcquisitionDate",
        "AcquisitionDevice",
    ],
)
def test_a_file_without_an_optional_field_is_decoded(ecg, name):
    assert_array_equal(decode(synth.muse_xml(ecg, overrides={name: None})).counts, ecg.counts)


@pytest.mark.parametrize("block", ["PatientDemographics", "TestDemographics", "MuseInfo", "Diagnosis"])
def test_a_file_without_a_whole_block_is_decoded(ecg, block):
    document = replaced(f"<{block}>.*</{block}>".encode(), b"")(synth.muse_xml(ecg))
    record = decode(document)

    assert_array_equal(record.counts, ecg.counts)
    if block == "TestDemographics":
        assert (record.acquired_at, record.device_model) == (None, None)


@pytest.mark.parametrize(
    ("date", "time", "moment"),
    [
        ("02-29-2024", "23:59:59", datetime(2024, 2, 29, 23, 59, 59)),
        ("02-29-2024", None, datetime(2024, 2, 29)),
        ("02-30-2024", "10:00:00", None),
        ("2024-02-29", "10:00:00", None),
        ("02-28-24", "10:00:00", None),
        ("01-01-1900", "00:00:00", None),
        ("02-28-" + "9" * 25, "10:00:00", None),
        ("02-28-2024", "10:00:-1", None),
        ("02-28-2024", "9" * 5000 + ":00:00", None),
        (None, "10:00:00", None),
    ],
)
def test_a_moment_that_is_none_is_unknown_and_harms_nothing(ecg, date, time, moment):
    document = synth.muse_xml(ecg, overrides={"AcquisitionDate": date, "AcquisitionTime": time})

    assert decode(document).acquired_at == moment


def test_a_negative_crc_is_the_same_number_in_another_spelling(ecg):
    def as_signed(found: re.Match[bytes]) -> bytes:
        crc = int(found[1])
        return b"<LeadDataCRC32>%d<" % (crc - 2**32 if crc >= 2**31 else crc)

    document = re.sub(rb"<LeadDataCRC32>(\d+)<", as_signed, synth.muse_xml(ecg))

    assert b"<LeadDataCRC32>-" in document
    assert_array_equal(decode(document).counts, ecg.counts)


@pytest.mark.parametrize("newline", [b"", b"\r\n", b"\n\t\t\t", b" \n "], ids=["one line", "crlf", "tabs", "spaces"])
def test_base64_may_be_broken_into_any_lines(ecg, newline):
    document = synth.muse_xml(ecg)
    joined = re.sub(rb"(?<=<WaveFormData>)[^<]+", lambda found: newline.join(found[0].split()) + newline, document)

    assert_array_equal(decode(joined).counts, ecg.counts)


def with_payload(document: bytes, samples: bytes, *, n_bytes: int | None = None) -> bytes:
    """The document with the samples of the first lead of its rhythm replaced, CRC included."""

    def change(rhythm: bytes) -> bytes:
        rhythm = replaced(rb"(?<=<WaveFormData>)[^<]+", base64.b64encode(samples), 1)(rhythm)
        rhythm = replaced(rb"(?<=<LeadDataCRC32>)\d+", b"%d" % zlib.crc32(samples), 1)(rhythm)
        if n_bytes is not None:
            rhythm = replaced(rb"(?<=<LeadByteCountTotal>)\d+", b"%d" % n_bytes, 1)(rhythm)
            rhythm = replaced(rb"(?<=<LeadSampleCountTotal>)\d+", b"%g" % (n_bytes / 2), 1)(rhythm)
        return rhythm

    return in_rhythm(document, change)


def rewritten(ecg: Record, change: Callable[[bytes], bytes]) -> bytes:
    return in_rhythm(synth.muse_xml(ecg), change)


PROLOGS = {
    "a long comment": b"<!-- " + b"x" * 5000 + b" -->",
    "a DTD with an apostrophe in a comment": b"<!DOCTYPE RestingECG [<!-- the doctor's --><!ELEMENT a ANY>]>",
    "a DTD with a bracket in its name": b'<!DOCTYPE RestingECG SYSTEM "a>b.dtd">',
}


@pytest.mark.parametrize("prolog", PROLOGS.values(), ids=PROLOGS)
def test_whatever_the_prolog_holds_the_rhythm_is_read(ecg, prolog):
    raw = synth.muse_xml(ecg)
    body = raw[raw.index(b"<RestingECG>") :]

    assert_array_equal(formats.decode(prolog + body, "x.xml", lambda _: b"").counts, ecg.counts)


REFUSALS: dict[str, tuple[Callable[[Record], bytes], Reason]] = {
    "median only": (lambda ecg: synth.muse_xml(ecg, waveforms=("Median",)), Reason.NO_RHYTHM),
    "no waveform": (lambda ecg: synth.muse_xml(ecg, waveforms=()), Reason.NO_RHYTHM),
    "two rhythms": (lambda ecg: synth.muse_xml(ecg, waveforms=("Rhythm", "Rhythm")), Reason.NO_RHYTHM),
    "two waveforms without type": (lambda ecg: synth.muse_xml(ecg, overrides={"WaveformType": None}), Reason.NO_RHYTHM),
    "an untyped waveform beside a median": (
        lambda ecg: in_rhythm(synth.muse_xml(ecg), replaced(b"<WaveformType>Rhythm<", b"<WaveformType><")),
        Reason.NO_RHYTHM,
    ),
    "rate 0": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": "0"}), Reason.UNKNOWN_RATE),
    "rate negative": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": "-500"}), Reason.UNKNOWN_RATE),
    "rate nan": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": "nan"}), Reason.UNKNOWN_RATE),
    "rate tiny": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": "1e-300"}), Reason.UNKNOWN_RATE),
    "rate huge": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleExponent": "400"}), Reason.UNKNOWN_RATE),
    "rate absent": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": None}), Reason.UNKNOWN_RATE),
    "rate a word": (lambda ecg: synth.muse_xml(ecg, overrides={"SampleBase": "fast"}), Reason.UNKNOWN_RATE),
    "gain absent": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": None}), Reason.UNKNOWN_GAIN),
    "gain 0": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": "0"}), Reason.UNKNOWN_GAIN),
    "gain beyond a volt a count": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": "1e300"}),
        Reason.UNKNOWN_GAIN,
    ),
    "gain beyond any resolution": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": "1e-300"}),
        Reason.UNKNOWN_GAIN,
    ),
    "gain nan": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnitsPerBit": "nan"}), Reason.UNKNOWN_GAIN),
    "unit absent": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnits": None}), Reason.UNKNOWN_GAIN),
    "unit unknown": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadAmplitudeUnits": "POTATOES"}),
        Reason.UNKNOWN_GAIN,
    ),
    "crc wrong": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadDataCRC32": "1"}), Reason.CHECKSUM),
    "crc a word": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadDataCRC32": "x"}), Reason.MALFORMED),
    "byte count wrong": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadByteCountTotal": "9998"}), Reason.MALFORMED),
    "sample count wrong": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadSampleCountTotal": "1"}), Reason.MALFORMED),
    "counts agree but payload is shorter": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadByteCountTotal": "9000", "LeadSampleCountTotal": "4500"}),
        Reason.MALFORMED,
    ),
    "counts beyond the file": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadByteCountTotal": "2e12", "LeadSampleCountTotal": "1e12"}),
        Reason.MALFORMED,
    ),
    "no count at all": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadByteCountTotal": None, "LeadSampleCountTotal": None}),
        Reason.MALFORMED,
    ),
    "odd bytes": (
        lambda ecg: synth.muse_xml(
            synth_like(ecg, 1), overrides={"LeadByteCountTotal": "9999", "LeadSampleCountTotal": None}
        ),
        Reason.MALFORMED,
    ),
    "odd payload that its count agrees with": (
        lambda ecg: replaced(rb"<LeadSampleCountTotal>\d+</LeadSampleCountTotal>", b"")(
            with_payload(synth.muse_xml(synth_like(ecg, 1)), b"\1" * 9999, n_bytes=9999)
        ),
        Reason.MALFORMED,
    ),
    "bytes before the first sample": (
        lambda ecg: synth.muse_xml(ecg, overrides={"LeadOffsetFirstSample": "12"}),
        Reason.MALFORMED,
    ),
    "sample size 4": (lambda ecg: synth.muse_xml(ecg, overrides={"LeadSampleSize": "4"}), Reason.MALFORMED),
    "baseline beyond all": (
        lambda ecg: synth.muse_xml(ecg, overrides={"FirstSampleBaseline": "1e99"}),
        Reason.MALFORMED,
    ),
    "leads start apart": (
        lambda ecg: rewritten(ecg, replaced(rb"<LeadTimeOffset>0", b"<LeadTimeOffset>40", 1)),
        Reason.MALFORMED,
    ),
    "leads of two lengths": (
        lambda ecg: with_payload(synth.muse_xml(ecg), b"\0" * 9000, n_bytes=9000),
        Reason.MALFORMED,
    ),
    "payload absent": (
        lambda ecg: rewritten(ecg, replaced(rb"<WaveFormData>[^<]*</WaveFormData>", b"", 1)),
        Reason.MALFORMED,
    ),
    "payload empty": (
        lambda ecg: rewritten(ecg, replaced(rb"<WaveFormData>[^<]*</WaveFormData>", b"<WaveFormData/>", 1)),
        Reason.MALFORMED,
    ),
    "payload not base64": (
        lambda ecg: rewritten(ecg, replaced(rb"(<WaveFormData>\s*.{50}).", rb"\1#", 1)),
        Reason.CORRUPT_PAYLOAD,
    ),
    "markup in the payload": (
        lambda ecg: rewritten(ecg, replaced(rb"(<WaveFormData>\s*.{50})", rb"\1<!-- x -->", 1)),
        Reason.CORRUPT_PAYLOAD,
    ),
    "lead twice": (lambda ecg: rewritten(ecg, replaced(rb"<LeadID>V2<", b"<LeadID>V1<")), Reason.DUPLICATE_LEAD),
    "no standard lead": (lambda ecg: rewritten(ecg, replaced(rb"<LeadID>", b"<LeadID>X")), Reason.MISSING_LEADS),
    "entities beyond 4 KiB of prolog": (
        lambda ecg: synth.muse_xml(ecg).replace(b'SYSTEM "restecg.dtd"', b"[" + b'<!ENTITY a "b">' * 1000 + b"]"),
        Reason.UNSAFE_XML,
    ),
    "entities": (
        lambda ecg: synth.muse_xml(ecg).replace(b'SYSTEM "restecg.dtd"', b'[<!ENTITY a "b">]'),
        Reason.UNSAFE_XML,
    ),
    "entities in utf-16": (
        lambda ecg: (
            synth.muse_xml(ecg).decode("latin-1").replace('SYSTEM "restecg.dtd"', '[<!ENTITY a "b">]').encode("utf-16")
        ),
        Reason.UNSAFE_XML,
    ),
    "cut": (lambda ecg: synth.muse_xml(ecg)[:70_000], Reason.TRUNCATED),
    "closed too early": (lambda ecg: rewritten(ecg, replaced(b"</LeadData>", b"", 1)), Reason.MALFORMED),
    "another root": (
        lambda ecg: synth.muse_xml(ecg).replace(b"RestingECG>", b"RestingEcg>"),
        Reason.UNKNOWN_FORMAT,
    ),
    "a page of the web": (lambda _: b"<!DOCTYPE html><html><body>RestingECG</body></html>", Reason.UNKNOWN_FORMAT),
    "empty": (lambda _: b"", Reason.EMPTY),
    "prolog only": (lambda _: b'<?xml version="1.0"?>\n' + b" " * 3000, Reason.TRUNCATED),
}


def synth_like(ecg: Record, n_leads: int) -> Record:
    """The first leads of a record."""
    cut = slice(0, n_leads)
    return replace(
        ecg,
        leads=ecg.leads[cut],
        counts=ecg.counts[cut],
        uv_per_count=ecg.uv_per_count[cut],
        zero_counts=ecg.zero_counts[cut],
    )


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_cannot_be_trusted_is_refused_for(ecg, case):
    make, reason = REFUSALS[case]

    assert refusal(make(ecg)) == reason


def test_what_is_wrong_with_the_median_does_not_matter(ecg):
    document = replaced(rb"<LeadDataCRC32>\d+<", b"<LeadDataCRC32>1<", 1)(synth.muse_xml(ecg))

    assert_array_equal(decode(document).counts, ecg.counts)


def test_a_root_element_behind_long_comments_is_found(ecg):
    start, rest = synth.muse_xml(ecg).split(b"<!DOCTYPE", 1)

    assert decode(start + b"<!-- - -->" * 300 + b" " * 900 + b"<!DOCTYPE" + rest).n_samples == 5000
