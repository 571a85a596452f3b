"""DICOM waveform objects: what pydicom reads is what is decoded, and what the file does not say is not guessed."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import formats
from ecgbatch.errors import RecordError
from ecgbatch.formats import dicom_samples
from ecgbatch.formats.dicom_file import is_dicom
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"
SYNTAXES = {"implicit": IMPLICIT, "explicit": EXPLICIT, "deflated": DEFLATED, "big-endian": BIG_ENDIAN, "jpeg": JPEG}
TWELVE_LEAD, HEMODYNAMIC = "1.2.840.10008.5.1.4.1.1.9.1.1", "1.2.840.10008.5.1.4.1.1.9.2.1"
SCP_CODES = {lead: f"5.6.3-9-{n}" for lead, n in zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True)}

Element = tuple[int, str, Any]
"""Tag, VR, and a string, a number, bytes, or the items of a sequence."""


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.dcm", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"a DICOM file has no sibling, asked for {name!r}")


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def encoded(elements: list[Element], *, explicit: bool = True, big: bool = False, undefined: bool = False) -> bytes:
    """A data set; every sequence and item of undefined length where that is asked for."""
    order = ">" if big else "<"
    options = {"explicit": explicit, "big": big, "undefined": undefined}
    out = b""
    for tag, vr, value in elements:
        length = None
        if vr == "SQ":
            content = b""
            for item in value:
                inner = encoded(item, **options)
                ends = struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
                size = 0xFFFFFFFF if undefined else len(inner)
                content += struct.pack(order + "HHI", 0xFFFE, 0xE000, size) + inner + ends
            if undefined:
                content += struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
                length = 0xFFFFFFFF
        elif isinstance(value, int):
            content = struct.pack(order + ("I" if vr == "UL" else "H"), value)
        else:
            content = value.encode("latin-1") if isinstance(value, str) else value
            content += (b"\0" if vr in ("UI", "OB", "OW") else b" ") * (len(content) % 2)
        length = len(content) if length is None else length
        out += struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if not explicit:
            out += struct.pack(order + "I", length)
        elif vr in ("OB", "OW", "SQ", "UN", "UT"):
            out += vr.encode() + b"\0\0" + struct.pack(order + "I", length)
        else:
            out += vr.encode() + struct.pack(order + "H", length)
        out += content
    return out


def channel(lead: str, **changes: Any) -> list[Element]:
    """A channel definition; a change to None leaves the element out."""
    said = {"code": SCP_CODES.get(lead, lead), "meaning": lead, "label": None, "sensitivity": "2.5", "unit": "uV"}
    said |= {"correction": "1", "baseline": "0", "time_skew": None, "sample_skew": "0", **changes}
    source: list[Element] = [(0x00080100, "SH", said["code"]), (0x00080104, "LO", said["meaning"])]
    units: list[Element] = [(0x00080100, "SH", said["unit"]), (0x00080102, "SH", "UCUM")]
    elements: list[Element] = [
        (0x003A0203, "SH", said["label"]),
        (0x003A0208, "SQ", [[element for element in source if element[2] is not None]]),
        (0x003A0210, "DS", said["sensitivity"]),
        (0x003A0211, "SQ", None if said["unit"] is None else [units]),
        (0x003A0212, "DS", said["correction"]),
        (0x003A0213, "DS", said["baseline"]),
        (0x003A0214, "DS", said["time_skew"]),
        (0x003A0215, "DS", said["sample_skew"]),
        (0x003A021A, "US", 16),
    ]
    return [element for element in elements if element[2] is not None]


def group(samples: np.ndarray, leads: tuple[str, ...] = LEADS, **changes: Any) -> list[Element]:
    """A multiplex group of samples (time, channel)."""
    raw = samples.tobytes()
    said = {"n_channels": samples.shape[1], "n_samples": len(samples), "rate": "500", "label": None, "data": raw}
    said |= {"channels": [channel(lead) for lead in leads], "bits": 8 * samples.itemsize, "kind": "SS", "padding": None}
    said |= changes
    elements: list[Element] = [
        (0x003A0004, "CS", "ORIGINAL"),
        (0x003A0005, "US", said["n_channels"]),
        (0x003A0010, "UL", said["n_samples"]),
        (0x003A001A, "DS", said["rate"]),
        (0x003A0020, "SH", said["label"]),
        (0x003A0200, "SQ", said["channels"]),
        (0x54001004, "US", said["bits"]),
        (0x54001006, "CS", said["kind"]),
        (0x5400100A, "OW", said["padding"]),
        (0x54001010, "OW", said["data"]),
    ]
    return [element for element in elements if element[2] is not None]


def file_of(
    *groups: list[Element],
    syntax: str = EXPLICIT,
    sop_class: str = TWELVE_LEAD,
    preamble: bool = True,
    extra: tuple[Element, ...] = (),
    **options: bool,
) -> bytes:
    """A DICOM file of those multiplex groups; without the preamble it has no file meta information either."""
    stated: list[Element] = [
        (0x00080005, "CS", "ISO_IR 100"),
        (0x00080016, "UI", sop_class),
        (0x00080018, "UI", "1.2.3.4"),
        (0x0008002A, "DT", "20040826185059.250000+0200"),
        (0x00080060, "CS", "ECG"),
        (0x00081090, "LO", "Gerät 5"),
        (0x00100010, "PN", "Beeblebrox^Zaphod"),
        (0x00400555, "SQ", [[(0x0040A040, "CS", "TEXT"), (0x0040A043, "SQ", [[(0x00080100, "SH", "X")]])]]),
        *([(0x54000100, "SQ", list(groups))] if groups else []),
    ]
    elements = sorted({**{tag: (tag, vr, value) for tag, vr, value in (*stated, *extra)}}.values())
    explicit, big = options.pop("explicit", syntax != IMPLICIT), syntax == BIG_ENDIAN
    data_set = encoded(elements, explicit=explicit, big=big, **options)
    if not preamble:
        return data_set
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-15)
        data_set = deflater.compress(data_set) + deflater.flush()
    meta = encoded([(0x00020001, "OB", b"\0\1"), (0x00020002, "UI", sop_class), (0x00020010, "UI", syntax)])
    return bytes(128) + b"DICM" + encoded([(0x00020000, "UL", len(meta))]) + meta + data_set


def samples_of(n_channels: int = 12, n: int = 40, dtype: str = "<i2") -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(n_channels).integers(info.min, info.max, (n, n_channels), dtype, endpoint=True)


def uv(record: Record) -> np.ndarray:
    """(time, lead) in µV."""
    return (record.counts.T - np.array(record.zero_counts)) * np.array(record.uv_per_count)


@pytest.mark.parametrize("name", ["anonymous_ecg.dcm", "ecgtoolkit_Example.dcm"])
def test_a_real_file_gives_the_numbers_that_pydicom_gives(data, name):
    pydicom = pytest.importorskip("pydicom")
    path = data / "formats" / "samples" / "dicom" / name
    instance = pydicom.dcmread(path)
    rhythm = instance.WaveformSequence[0]
    record = decode(path.read_bytes())

    assert record.format == "dicom"
    assert (record.leads, record.fs_hz) == (LEADS, float(rhythm.SamplingFrequency))
    assert_array_equal(record.counts.T, instance.waveform_array(0) / float(record.uv_per_count[0]))
    assert record.invalid_count is None
    assert record.device_model == instance.ManufacturerModelName
    assert record.acquired_at == datetime.strptime(instance.AcquisitionDateTime, "%Y%m%d%H%M%S")


@pytest.mark.parametrize("name", ["anonymous_ecg.dcm", "ecgtoolkit_Example.dcm"])
def test_einthovens_law_holds_in_a_real_file(data, name):
    counts = dict(zip(LEADS, decode((data / "formats" / "samples" / "dicom" / name).read_bytes()).counts, strict=True))

    assert np.abs(counts["II"].astype(int) - counts["I"] - counts["III"]).max() <= 1


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
def test_every_transfer_syntax_gives_the_same_record(syntax, undefined):
    samples = samples_of()
    stored = samples.astype(">i2") if syntax == "big-endian" else samples
    record = decode(file_of(group(stored), syntax=SYNTAXES[syntax], undefined=undefined))

    assert_array_equal(record.counts.T, samples)
    assert record.counts.dtype == np.int16
    assert (record.leads, record.fs_hz, record.uv_per_count, record.zero_counts) == (
        LEADS,
        500.0,
        (2.5,) * 12,
        (0,) * 12,
    )
    assert record.acquired_at == datetime(2004, 8, 26, 18, 50, 59, 250000)
    assert record.device_model == "Gerät 5"


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big-endian"])
def test_a_file_without_preamble_is_known_by_its_first_element(syntax):
    samples = samples_of().astype(">i2" if syntax == "big-endian" else "<i2")
    raw = file_of(group(samples), syntax=SYNTAXES[syntax], preamble=False)

    assert is_dicom(raw)
    assert_array_equal(decode(raw).counts.T, samples)


def test_meta_information_without_preamble_is_read():
    samples = samples_of()

    assert_array_equal(decode(file_of(group(samples), syntax=IMPLICIT)[132:]).counts.T, samples)


@pytest.mark.parametrize("explicit", [False, True], ids=["implicit", "explicit"])
def test_a_data_set_that_contradicts_its_transfer_syntax_is_read_as_it_is(explicit):
    samples = samples_of()
    raw = file_of(group(samples), syntax=IMPLICIT if explicit else EXPLICIT, explicit=explicit)

    assert_array_equal(decode(raw).counts.T, samples)


@pytest.mark.parametrize("kind", ["SB", "UB", "SS", "US", "SL", "UL"])
@pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated"])
def test_every_interpretation_gives_the_microvolts_that_pydicom_gives(kind, syntax):
    pydicom = pytest.importorskip("pydicom")
    samples = samples_of(dtype={"SB": "i1", "UB": "u1", "SS": "<i2", "US": "<u2", "SL": "<i4", "UL": "<u4"}[kind])
    channels = [
        channel(lead, sensitivity=f"{1 + i}.25", correction="0.5", baseline=f"{-20 * i}")
        for i, lead in enumerate(LEADS)
    ]
    raw = file_of(group(samples, kind=kind, channels=channels), syntax=SYNTAXES[syntax])
    with warnings.catch_warnings(action="ignore"):
        expected = pydicom.dcmread(io.BytesIO(raw)).waveform_array(0)
    record = decode(raw)

    assert_allclose(uv(record), expected, rtol=1e-6, atol=1e-3)
    assert record.counts.dtype == (np.int32 if kind in ("US", "SL", "UL") else np.int16)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED])
@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
def test_an_object_that_pydicom_wrote_is_read(syntax, undefined):
    pydicom = pytest.importorskip("pydicom")
    samples = samples_of()
    instance = pydicom.dcmread(io.BytesIO(file_of(group(samples, label="RHYTHM"), group(samples[:9], label="MEDIAN"))))
    instance.file_meta.TransferSyntaxUID = syntax
    instance["WaveformSequence"].is_undefined_length = undefined
    for item in instance.WaveformSequence:
        item.is_undefined_length_sequence_item = undefined
        item["ChannelDefinitionSequence"].is_undefined_length = undefined
    written = io.BytesIO()
    instance.save_as(written, implicit_vr=syntax == IMPLICIT, little_endian=True, enforce_file_format=True)

    assert_array_equal(decode(written.getvalue()).counts.T, samples)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("MB", {0x00: -8031, 0x80: 8031, 0x7F: 0, 0xFF: 0, 0x7E: -2, 0xFE: 2, 0x8F: 4191, 0xEF: 33}),
        ("AB", {0x2A: -4032, 0xAA: 4032, 0x55: -1, 0xD5: 1, 0xD4: 3, 0xC5: 33, 0xF5: 66}),
    ],
    ids=["mu-law", "A-law"],
)
def test_companded_samples_have_the_values_of_g711(kind, values):
    octets = np.tile(np.array(list(values), np.uint8)[:, None], 12)

    assert_array_equal(decode(file_of(group(octets, kind=kind))).counts[0], list(values.values()))


@pytest.mark.parametrize(
    ("unit", "sensitivity", "uv_per_count"),
    [("uV", "4.88", 4.88), ("mV", "0.00122", 1.22), ("V", "1e-6", 1), ("nV", "1250", 1.25), ("\xb5V", "5", 5)],
)
def test_the_gain_is_the_files_own(unit, sensitivity, uv_per_count):
    channels = [channel(lead, unit=unit, sensitivity=sensitivity, baseline="8") for lead in LEADS]
    record = decode(file_of(group(samples_of(), channels=channels)))

    assert record.uv_per_count == pytest.approx((uv_per_count,) * 12)
    assert record.zero_counts == pytest.approx((-8 / float(sensitivity),) * 12)


@pytest.mark.parametrize(
    ("said", "lead"),
    [
        ({"code": "5.6.3-9-63\0", "meaning": "?"}, "aVL"),
        ({"code": "5.6.3-9-64 ", "meaning": "?"}, "aVF"),
        ({"code": "2:62", "meaning": "?"}, "aVR"),
        ({"code": "131080", "meaning": "?"}, "V6"),
        ({"code": "131329", "meaning": "?"}, "I"),
        ({"code": "131392", "meaning": "MDC_ECG_ELEC_POTL_AVF"}, "aVF"),
        ({"code": "2:259", "meaning": "?"}, "V1"),
        ({"code": "MDC_ECG_LEAD_aVF", "meaning": "?"}, "aVF"),
        ({"code": "MDC_ECG_LEAD_V3", "meaning": None}, "V3"),
        ({"code": "X-1", "meaning": "Lead II (Einthoven)"}, "II"),
        ({"code": "X-1", "meaning": "aVR, augmented voltage, right"}, "aVR"),
        ({"code": None, "meaning": "Lead V1"}, "V1"),
        ({"code": None, "meaning": None, "label": "avl"}, "aVL"),
        ({"code": "5.6.3-9-65", "meaning": "aVR"}, None),
        ({"code": "2:16", "meaning": "V1"}, None),
        ({"code": "131265", "meaning": "V1"}, None),
        ({"code": "MDC_ECG_LEAD_V7", "meaning": "V1"}, None),
        ({"code": "X-1", "meaning": "aVR (inverted)"}, None),
        ({"code": "X-1", "meaning": "Arterial pressure"}, None),
    ],
    ids=str,
)
def test_a_lead_is_known_by_its_code_or_else_by_its_name(said, lead):
    record = decode(file_of(group(samples_of(2), channels=[channel("III"), channel("?", **said)])))

    assert record.leads == (("III", lead) if lead else ("III",))


def test_channels_that_are_no_leads_are_left_alone():
    samples = samples_of(10)
    names = ("ART", *INDEPENDENT_LEADS, "SpO2")
    channels = [channel(name, unit="uV" if name in LEADS else "mm[Hg]") for name in names]
    record = decode(file_of(group(samples, channels=channels), sop_class=HEMODYNAMIC))

    assert record.leads == INDEPENDENT_LEADS
    assert_array_equal(record.counts.T, samples[:, 1:9])


LONG, SHORT = samples_of(n=50), samples_of(n=20)
CHOICES: dict[str, tuple[list[list[Element]], np.ndarray]] = {
    "rhythm before median": ([group(LONG, label="RHYTHM"), group(SHORT, label="MEDIAN BEAT")], LONG),
    "median before rhythm": ([group(LONG, label="Median Beat"), group(SHORT, label="Rhythm")], SHORT),
    "rhythm before a longer group": ([group(LONG), group(SHORT, label="RHYTHM ")], SHORT),
    "longest of two without label": ([group(SHORT), group(LONG)], LONG),
    "longest in seconds": ([group(LONG, rate="1000"), group(SHORT, rate="100")], SHORT),
    "twelve leads before a longer strip": ([group(samples_of(1, 90), ("II",), label="RHYTHM"), group(SHORT)], SHORT),
    "another group is uncalibrated": (
        [group(SHORT, channels=[channel(lead, unit=None) for lead in LEADS]), group(LONG)],
        LONG,
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_group_that_is_scored_is(case):
    groups, expected = CHOICES[case]

    assert_array_equal(decode(file_of(*groups)).counts.T, expected)


def test_leads_that_are_spread_over_groups_are_not_joined():
    quarters = [LEADS[i : i + 3] for i in range(0, 12, 3)]
    record = decode(file_of(*[group(samples_of(3), leads) for leads in quarters]))

    assert record.leads == ("I", "II", "III")


@pytest.mark.parametrize(
    ("kind", "padding", "baseline", "invalid"),
    [
        ("SS", b"\0\x80", "0", -32768),
        ("SS", b"\0\0", "0", None),
        ("SS", b"\0\0", "100", None),
        ("US", b"\xff\xff", "0", 65535),
        ("US", b"\0\0", "0", None),
        ("US", b"\0\0", "-81920", 0),
    ],
)
def test_the_padding_value_marks_missing_samples_unless_it_is_the_signals_own_zero(kind, padding, baseline, invalid):
    channels = [channel(lead, baseline=baseline) for lead in LEADS]
    samples = samples_of(dtype="<i2" if kind == "SS" else "<u2")

    assert decode(file_of(group(samples, kind=kind, channels=channels, padding=padding))).invalid_count == invalid


@pytest.mark.parametrize(
    ("stated", "acquired_at"),
    [
        ([(0x0008002A, "DT", "20130125105919")], datetime(2013, 1, 25, 10, 59, 19)),
        ([(0x0008002A, "DT", "2013012510")], datetime(2013, 1, 25, 10)),
        ([(0x0008002A, "DT", "20130125105919.5-0800 ")], datetime(2013, 1, 25, 10, 59, 19, 500000)),
        ([(0x0008002A, "DT", "2013")], None),
        ([(0x0008002A, "DT", "18000101")], None),
        ([(0x0008002A, "DT", "20131301")], None),
        ([(0x0008002A, "DT", "")], None),
        (
            [(0x00080022, "DA", "20130125"), (0x0008002A, "DT", ""), (0x00080032, "TM", "105919.25")],
            datetime(2013, 1, 25, 10, 59, 19, 250000),
        ),
    ],
)
def test_the_time_of_acquisition_is_the_devices_own_or_unknown(stated, acquired_at):
    assert decode(file_of(group(SHORT), extra=tuple(stated))).acquired_at == acquired_at


def test_sequences_that_are_not_wanted_are_passed_over_whatever_their_length():
    inner: list[Element] = [(0x0040A730, "SQ", [[(0x0040A160, "UT", "x" * 9)], []]), (0x00400001, "SQ", [])]
    raw = file_of(group(SHORT), extra=((0x0040B020, "SQ", [inner, inner]),), undefined=True)

    assert_array_equal(decode(raw).counts.T, SHORT)


def test_an_unknown_sequence_is_implicit_inside_an_explicit_data_set():
    unknown = encoded([(0x00091001, "SQ", [[(0x00091002, "LO", "abcd")]])], explicit=False, undefined=True)
    head = file_of(group(SHORT))
    at = head.index(b"\x10\x00\x10\x00PN")
    raw = head[:at] + unknown[:4] + b"UN\0\0" + unknown[4:] + head[at:]

    assert_array_equal(decode(raw).counts.T, SHORT)


def test_zeros_that_fill_the_files_last_block_are_no_damage():
    assert_array_equal(decode(file_of(group(SHORT)) + bytes(512)).counts.T, SHORT)


def without(name: str, **changes: Any) -> bytes:
    return file_of(group(SHORT, **{name: None}, **changes))


def of_channels(**changes: Any) -> bytes:
    return file_of(group(SHORT, channels=[channel(lead, **changes) for lead in LEADS]))


def skewed(**changes: Any) -> bytes:
    return file_of(group(SHORT, channels=[channel("I", **changes), *[channel(lead) for lead in LEADS[1:]]]))


def private_syntax() -> bytes:
    return file_of(group(SHORT), syntax="1.2.840.113619.5.2")


def cut_waveform(n_bytes: int) -> bytes:
    """A WaveformSequence of defined length that ends inside its group."""
    return file_of(extra=((0x54000100, "SQ", [group(SHORT)]),))[:-n_bytes]


def not_deflated() -> bytes:
    raw = file_of(syntax=DEFLATED)
    return raw[: raw.index(DEFLATED.encode()) + len(DEFLATED)] + b"\xff" * 99


def image() -> bytes:
    """An object of encapsulated pixels."""
    pixels = encoded([(0x7FE00010, "OB", b"")])[:8] + b"\xff" * 4
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x06\0\0\0\xff\xd8\xfe\xff\xff\xd9"
    return (
        file_of(syntax=JPEG, sop_class="1.2.840.10008.5.1.4.1.1.7") + pixels + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


REFUSALS: dict[str, tuple[bytes, Reason]] = {
    "an image": (image(), Reason.NO_RHYTHM),
    "waveform sequence empty": (file_of(extra=((0x54000100, "SQ", []),)), Reason.NO_RHYTHM),
    "median only": (file_of(group(SHORT, label="MEDIAN BEAT")), Reason.NO_RHYTHM),
    "no standard lead": (file_of(group(samples_of(1), ("ART",))), Reason.MISSING_LEADS),
    "lead twice": (file_of(group(samples_of(2), ("V1", "V1"))), Reason.DUPLICATE_LEAD),
    "rate absent": (without("rate"), Reason.UNKNOWN_RATE),
    "rate empty": (file_of(group(SHORT, rate="")), Reason.UNKNOWN_RATE),
    "rate 0": (file_of(group(SHORT, rate="0")), Reason.UNKNOWN_RATE),
    "rate huge": (file_of(group(SHORT, rate="1e300")), Reason.UNKNOWN_RATE),
    "rate a word": (file_of(group(SHORT, rate="fast")), Reason.UNKNOWN_RATE),
    "rate NaN": (file_of(group(SHORT, rate="nan")), Reason.UNKNOWN_RATE),
    "sensitivity absent": (of_channels(sensitivity=None), Reason.UNKNOWN_GAIN),
    "sensitivity 0": (of_channels(sensitivity="0"), Reason.UNKNOWN_GAIN),
    "sensitivity negative": (of_channels(sensitivity="-2.5"), Reason.UNKNOWN_GAIN),
    "sensitivity a word": (of_channels(sensitivity="high"), Reason.UNKNOWN_GAIN),
    "sensitivity infinite": (of_channels(sensitivity="inf"), Reason.UNKNOWN_GAIN),
    "correction a word": (of_channels(correction="none"), Reason.UNKNOWN_GAIN),
    "baseline a word": (of_channels(baseline="low"), Reason.UNKNOWN_GAIN),
    "baseline beyond any sample": (of_channels(baseline="1e30"), Reason.UNKNOWN_GAIN),
    "unit absent": (of_channels(unit=None), Reason.UNKNOWN_GAIN),
    "unit not volts": (of_channels(unit="mm[Hg]"), Reason.UNKNOWN_GAIN),
    "skew of a sample": (skewed(sample_skew="1"), Reason.MALFORMED),
    "skew of some ms": (skewed(time_skew="0.004"), Reason.MALFORMED),
    "skew a word": (skewed(sample_skew="late"), Reason.MALFORMED),
    "channels absent": (without("channels"), Reason.MISSING_LEADS),
    "fewer channels than said": (file_of(group(SHORT, n_channels=13)), Reason.MALFORMED),
    "number of channels absent": (without("n_channels"), Reason.MALFORMED),
    "number of samples absent": (without("n_samples"), Reason.MALFORMED),
    "no samples": (file_of(group(SHORT[:0])), Reason.MALFORMED),
    "samples no memory holds": (file_of(group(SHORT, n_samples=2**32 - 1)), Reason.MALFORMED),
    "samples short": (file_of(group(SHORT, data=SHORT.tobytes()[:-2])), Reason.MALFORMED),
    "samples long": (file_of(group(SHORT, data=SHORT.tobytes() + b"\0\0")), Reason.MALFORMED),
    "samples absent": (without("data"), Reason.MALFORMED),
    "bits absent": (without("bits"), Reason.MALFORMED),
    "bits of another size": (file_of(group(SHORT, bits=12)), Reason.MALFORMED),
    "interpretation absent": (without("kind"), Reason.MALFORMED),
    "interpretation unknown": (file_of(group(SHORT, kind="XX")), Reason.MALFORMED),
    "interpretation of 64 bits": (file_of(group(samples_of(dtype="<i8"), kind="SV")), Reason.MALFORMED),
    "padding of another size": (file_of(group(SHORT, padding=b"\0\0\0\0")), Reason.MALFORMED),
    "big-endian 32 bits": (file_of(group(samples_of(dtype="<i4"), kind="SL"), syntax=BIG_ENDIAN), Reason.MALFORMED),
    "a private transfer syntax": (private_syntax(), Reason.UNKNOWN_FORMAT),
    "transfer syntax a name": (file_of(group(SHORT), syntax="Beeblebrox"), Reason.MALFORMED),
    "no data set": (file_of()[:132], Reason.TRUNCATED),
    "cut in the meta information": (file_of()[:150], Reason.TRUNCATED),
    "cut in the waveform": (cut_waveform(7), Reason.TRUNCATED),
    "cut in the deflated stream": (file_of(group(SHORT), syntax=DEFLATED)[:-9], Reason.TRUNCATED),
    "not a deflated stream": (not_deflated(), Reason.CORRUPT_PAYLOAD),
    "VR that is none": (file_of(group(SHORT)).replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00cs"), Reason.MALFORMED),
    "zeros, then something": (file_of(group(SHORT)) + bytes(64) + b"\x01", Reason.MALFORMED),
    "a group's element twice": (
        file_of([*group(SHORT), (0x54001010, "OW", SHORT.tobytes())]),
        Reason.MALFORMED,
    ),
    "a channel's element twice": (
        file_of(group(samples_of(1), channels=[[*channel("I"), (0x003A0210, "DS", "5")]])),
        Reason.MALFORMED,
    ),
    "items without a sequence": (file_of(group(SHORT)) + b"\xfe\xff\x00\xe0\0\0\0\0", Reason.MALFORMED),
    "nesting without end": (
        file_of(group(SHORT)) + (b"\x55\x00\x00\x01SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * 9999,
        Reason.MALFORMED,
    ),
    "elements without end": (
        file_of(extra=((0x54000100, "SQ", [[(0x54001004, "US", b"")]]),)) + b"\x08\x00\x2a\x00DT\0\0" * 70_000,
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_object_that_cannot_be_trusted_is_refused_for(case):
    raw, reason = REFUSALS[case]

    assert refusal(raw) == reason


def test_the_transfer_syntax_that_is_not_read_is_named():
    with pytest.raises(RecordError, match=r"transfer syntax 1\.2\.840\.113619\.5\.2,"):
        decode(private_syntax())


@pytest.mark.parametrize("number", [b"19420311", b"12345678", b"42.19420"])
def test_a_number_that_is_no_transfer_syntax_is_not_quoted(number):
    with pytest.raises(RecordError) as defect:
        decode(private_syntax().replace(b"1.2.840.113619.5.2", number.ljust(18, b"\0")))

    assert defect.value.reason == Reason.MALFORMED
    assert number.decode() not in defect.value.detail


def test_a_stream_that_inflates_without_bound_is_too_large():
    flat = np.zeros((2**20, 12), np.int16)

    assert refusal(file_of(group(flat), syntax=DEFLATED)) == Reason.TOO_LARGE


@pytest.mark.parametrize(
    "junk",
    [
        b"\x08\x00\x05\x00" + bytes(200),
        b"\x08\x00\x00\x00\x04\x00\x00\x00" + bytes(200),
        b"\x02\x00\x00\x00" * 50,
        np.arange(8, 300, dtype="<i2").tobytes(),
        bytes(132),
        bytes(128) + b"DICO" + bytes(100),
    ],
    ids=["zeros", "integers", "twos", "ramp", "empty", "other magic"],
)
def test_junk_is_not_called_dicom(junk):
    assert not is_dicom(junk)


def outcome(raw: bytes) -> Record | None:
    try:
        return decode(raw)
    except RecordError:
        return None


VARIANTS: dict[str, Callable[[], bytes]] = {
    "implicit": lambda: file_of(group(SHORT), group(SHORT[:5], label="MEDIAN"), syntax=IMPLICIT),
    "explicit": lambda: file_of(group(SHORT), undefined=True, extra=((0x60000100, "LO", "after the waveform"),)),
    "deflated": lambda: file_of(group(SHORT), syntax=DEFLATED),
    "bare": lambda: file_of(group(SHORT), preamble=False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_that_ends_early_is_refused_or_whole(variant):
    raw = VARIANTS[variant]()

    for length in range(0, len(raw), 10):
        record = outcome(raw[:length])
        assert record is None or (np.array_equal(record.counts.T, SHORT) and record.leads == LEADS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(VARIANTS)), st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=9))
def test_damaged_bytes_give_a_record_or_a_defect(variant, changes):
    raw = bytearray(VARIANTS[variant]())
    for at, byte in changes:
        raw[at % len(raw)] = byte

    record = outcome(bytes(raw))

    assert record is None or record.counts.shape == (len(record.leads), record.n_samples)


def test_no_name_of_a_patient_is_said_of_any_refusal():
    for raw, _ in REFUSALS.values():
        with pytest.raises(RecordError) as defect:
            decode(raw)
        assert "Beeblebrox" not in defect.value.detail


def test_samples_at_odd_places_are_read():
    raw = file_of(group(SHORT))
    at = raw.index(b"\x10\x00\x10\x00PN")
    shifted = raw[:at] + b"\x09\x00\x01\x10LO\x01\x00x" + raw[at:]

    assert_array_equal(decode(shifted).counts.T, SHORT)


def test_the_tables_of_g711_are_symmetric():
    octets = np.arange(128, dtype=np.uint8)

    for kind in ("MB", "AB"):
        values = [
            np.sort(dicom_samples._MU_LAW[o] if kind == "MB" else dicom_samples._A_LAW[o])
            for o in (octets, octets | 128)
        ]
        assert_array_equal(values[0], -values[1][::-1])
