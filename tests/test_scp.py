"""SCP-ECG: every stream is read as a decoder reads it that takes one bit after the other, and nothing is guessed."""

import binascii
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import _kernels, formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, LEADS, Reason, Record

CODES = {"I": 1, "II": 2, **{f"V{n}": n + 2 for n in range(1, 7)}, "V7": 9, "V3R": 11}
CODES |= {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}
PADDING = 3
"""Most bytes that may follow a lead's last sample, unless they are 0."""


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.scp", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"an SCP file has no sibling, asked for {name!r}")


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


# A second decoder, bit by bit.

Table = dict[str, tuple[int, int, int]]
"""Prefix -> mode (0: go on with another table), value, bits after the prefix."""

DEFAULT: Table = {
    "0": (1, 0, 0),
    **{"1" * k + "00": (1, k, 0) for k in range(1, 9)},
    **{"1" * k + "01": (1, -k, 0) for k in range(1, 9)},
    "1" * 9 + "0": (1, 0, 8),
    "1" * 10: (1, 0, 16),
}


def signed(bits: str) -> int:
    return int(bits, 2) - (bits[0] == "1") * 2 ** len(bits)


def tables_of(section: bytes) -> list[Table]:
    n = int.from_bytes(section[:2], "little")
    if n == 19999:
        return [DEFAULT]
    tables: list[Table] = []
    at = 2
    for _ in range(n):
        n_codes = int.from_bytes(section[at : at + 2], "little")
        at += 2
        table: Table = {}
        for _ in range(n_codes):
            prefix, whole, mode, value, code = struct.unpack_from("<BBBhI", section, at)
            table[f"{code:032b}"[::-1][:prefix]] = (mode, value, whole - prefix)
            at += 9
        tables.append(table)
    return tables


def values_of(stream: bytes, tables: list[Table], n: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in stream)
    table, at, values = tables[0], 0, []
    while len(values) < n:
        end = next(end for end in range(at + 1, at + 33) if bits[at:end] in table)
        mode, value, n_extra = table[bits[at:end]]
        at = end + n_extra
        if mode == 0:
            table = tables[value - 1]
        else:
            values.append(value + (signed(bits[end:at]) if n_extra else 0))
    return values


def int16(value: int) -> int:
    return (value + 32768) % 65536 - 32768


def integrated(values: Sequence[int], order: int) -> list[int]:
    out: list[int] = []
    for i, d in enumerate(values):
        before = [0, out[-1] if out else 0, 2 * out[-1] - out[-2] if i > 1 else 0][order]
        out.append(int16(d + before))
    return out


def contents(raw: bytes) -> dict[int, bytes]:
    pointers = [struct.unpack_from("<HII", raw, 22 + 10 * i) for i in range(12)]
    return {number: raw[index + 15 : index - 1 + length] for number, length, index in pointers if length}


def slow(raw: bytes) -> tuple[list[int], list[list[int]]]:
    """Lead codes, and counts of every stored lead of a rhythm without reference beats."""
    section = contents(raw)
    n_leads = section[3][0]
    leads = [struct.unpack_from("<IIB", section[3], 2 + 9 * i) for i in range(n_leads)]
    order = section[6][4]
    lengths = struct.unpack_from(f"<{n_leads}H", section[6], 6)
    at, out = 6 + 2 * n_leads, []
    for (first, last, _), length in zip(leads, lengths, strict=True):
        values = values_of(section[6][at : at + length], tables_of(section[2]), last - first + 1)
        out.append(integrated(values, order))
        at += length
    return [code for _, _, code in leads], out


# A writer.


def default_bits(value: int) -> str:
    k = abs(value)
    if k <= 8:
        return "1" * k + "0" + ("" if k == 0 else "01"[value < 0])
    return "1" * 9 + f"0{value & 0xFF:08b}" if -128 <= value < 128 else "1" * 10 + f"{value & 0xFFFF:016b}"


TWO_TABLES: list[Table] = [
    {"0": (1, 0, 0), "10": (1, 1, 0), "110": (1, -1, 0), "1110": (0, 2, 0), "1111": (1, 5, 16)},
    {"1": (1, 300, 6), "01": (1, 1000, 0), "0" * 14 + "1": (1, -1000, 0), "0" * 32: (0, 1, 0)},
]


def two_tables_bits(value: int) -> str:
    """Mostly of the first table, but 300 ± 32 and ± 1000 of the second one, and back again."""
    if (bits := {0: "0", 1: "10", -1: "110"}.get(value)) is not None:
        return bits
    if value in (1000, -1000):
        return "1110" + ("01" if value > 0 else "0" * 14 + "1") + "0" * 32
    if 268 <= value < 332:
        return "1110" + f"1{(value - 300) & 0x3F:06b}" + "0" * 32
    return "1111" + f"{(value - 5) & 0xFFFF:016b}"


def section2(tables: list[Table]) -> bytes:
    raw = struct.pack("<H", len(tables))
    for table in tables:
        raw += struct.pack("<H", len(table))
        for prefix, (mode, value, n_extra) in table.items():
            raw += struct.pack("<BBBhI", len(prefix), len(prefix) + n_extra, mode, value, int(prefix[::-1], 2))
    return raw


Coder = tuple[bytes | None, Callable[[int], str] | None]
"""Content of section 2, and the bits of a value; None where samples are int16."""
CODERS: dict[str, Coder] = {
    "default table": (struct.pack("<H", 19999), default_bits),
    "default table, written out": (section2([DEFAULT]), default_bits),
    "two tables": (section2(TWO_TABLES), two_tables_bits),
    "no table": (None, None),
    "section 2 without a table": (bytes(2), None),
}


def stream(counts: Sequence[int], coder: Coder, order: int) -> bytes:
    x = [int(v) for v in counts]
    before = [[0, x[i - 1], 2 * x[i - 1] - x[i - 2] if i > 1 else 0][order if i else 0] for i in range(len(x))]
    values = [int16(value - b) for value, b in zip(x, before, strict=True)]
    if coder[1] is None:
        return struct.pack(f"<{len(values)}h", *values)
    bits = "".join(map(coder[1], values))
    bits += "0" * (-len(bits) % 8)
    return int(bits or "0", 2).to_bytes(len(bits) // 8, "big")


def samples(streams: Sequence[bytes], *, avm: int, interval: int, order: int, bimodal: int = 0) -> bytes:
    lengths = struct.pack(f"<{len(streams)}H", *[len(s) % 65536 for s in streams])
    return struct.pack("<HHBB", avm, interval, order, bimodal) + lengths + b"".join(streams)


def tag(number: int, value: bytes) -> bytes:
    return struct.pack("<BH", number, len(value)) + value


SECRETS = (b"Zaphod", b"Beeblebrox", b"PID-424242")
DEVICE = bytes(7) + b"\xffELI250\x14" + bytes(20) + b"\0serial 99\0"
SECTION1 = (
    tag(0, SECRETS[1] + b"\0")
    + tag(1, SECRETS[0] + b"\0")
    + tag(2, SECRETS[2] + b"\0")
    + tag(5, struct.pack("<HBB", 1901, 12, 31))
    + tag(14, DEVICE)
    + tag(25, struct.pack("<HBB", 2024, 2, 29))
    + tag(26, bytes([23, 59, 58]))
    + tag(255, b"")
)


@dataclass(frozen=True, kw_only=True)
class Scp:
    """What an SCP-ECG record is written of."""

    counts: np.ndarray
    leads: tuple[str, ...] = INDEPENDENT_LEADS
    coder: str = "default table"
    order: int = 2
    avm: int = 4880
    interval: int = 2000
    first: int = 1
    flags: int = 0x44
    sections: dict[int, bytes | None] = field(default_factory=dict)
    """In place of the usual ones."""
    protocol: int = 20

    def usual(self) -> dict[int, bytes | None]:
        coder = CODERS[self.coder]
        last = self.first + self.counts.shape[1] - 1
        table = b"".join(struct.pack("<IIB", self.first, last, CODES[lead]) for lead in self.leads)
        streams = [stream(row, coder, self.order) for row in self.counts]
        return {
            1: SECTION1,
            2: coder[0],
            3: bytes([len(self.leads), self.flags]) + table,
            6: samples(streams, avm=self.avm, interval=self.interval, order=self.order),
        }

    def write(self) -> bytes:
        pointers, body = b"", b""
        at = 6 + 16 + 120
        content = {**self.usual(), **self.sections}
        for number in range(1, 12):
            inside = content.get(number)
            if inside is None:
                pointers += struct.pack("<HII", number, 0, 0)
                continue
            inside += b"\0" * (len(inside) % 2)
            raw = with_crc(struct.pack("<HHIBB6s", 0, number, 16 + len(inside), 20, self.protocol, b"") + inside)
            pointers += struct.pack("<HII", number, len(raw), at + len(body) + 1)
            body += raw
        pointers = struct.pack("<HII", 0, 136, 7) + pointers
        section0 = with_crc(struct.pack("<HHIBB6s", 0, 0, 136, 20, 20, b"SCPECG") + pointers)
        return with_crc(struct.pack("<HI", 0, at + len(body)) + section0 + body)


def with_crc(raw: bytes) -> bytes:
    return struct.pack("<H", binascii.crc_hqx(raw[2:], 0xFFFF)) + raw[2:]


def written(**changes: Any) -> bytes:
    return replace(SMALL, **changes).write()


ECG = synth.record(seed=11, rhythm="sinus", fs_hz=100, seconds=1.0)
SMALL = Scp(counts=ECG.counts, interval=10_000)
SAMPLES = {
    "ecgtoolkit_Example.scp": ("I", "II", *INDEPENDENT_LEADS[2:], "III", "aVR", "aVL", "aVF"),
    "welchallyn_ECG_00000000_000000_ANON000001.SCP": ("I", "II", "V1", "V2", "V4", "V6"),
    "welchallyn_ECG_20070321_110542_ANON000004.SCP": INDEPENDENT_LEADS,
    "welchallyn_ECG_20170504_163507_ANON000009.SCP": INDEPENDENT_LEADS,
}


@pytest.fixture(params=SAMPLES)
def sample(data, request) -> bytes:
    return (data / "formats" / "samples" / "scp" / request.param).read_bytes()


def test_a_real_file_is_read_as_bit_by_bit(sample):
    record = decode(sample)
    codes, rows = slow(sample)
    stored = dict(zip(codes, rows, strict=True))

    assert_array_equal(record.counts, [stored[CODES[lead]] for lead in record.leads])


def test_a_real_file_is_read_as_ecgdatakit_reads_it(data):
    kit = pytest.importorskip("ecgdatakit.parsing.parsers.scp_ecg")
    for name, leads in SAMPLES.items():
        path = data / "formats" / "samples" / "scp" / name
        record = decode(path.read_bytes())
        expected = {lead.label: lead for lead in kit.SCPECGParser().parse(path).leads}

        assert record.leads == leads
        assert {lead.sampling_rate for lead in expected.values()} == {record.fs_hz}
        assert_array_equal(record.counts, [expected[lead].samples for lead in leads])
        assert record.uv_per_count == tuple(expected[lead].resolution for lead in leads)


def microvolts(record: Record, leads: Sequence[str] = LEADS) -> np.ndarray:
    return waveform.nanovolts(record, tuple(leads)) / 1000


def test_the_same_ecg_as_dicom_has_the_same_microvolts(data):
    pydicom = pytest.importorskip("pydicom")
    samples = data / "formats" / "samples"
    group = pydicom.dcmread(samples / "dicom" / "ecgtoolkit_Example.dcm").WaveformSequence[0]
    raw = np.frombuffer(group.WaveformData, "<i2").reshape(-1, group.NumberOfWaveformChannels).T
    names = {f"5.6.3-9-{code}": lead for lead, code in CODES.items()}
    expected = {
        names[channel.ChannelSourceSequence[0].CodeValue.strip("\0 ")]: row * float(channel.ChannelSensitivity)
        for channel, row in zip(group.ChannelDefinitionSequence, raw, strict=True)
    }
    record = decode((samples / "scp" / "ecgtoolkit_Example.scp").read_bytes())

    assert record.fs_hz == group.SamplingFrequency
    assert_array_equal(microvolts(record), [expected[lead] for lead in LEADS])


def test_the_same_ecg_as_hl7_aecg_has_the_same_microvolts(data):
    etree = pytest.importorskip("lxml.etree")
    samples = data / "formats" / "samples"
    tree = etree.parse(str(samples / "hl7_aecg" / "hl7_Example.xml"))
    expected: dict[str, np.ndarray] = {}
    for sequence in tree.iterfind(".//{*}series/{*}component/{*}sequenceSet/{*}component/{*}sequence"):
        name = sequence.find("{*}code").get("code").removeprefix("MDC_ECG_LEAD_")
        if name.upper() in map(str.upper, LEADS) and name not in expected:
            digits = np.array(sequence.findtext(".//{*}digits").split(), float)
            expected[name] = digits * float(sequence.find(".//{*}scale").get("value"))
    record = decode((samples / "scp" / "ecgtoolkit_Example.scp").read_bytes())

    by_name = {name.upper(): x for name, x in expected.items()}
    assert_array_equal(microvolts(record), [by_name[lead.upper()] for lead in LEADS])


def test_einthovens_law_holds_where_all_limb_leads_are_stored(data):
    record = decode((data / "formats" / "samples" / "scp" / "ecgtoolkit_Example.scp").read_bytes())
    one, two, three = microvolts(record, ("I", "II", "III"))

    assert abs(two - one - three).max() == 0


def test_a_real_file_tells_when_and_by_what_it_was_recorded(data):
    records = [decode((data / "formats" / "samples" / "scp" / name).read_bytes()) for name in SAMPLES]

    assert [record.device_model for record in records] == ["ELI250", "MDW14", "MDW14", "MDW14"]
    assert [record.acquired_at for record in records] == [datetime(2002, 11, 22, 9, 10), None, None, None]
    assert [record.fs_hz for record in records] == [500, 600, 600, 600]  # the anonymiser's dates are big-endian


def test_a_childs_leads_are_decoded_and_cannot_be_twelve(data):
    record = decode((data / "formats" / "samples" / "scp" / list(SAMPLES)[1]).read_bytes())

    with pytest.raises(RecordError, match="no lead V3, V5 among") as defect:
        waveform.nanovolts(record, LEADS)
    assert defect.value.reason == Reason.MISSING_LEADS


def test_every_crc_of_a_real_file_holds(sample):
    n = len(sample)
    assert _kernels.crc16(sample, 2, n) == int.from_bytes(sample[:2], "little")
    for inside in contents(sample).values():
        begin = sample.index(inside) - 16
        stated = int.from_bytes(sample[begin : begin + 2], "little")
        assert stated == _kernels.crc16(sample, begin + 2, begin + 16 + len(inside))


@given(st.binary(max_size=100), st.integers(0, 9))
def test_the_crc_is_that_of_the_standard_library(data, begin):
    begin = min(begin, len(data))
    assert _kernels.crc16(data, begin, len(data)) == binascii.crc_hqx(data[begin:], 0xFFFF)


@pytest.mark.parametrize("order", [0, 1, 2], ids=["amplitudes", "first differences", "second differences"])
@pytest.mark.parametrize("coder", CODERS)
def test_every_code_and_difference_gives_the_same_counts(coder, order):
    record = decode(written(coder=coder, order=order))

    assert_array_equal(record.counts, ECG.counts)
    assert (record.format, record.fs_hz, record.leads) == ("scp-ecg", 100.0, INDEPENDENT_LEADS)
    assert record.uv_per_count == (4.88,) * 8
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 23, 59, 58), "ELI250")


VALUES = st.one_of(
    st.integers(-8, 8),
    st.integers(-300, 340),
    st.sampled_from([1000, -1000, 32767, -32768, 127, -128]),
    st.integers(-(2**15), 2**15 - 1),
)


@settings(deadline=None)
@given(
    values=st.lists(VALUES, min_size=1, max_size=80),
    coder=st.sampled_from(list(CODERS)),
    order=st.integers(0, 2),
)
def test_any_counts_survive_any_code(values, coder, order):
    counts = np.array([values, values[::-1]])
    record = decode(Scp(counts=counts, leads=("II", "V2"), coder=coder, order=order).write())

    assert_array_equal(record.counts, counts)


@settings(deadline=None)
@given(raw=st.binary(min_size=60, max_size=120), coder=st.sampled_from(list(CODERS)[:3]))
def test_any_bits_mean_what_they_mean_bit_by_bit(raw, coder):
    table = CODERS[coder][0] or b""
    try:
        expected = values_of(raw, tables_of(table), 20)
    except (StopIteration, IndexError, ValueError):
        expected = None
    out = np.zeros((1, 20), np.int16)
    sound = _kernels.scp_leads(raw + bytes(9), 0, len(raw), _kernels.scp_tables(table), 0, [(20, len(raw), 0)], out)

    if sound:
        assert_array_equal(out[0], [int16(v) for v in expected])
    else:  # no such code, or the end, or more bytes than a lead of 20 samples can need
        assert expected is None or len(raw) > PADDING


@pytest.mark.parametrize("n", range(1, 64))
def test_a_lead_ends_where_its_row_ends(n):
    tables = _kernels.scp_tables(CODERS["default table"][0] or b"")
    after, row = [stream(counts, CODERS["default table"], 0) + bytes(20) for counts in ([7] * n, [0] * n)]
    out = np.full((2, n), 9, np.int16)
    layout = [(n, len(after), 1), (n, len(row), 0)]

    assert _kernels.scp_leads(after + row, 0, len(after + row), tables, 0, layout, out) == 2
    assert_array_equal(out, [[0] * n, [7] * n])


def test_leads_that_are_not_standard_are_left_alone():
    leads = ("V7", "II", "V3R", "I")
    record = decode(written(counts=ECG.counts[:4], leads=leads))

    assert record.leads == ("II", "I")
    assert_array_equal(record.counts, ECG.counts[[1, 3]])


@pytest.mark.parametrize("coder", ["no table", "default table"])
def test_a_lead_of_more_bytes_than_16_bits_can_say_is_read_whole(coder, rng):
    counts = rng.integers(-30_000, 30_000, (2, 37_855))
    raw = Scp(counts=counts, leads=("I", "II"), coder=coder, order=0).write()

    assert_array_equal(decode(raw).counts, counts)


def test_plain_samples_that_are_counted_from_0_are_read_whole():
    raw = written(coder="no table", order=0, first=0)

    assert_array_equal(decode(raw).counts, ECG.counts)


def test_plain_samples_counted_from_0_to_their_number_are_not_invented():
    table = bytes([8, 0]) + b"".join(struct.pack("<IIB", 0, 100, CODES[lead]) for lead in INDEPENDENT_LEADS)

    assert_array_equal(decode(written(coder="no table", order=0, sections={3: table})).counts, ECG.counts)


def test_coded_samples_that_are_counted_from_0_are_read_as_far_as_is_sure():
    assert_array_equal(decode(written(first=0)).counts, ECG.counts[:, :99])


@pytest.mark.parametrize(
    ("interval", "fs_hz"),
    [(2000, 500), (1667, 600), (1250, 800), (1000, 1000), (1953, 512), (4000, 250), (125, 8000)],
)
def test_the_rate_is_the_whole_number_whose_interval_is_stated(interval, fs_hz):
    assert decode(written(interval=interval)).fs_hz == pytest.approx(fs_hz, rel=1e-9)


@pytest.mark.parametrize("avm", [1, 500, 2500, 65535])
def test_the_gain_is_the_files_own(avm):
    assert decode(written(avm=avm)).uv_per_count == (avm / 1000,) * 8


@pytest.mark.parametrize(
    ("section", "moment", "model"),
    [
        (tag(25, struct.pack("<HBB", 2024, 2, 29)), datetime(2024, 2, 29), None),
        (tag(25, struct.pack("<HBB", 2024, 2, 30)), None, None),
        (tag(25, struct.pack(">HBB", 2024, 2, 29)), None, None),
        (tag(25, struct.pack("<HBB", 1024, 2, 29)), None, None),
        (tag(25, b"\xe8\x07\x02"), None, None),
        (tag(25, struct.pack("<HBB", 2024, 2, 29)) + tag(26, b"\x18\0\0"), None, None),
        (tag(26, b"\x10\0\0"), None, None),
        (tag(14, bytes(8) + b"AB\0CDE"), None, "AB"),
        (tag(14, bytes(8) + b"A\nB\x1b[2"), None, None),
        (tag(14, bytes(40)), None, None),
        (tag(14, b""), None, None),
        (tag(255, b"") + tag(14, DEVICE), None, None),
        (tag(0, b"x" * 9)[:-4], None, None),
        (b"\x19\xff\xff", None, None),
        (b"", None, None),
        (None, None, None),
    ],
)
def test_when_and_by_what_it_was_recorded_is_said_or_unknown(section, moment, model):
    record = decode(written(sections={1: section}))

    assert (record.acquired_at, record.device_model) == (moment, model)
    assert_array_equal(record.counts, ECG.counts)


def test_a_record_with_its_mark_left_zero_is_known_by_its_header():
    raw = bytearray(SMALL.write())
    raw[16:22] = bytes(6)

    assert_array_equal(decode(bytes(raw)).counts, ECG.counts)
    assert refusal(bytes(raw) + b"\0") == Reason.UNKNOWN_FORMAT


def test_a_record_whose_crc_looks_like_the_start_of_xml_is_no_xml():
    raw, at = SMALL.write(), SMALL.write().index(SECRETS[2])
    records = (with_crc(changed(raw, at, b"%09d" % n)) for n in range(100_000))
    raw = next(record for record in records if re.match(b"<[a-z]", record))

    assert_array_equal(decode(raw).counts, ECG.counts)


def test_bytes_after_the_record_are_left_alone():
    assert_array_equal(decode(SMALL.write() + b"more").counts, ECG.counts)


# Checksums.


def at_section(raw: bytes, number: int) -> int:
    return struct.unpack_from("<HII", raw, 22 + 10 * number)[2] - 1


def changed(raw: bytes, at: int, by: bytes) -> bytes:
    return raw[:at] + by + raw[at + len(by) :]


def test_a_blanked_name_does_not_fail_a_record_whose_sections_hold():
    raw = SMALL.write().replace(SECRETS[1], b"X" * len(SECRETS[1]))

    assert_array_equal(decode(raw).counts, ECG.counts)


def test_a_wrong_section_crc_does_not_fail_a_record_that_holds():
    raw = SMALL.write()

    assert_array_equal(decode(with_crc(changed(raw, at_section(raw, 6), b"\1\2"))).counts, ECG.counts)


def test_a_record_that_states_no_crc_is_decoded():
    raw = changed(SMALL.write(), 0, bytes(2))
    for number in (2, 3, 6):
        raw = changed(raw, at_section(raw, number), bytes(2))

    assert_array_equal(decode(raw).counts, ECG.counts)


@pytest.mark.parametrize("number", [2, 3, 6])
def test_a_changed_byte_fails_the_crc_of_its_section(number):
    raw = SMALL.write()
    at = at_section(raw, number) + {2: 10, 3: 17, 6: 60}[number]  # the header's reserve, the flags, a lead's code

    assert refusal(changed(raw, at, bytes([raw[at] ^ 0x40]))) == Reason.CHECKSUM


# Reference beats.

LENGTH, FIDUCIAL, FACTOR = 40, 15, 4
QRS = [(0, 3, 10, 30), (1, 40, 46, 60), (0, 90, 99, 118), (0, 170, 180, 206)]
PROTECTED = [(5, 16), (41, 52), (95, 103), (176, 188)]


def section4(qrs=QRS, protected=PROTECTED, *, ms: int = LENGTH * 2, fiducial: int = FIDUCIAL) -> bytes:
    raw = struct.pack("<HHH", ms, fiducial, len(qrs))
    raw += b"".join(struct.pack("<HIII", *zone) for zone in qrs)
    return raw + b"".join(struct.pack("<II", *zone) for zone in protected)


def beats_in(n: int, beat: np.ndarray) -> np.ndarray:
    """What was subtracted of n samples: sample by sample, numbered from 1."""
    out = np.zeros(n, int)
    for kind, first, fiducial, last in QRS:
        for number in range(first, min(last, n) + 1):
            place = number - fiducial + FIDUCIAL
            if kind == 0 and 1 <= place <= LENGTH:
                out[number - 1] += beat[place - 1]
    return out


def decimated(x: np.ndarray) -> tuple[list[int], np.ndarray]:
    """What is stored of x, and what can be restored of it: sample by sample, numbered from 1."""
    kept: list[int] = []
    back = np.zeros(len(x))
    number = 1
    for first, last in [*PROTECTED, (len(x) + 1, len(x))]:
        groups = (first - number) // FACTOR
        means = [int(np.mean(x[number - 1 + FACTOR * g :][:FACTOR])) for g in range(groups)]
        for i in range(groups * FACTOR):
            g, step = divmod(i - FACTOR // 2, FACTOR)
            low, high = means[max(g, 0)], means[min(max(g, -1) + 1, groups - 1)]
            back[number - 1 + i] = low + (high - low) * step / FACTOR
        kept += means
        for n in range(number + groups * FACTOR, last + 1):
            kept.append(int(x[n - 1]))
            back[n - 1] = x[n - 1]
        number = last + 1
    return kept, back


def compressed(rest: Sequence[Sequence[int]], beat: np.ndarray, **changes: Any) -> Scp:
    """A rhythm of 210 samples at 500 Hz of which a beat was subtracted."""
    avm, interval, bimodal = changes.pop("avm", 2500), changes.pop("interval", 2000), changes.pop("bimodal", 0)
    coder, flags = CODERS["default table"], changes.pop("flags", 1)
    sections = {
        3: bytes([2, flags]) + b"".join(struct.pack("<IIB", 1, 210, code) for code in (1, 2)),
        4: section4(),
        5: samples([stream(row, coder, 2) for row in beat], avm=5000, interval=2000, order=2),
        6: samples([stream(r, coder, 1) for r in rest], avm=avm, interval=interval, order=1, bimodal=bimodal),
    }
    return Scp(counts=np.zeros((2, 210)), sections={**sections, **changes.pop("sections", {})}, **changes)


@pytest.fixture
def beat(rng) -> np.ndarray:
    return rng.integers(-200, 200, (2, LENGTH))


@pytest.mark.parametrize(("avm", "unit"), [(5000, 5.0), (2500, 2.5), (2000, 1.0)])
def test_a_subtracted_reference_beat_is_added_where_it_was_subtracted(rng, beat, avm, unit):
    rest = rng.integers(-20, 20, (2, 210))
    record = decode(compressed(rest, beat, avm=avm).write())
    expected = rest * (avm / 1000) + np.stack([beats_in(210, row) for row in beat]) * 5.0

    assert record.uv_per_count == (unit, unit)
    assert record.fs_hz == 500
    assert_array_equal(record.counts * unit, expected)


@pytest.mark.parametrize("flags", [0, 1], ids=["alone", "with a reference beat"])
def test_a_decimated_rhythm_is_interpolated_outside_of_its_protected_zones(rng, beat, flags):
    x = rng.integers(-100, 100, (2, 210)).cumsum(axis=1)
    kept, back = zip(*map(decimated, x), strict=True)
    record = decode(compressed(kept, beat, interval=8000, bimodal=1, flags=flags).write())
    expected = np.stack(back) * 2.5 + flags * np.stack([beats_in(210, row) for row in beat]) * 5.0

    assert record.fs_hz == 500
    assert_array_equal(record.counts, np.rint(expected / 2.5))
    assert_array_equal(np.stack(back)[:, 4:16], x[:, 4:16])


def test_a_bimodal_rhythm_of_the_full_rate_is_as_stored(rng, beat):
    rest = rng.integers(-20, 20, (2, 210))

    assert_array_equal(decode(compressed(rest, beat, bimodal=1, flags=0).write()).counts, rest)


def test_the_bimodal_flag_of_protocol_3_says_nothing(rng, beat):
    rest = rng.integers(-20, 20, (2, 210))
    scp = compressed(rest, beat, bimodal=1, flags=0, protocol=30, sections={4: None, 5: None})

    assert_array_equal(decode(scp.write()).counts, rest)


REST = np.zeros((2, 210), int)
BEAT = np.ones((2, LENGTH), int)
SHORT = decimated(REST[0])[0]


def beats_refused(**changes: Any) -> bytes:
    sections = {number: changes.pop(f"section{number}") for number in (4, 5) if f"section{number}" in changes}
    return compressed(changes.pop("rest", REST), BEAT, sections=sections, **changes).write()


def table_of(*leads: tuple[int, int, int], n: int | None = None) -> bytes:
    return bytes([len(leads) if n is None else n, 0]) + b"".join(struct.pack("<IIB", *lead) for lead in leads)


def table_with(*last: tuple[int, int, int]) -> bytes:
    return table_of(*[(1, 100, n + 1) for n in range(8 - len(last))], *last)


def pointed(number: int, *, length: int | None = None, index: int | None = None, as_: int | None = None) -> bytes:
    """The record with one pointer changed, and all CRCs right."""
    raw = SMALL.write()
    old = struct.unpack_from("<HII", raw, 22 + 10 * number)
    new = [a if b is None else b for a, b in zip(old, (as_, length, index), strict=True)]
    return with_crc(changed(raw, 22 + 10 * number, struct.pack("<HII", *new)))


def rhythm_with(at: int, by: bytes) -> bytes:
    raw = SMALL.write()
    return with_crc(changed(raw, at_section(raw, 6) + 16 + at, by))


CONFLICT: Table = {"0": (1, 0, 0), "01": (1, 1, 0)}
REFUSALS: dict[str, tuple[bytes, Reason]] = {
    "gain 0": (written(avm=0), Reason.UNKNOWN_GAIN),
    "interval 0": (written(interval=0), Reason.UNKNOWN_RATE),
    "interval of 9 µs": (written(interval=9), Reason.UNKNOWN_RATE),
    "interval of 65 ms": (written(interval=65535), Reason.UNKNOWN_RATE),
    "no rhythm": (written(sections={6: None}), Reason.NO_RHYTHM),
    "no lead table": (written(sections={3: None}), Reason.MALFORMED),
    "no leads": (written(sections={3: bytes(2)}), Reason.MISSING_LEADS),
    "lead table empty": (written(sections={3: b""}), Reason.MALFORMED),
    "lead table ends early": (written(sections={3: table_of((1, 100, 1), n=9)}), Reason.MALFORMED),
    "no standard lead": (written(sections={3: table_of(*[(1, 100, 70)] * 8)}), Reason.MISSING_LEADS),
    "lead twice": (written(sections={3: table_with((1, 100, 2))}), Reason.DUPLICATE_LEAD),
    "leads of two lengths": (written(sections={3: table_with((1, 99, 8))}), Reason.MALFORMED),
    "leads of two starts": (written(sections={3: table_with((2, 101, 8))}), Reason.MALFORMED),
    "lead that ends before it begins": (written(sections={3: table_of((9, 1, 1))}), Reason.MALFORMED),
    "lead without samples": (written(sections={3: table_of((0, 0, 1))}), Reason.MALFORMED),
    "samples that no memory holds": (written(sections={3: table_of((1, 2**32 - 1, 1))}), Reason.MALFORMED),
    "samples that are not there": (
        written(sections={3: table_of(*[(1, 300, n + 1) for n in range(8)])}),
        Reason.CORRUPT_PAYLOAD,
    ),
    "samples that nobody declared": (
        written(sections={3: table_of(*[(1, 60, n + 1) for n in range(8)])}),
        Reason.CORRUPT_PAYLOAD,
    ),
    "plain samples that are not there": (
        written(coder="no table", sections={3: table_of(*[(1, 101, n + 1) for n in range(8)])}),
        Reason.CORRUPT_PAYLOAD,
    ),
    "encoding 3": (rhythm_with(4, b"\3"), Reason.MALFORMED),
    "bit stream longer than its section": (rhythm_with(6 + 14, b"\xff\x7f"), Reason.CORRUPT_PAYLOAD),
    "bit stream of no bytes": (rhythm_with(6, bytes(2)), Reason.CORRUPT_PAYLOAD),
    "rhythm without lengths": (written(sections={6: bytes(12)}), Reason.MALFORMED),
    "rhythm ends before its lengths": (written(sections={6: b"\1\0\1\0\0\0\0\0"}), Reason.MALFORMED),
    "coded samples and no table": (written(sections={2: None}), Reason.CORRUPT_PAYLOAD),
    "tables that conflict": (written(sections={2: section2([CONFLICT])}), Reason.MALFORMED),
    "table without codes": (written(sections={2: section2([{}])}), Reason.CORRUPT_PAYLOAD),
    "tables end early": (written(sections={2: section2(TWO_TABLES)[:-9]}), Reason.MALFORMED),
    "65 tables": (written(sections={2: section2([CONFLICT] * 65)}), Reason.MALFORMED),
    "switch to a table that is none": (
        written(sections={2: section2([{"0": (1, 0, 0), "1": (0, 2, 0)}])}),
        Reason.MALFORMED,
    ),
    "prefix without bits": (written(sections={2: struct.pack("<HHBBBhI", 1, 1, 0, 0, 1, 0, 0)}), Reason.MALFORMED),
    "prefix of 33 bits": (written(sections={2: struct.pack("<HHBBBhI", 1, 1, 33, 33, 1, 0, 0)}), Reason.MALFORMED),
    "code shorter than its prefix": (
        written(sections={2: struct.pack("<HHBBBhI", 1, 1, 2, 1, 1, 0, 0)}),
        Reason.MALFORMED,
    ),
    "pointer beyond the record": (pointed(6, index=10**9), Reason.MALFORMED),
    "pointer to nothing": (pointed(6, index=0), Reason.MALFORMED),
    "pointer to another section": (pointed(6, index=at_section(SMALL.write(), 3) + 1), Reason.MALFORMED),
    "section beyond the record": (pointed(6, length=2**32 - 1), Reason.MALFORMED),
    "section shorter than its header": (pointed(6, length=15), Reason.MALFORMED),
    "section shorter than it says": (pointed(6, length=40), Reason.MALFORMED),
    "section twice": (pointed(7, as_=6, length=20, index=7), Reason.MALFORMED),
    "no pointers": (with_crc(changed(SMALL.write(), 10, struct.pack("<I", 16))), Reason.MALFORMED),
    "section 0 that is not the first": (with_crc(changed(SMALL.write(), 8, b"\1")), Reason.MALFORMED),
    "section 0 beyond the record": (with_crc(changed(SMALL.write(), 10, b"\xff" * 4)), Reason.MALFORMED),
    "record ends early": (SMALL.write()[:-1], Reason.TRUNCATED),
    "record of less than it points to": (with_crc(changed(SMALL.write(), 2, struct.pack("<I", 500))), Reason.MALFORMED),
    "only the mark": (SMALL.write()[:22], Reason.TRUNCATED),
    "beat subtracted and no section 4": (beats_refused(section4=None), Reason.MALFORMED),
    "beat subtracted and no section 5": (beats_refused(section5=None), Reason.MALFORMED),
    "beat subtracted and no QRS": (beats_refused(section4=section4([], [])), Reason.MALFORMED),
    "section 4 ends in its header": (beats_refused(section4=b"\1\0\1\0"), Reason.MALFORMED),
    "section 4 ends in its QRS": (beats_refused(section4=section4()[:50]), Reason.MALFORMED),
    "zones without end": (beats_refused(section4=section4([(0, 1, 15, 2**32 - 1)] * 9, [])), Reason.MALFORMED),
    "beat without samples": (beats_refused(section4=section4(ms=0)), Reason.CORRUPT_PAYLOAD),
    "beat longer than its stream": (beats_refused(section4=section4(ms=65535)), Reason.MALFORMED),
    "beat without gain": (beats_refused(section5=samples([b"", b""], avm=0, interval=2000, order=0)), Reason.MALFORMED),
    "beat without rate": (beats_refused(section5=samples([b"", b""], avm=1, interval=0, order=0)), Reason.MALFORMED),
    "another rate that is not bimodal": (beats_refused(interval=4000), Reason.MALFORMED),
    "a rate that no factor gives": (beats_refused(interval=5000, bimodal=1), Reason.MALFORMED),
    "bimodal and no protected zones": (
        beats_refused(interval=8000, bimodal=1, rest=[SHORT] * 2, section4=section4(protected=[])),
        Reason.MALFORMED,
    ),
    "bimodal and protected zones that overlap": (
        beats_refused(interval=8000, bimodal=1, rest=[SHORT] * 2, section4=section4(protected=[(5, 50)] * 4)),
        Reason.MALFORMED,
    ),
    "bimodal and all samples stored": (
        beats_refused(interval=8000, bimodal=1, rest=[[0, 9] * 105] * 2),
        Reason.CORRUPT_PAYLOAD,
    ),
    "sums beyond int32": (
        beats_refused(
            avm=65535,
            rest=np.full((2, 210), 32767),
            section5=samples(
                [stream([32767] * LENGTH, CODERS["default table"], 0)] * 2, avm=65534, interval=2000, order=0
            ),
        ),
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_record_that_cannot_be_trusted_is_refused_for(case):
    raw, reason = REFUSALS[case]

    assert refusal(raw) == reason


# Damage.


def outcome(raw: bytes) -> Record | RecordError:
    try:
        return decode(raw)
    except RecordError as defect:
        return defect


@pytest.mark.parametrize("coder", CODERS)
def test_a_file_cut_at_every_tenth_byte_is_a_reject(coder):
    raw = written(coder=coder)
    found = {n: outcome(raw[:n]) for n in range(0, len(raw), 10)}
    reasons = {n: found[n].reason if isinstance(found[n], RecordError) else None for n in found}

    assert set(reasons.values()) == {Reason.EMPTY, Reason.UNKNOWN_FORMAT, Reason.TRUNCATED}
    assert {n for n, reason in reasons.items() if reason == Reason.UNKNOWN_FORMAT} == {10, 20}


CRCS = [SMALL.write(), compressed(REST, BEAT).write(), compressed([SHORT] * 2, BEAT, interval=8000, bimodal=1).write()]


def without_crcs(raw: bytes) -> bytes:
    raw = changed(raw, 0, bytes(2))
    for number in contents(raw):
        raw = changed(raw, 6 if number == 0 else at_section(raw, number), bytes(2))
    return raw


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=200)
@given(flips=FLIPS, raw=st.sampled_from([*CRCS, *map(without_crcs, CRCS)]), in_header=st.booleans())
def test_wrong_bytes_end_as_a_record_or_its_defect(flips, raw, in_header):
    damaged = bytearray(raw)
    for share, value in flips:
        damaged[int(share * (min(len(raw), 700) if in_header else len(raw)))] = value
    found = outcome(bytes(damaged))

    if isinstance(found, Record):
        assert found.counts.size <= 8 * len(raw)
    else:
        assert found.reason in Reason
        assert "\n" not in found.detail


@settings(deadline=None, max_examples=100)
@given(at=st.integers(0, len(SMALL.write()) - 1), bit=st.integers(0, 7))
def test_one_wrong_bit_ends_as_the_same_ecg_or_a_reject(at, bit):
    raw = bytearray(SMALL.write())
    raw[at] ^= 1 << bit
    found = outcome(bytes(raw))

    assert isinstance(found, RecordError) or np.array_equal(found.counts, ECG.counts)


def test_nothing_that_names_a_patient_is_read():
    everything = repr(decode(SMALL.write())) + repr(outcome(written(avm=0))) + repr(outcome(SMALL.write()[:-1]))

    assert not re.findall("|".join(secret.decode() for secret in SECRETS) + "|1901|serial", everything)
