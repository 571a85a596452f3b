"""WFDB: every signal format and layout is read as the WFDB library reads it, and nothing is guessed."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INDEPENDENT_LEADS, INVALID, LEADS, Reason, Record

wfdb = pytest.importorskip("wfdb")


def decode(files: Mapping[str, bytes], header: str = "r.hea") -> Record:
    def sibling(name: str) -> bytes:
        if name not in files:
            raise RecordError(Reason.MISSING_SIGNAL, "no such file")
        return files[name]

    return formats.decode(files[header], header, sibling)


def refusal(files: Mapping[str, bytes]) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(files)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.stem.startswith(name)}


def millivolts(record: Record) -> np.ndarray:
    """(lead, time) in mV, NaN where a sample is missing."""
    nv = waveform.nanovolts(record, record.leads)
    return np.where(nv == INVALID, np.nan, nv * 1e-6)


def relabelled(header: bytes) -> bytes:
    """A header whose signals are called I, II, III, …, in millivolts, whatever they are in truth."""
    lines = header.decode("latin-1").splitlines()
    signals = [line.split(None, 8) for line in lines[1:] if line.strip() and not line.startswith("#")]
    for lead, fields in zip(LEADS, signals, strict=False):
        fields[2] = re.sub("/.*", "", fields[2]) + "/mV"
        fields[8] = lead
    return "\n".join([lines[0], *(" ".join(fields) for fields in signals)]).encode()


SAMPLES = {
    "E07500": "mat",
    "HR06000": "mat in mv",
    "JS20000": "mat",
    "a103l": "mat, mixed units",
    "binformats": "8 16 61 80 160 212 310 311 24 32",
    "flacformats": "508 516 524",
    "310derive": "310",
    "311derive": "311",
    "s0010_re": "two files",
    "test01_00s": "16",
    "v102s": "212 with missing samples",
}


@pytest.mark.parametrize("name", SAMPLES, ids=[f"{name}: {what}" for name, what in SAMPLES.items()])
def test_a_real_record_is_read_as_wfdb_python_reads_it(data, tmp_path, name):
    files = files_of(data / "formats" / "samples" / "wfdb", name)
    files[f"{name}.hea"] = relabelled(files[f"{name}.hea"])
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    record = decode(files, f"{name}.hea")
    expected = wfdb.rdrecord(str(tmp_path / name))

    assert record.fs_hz == expected.fs
    assert record.leads == tuple(label for label in expected.sig_name if label in LEADS)
    n_leads = len(record.leads)
    limit = 2147.483647  # an int32 of nanovolts: 24 and 32 bits hold more than any heart
    assert_allclose(millivolts(record), expected.p_signal.T[:n_leads].clip(-limit, limit), rtol=0, atol=1.1e-6)


def test_a_real_record_of_several_rates_is_read_at_the_rate_of_its_leads(data):
    folder = data / "formats" / "samples" / "wfdb"
    record = decode(files_of(folder, "mixedsignals"), "mixedsignals.hea")
    expected = wfdb.rdrecord(str(folder / "mixedsignals"), smooth_frames=False, physical=False)

    assert record.fs_hz == pytest.approx(4 * 62.4725)
    assert record.leads == ("II", "III")
    assert_array_equal(record.counts, np.stack(expected.e_d_signal[:2]))


def test_leads_that_are_no_standard_ones_are_left_alone(data):
    record = decode(files_of(data / "formats" / "samples" / "wfdb", "s0010_re"), "s0010_re.hea")

    assert record.leads == LEADS


def test_a_missing_companion_without_a_standard_lead_does_not_matter(data):
    files = files_of(data / "formats" / "samples" / "wfdb", "s0010_re")
    del files["s0010_re.xyz"]

    assert decode(files, "s0010_re.hea").leads == LEADS


@pytest.fixture
def twelve() -> Record:
    """Twelve leads in ±9 bits, so that every format can hold them."""
    made = synth.record(seed=3, leads=LEADS, seconds=5.002, uv_per_count=20)
    return replace(made, counts=made.counts.clip(-511, 511))


FORMATS = [(fmt, "dat", 1) for fmt in synth.SAMPLE_BITS if fmt != 80]


@pytest.mark.parametrize(("fmt", "container", "n_files"), [*FORMATS, (16, "mat", 1), (16, "dat", 3), (212, "dat", 5)])
def test_what_is_written_in_a_format_is_read_back(twelve, fmt, container, n_files):
    record = decode(synth.wfdb_files(twelve, "r", fmt=fmt, container=container, n_files=n_files))

    assert_array_equal(record.counts, twelve.counts)
    assert (record.leads, record.fs_hz, record.uv_per_count) == (LEADS, 500.0, (20.0,) * 12)


def test_format_80_is_read_back(twelve):
    small = replace(twelve, counts=twelve.counts.clip(-127, 127))

    assert_array_equal(decode(synth.wfdb_files(small, "r", fmt=80)).counts, small.counts)


def test_format_8_sums_up_its_differences(twelve):
    counts = np.cumsum(np.tile([3, -2, 100, -100, 0, 1], (12, 500)), axis=1)
    head = "r 12 500 3000\n" + "".join(
        f"r.dat 8 50/mV 16 0 7 {(int(c.sum()) + 7 * 3000) % 65536} 0 {lead}\n"
        for c, lead in zip(counts, LEADS, strict=True)
    )
    differences = np.diff(counts, axis=1, prepend=0).astype(np.int8)
    record = decode({"r.hea": head.encode(), "r.dat": differences.T.tobytes()})

    assert_array_equal(record.counts, counts + 7)


@pytest.mark.parametrize("fmt", [16, 24, 32, 61, 160, 212, 310, 311])
def test_the_most_negative_count_is_a_missing_sample(twelve, fmt):
    counts = twelve.counts.astype(np.int32)
    counts[2, 100:110] = -(2 ** (synth.SAMPLE_BITS[fmt] - 1))
    record = decode(synth.wfdb_files(replace(twelve, counts=counts), "r", fmt=fmt))
    missing = waveform.nanovolts(record, LEADS) == INVALID

    assert_array_equal(np.argwhere(missing), [[2, t] for t in range(100, 110)])


def test_files_of_different_formats_keep_their_missing_samples(twelve):
    counts = twelve.counts.copy()
    counts[0, 5], counts[11, 6] = -2048, -32768
    low, high = slice(0, 6), slice(6, 12)
    parts = [
        synth.wfdb_files(rows_of(replace(twelve, counts=counts), low), "a", fmt=212),
        synth.wfdb_files(rows_of(replace(twelve, counts=counts), high), "b", fmt=16),
    ]
    lines = [line for part in parts for line in part[next(iter(part))].decode().splitlines() if ".dat" in line]
    head = "\n".join([f"r 12 500 {twelve.n_samples}", *lines])
    record = decode({"r.hea": head.encode(), "a.dat": parts[0]["a.dat"], "b.dat": parts[1]["b.dat"]})
    missing = waveform.nanovolts(record, LEADS) == INVALID

    assert_array_equal(np.argwhere(missing), [[0, 5], [11, 6]])
    assert_array_equal(record.counts[~missing], counts[~missing])


def rows_of(record: Record, rows: slice) -> Record:
    return replace(
        record,
        leads=record.leads[rows],
        counts=record.counts[rows],
        uv_per_count=record.uv_per_count[rows],
        zero_counts=record.zero_counts[rows],
    )


def two_leads(gain: str = "200/mV", *, adc_zero: int = 0, fmt: str = "16", head: str = "r 2 500 4") -> dict[str, bytes]:
    """A header and a signal file of leads I (1 2 3 4) and II (-1 -2 -3 -4)."""
    samples = np.array([[1, -1], [2, -2], [3, -3], [4, -4]], "<i2").tobytes()
    lines = "".join(
        f"r.dat {fmt} {gain} 16 {adc_zero} 0 {total} 0 {lead}\n" for lead, total in (("I", 10), ("II", -10))
    )
    return {"r.hea": f"{head}\n{lines}".encode(), "r.dat": samples}


@pytest.mark.parametrize(
    ("gain", "adc_zero", "uv_per_count", "zero_count"),
    [
        ("200", 0, 5.0, 0.0),
        ("200/mV", 0, 5.0, 0.0),
        ("200(100)/mV", 0, 5.0, 100.0),
        ("200(-7)", 1024, 5.0, -7.0),
        ("200/mV", 1024, 5.0, 1024.0),
        ("200(0)/mV", 1024, 5.0, 0.0),
        ("0.2/uV", 0, 5.0, 0.0),
        ("0.2/µV", 0, 5.0, 0.0),
        ("2e5/V", 0, 5.0, 0.0),
        ("1.0000e+03(12)/mv", 0, 1.0, 12.0),
    ],
)
def test_gain_baseline_and_unit_are_the_headers(gain, adc_zero, uv_per_count, zero_count):
    record = decode(two_leads(gain, adc_zero=adc_zero))

    assert record.uv_per_count == pytest.approx((uv_per_count,) * 2)
    assert record.zero_counts == (zero_count,) * 2


def test_a_skewed_signal_is_shifted_as_wfdb_python_shifts_it(tmp_path):
    files = two_leads(head="r 2 500 4")
    files["r.hea"] = files["r.hea"].replace(b"r.dat 16 ", b"r.dat 16:1 ", 1)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    record = decode(files)
    expected = wfdb.rdrecord(str(tmp_path / "r"), physical=False).d_signal.T

    assert_array_equal(record.counts, expected[:, : record.n_samples])
    assert record.counts.tolist() == [[2, 3, 4], [-1, -2, -3]]


def test_a_frame_of_several_samples_holds_those_of_one_signal_and_then_of_the_next():
    samples = np.array([1, 2, -1, -2, 3, 4, -3, -4], "<i2").tobytes()
    record = decode({**two_leads(fmt="16x2", head="r 2 250 2"), "r.dat": samples})

    assert record.fs_hz == 500
    assert record.counts.tolist() == [[1, 2, 3, 4], [-1, -2, -3, -4]]


def test_a_signal_file_may_begin_with_a_preamble_of_its_own():
    files = two_leads(fmt="16+24")

    assert decode({**files, "r.dat": b"\x1e" * 24 + files["r.dat"]}).counts[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("fmt", [16, 24, 32, 61, 160, 212, 310, 311])
def test_without_a_sample_count_the_signal_file_says_how_many_there_are(twelve, fmt):
    files = synth.wfdb_files(twelve, "r", fmt=fmt)
    files["r.hea"] = re.sub(rb"^(r 12 500) .*", rb"\1", files["r.hea"])

    assert_array_equal(decode(files).counts, twelve.counts)


def test_a_line_ends_where_a_text_file_ends_it_and_nowhere_else(twelve):
    files = synth.wfdb_files(twelve, "r")
    files["r.hea"] = "# a\x0cb\x1cc\x85d\u2028r 1 250 9\n".encode() + files["r.hea"]

    assert_array_equal(decode(files).counts, twelve.counts)


def test_comments_blank_lines_and_crlf_change_nothing(twelve):
    files = synth.wfdb_files(twelve, "r")
    first, rest = files["r.hea"].split(b"\n", 1)
    files["r.hea"] = b"\r\n".join([b"# before", b"", first, b"# between", b"  ", *rest.split(b"\n")])

    assert_array_equal(decode(files).counts, twelve.counts)


@pytest.mark.parametrize(
    ("start", "moment"),
    [
        ("10:20:30 29/02/2024", datetime(2024, 2, 29, 10, 20, 30)),
        ("10:20:30.250 29/02/2024", datetime(2024, 2, 29, 10, 20, 30, 250_000)),
        ("10:20:30", None),
        ("10:20:30 30/02/2024", None),
        ("now", None),
        ("10:20:30 28/02/24", None),
        ("10:20:30 28/02/" + "9" * 25, None),
        ("9" * 5000 + ":20:30 28/02/2024", None),
        ("10:20:30." + "9" * 5000 + " 28/02/2024", datetime(2024, 2, 28, 10, 20, 30, 999_999)),
    ],
)
def test_the_moment_is_known_only_with_its_date(start, moment):
    assert decode(two_leads(head=f"r 2 500 4 {start}")).acquired_at == moment


@pytest.mark.parametrize("rate", ["500/1000", "500/1000(5)", "5e2", "500.0"])
def test_the_rate_is_that_of_the_frames_not_of_a_counter(rate):
    assert decode(two_leads(head=f"r 2 {rate} 4")).fs_hz == 500


def test_an_int16_file_is_a_view_of_its_bytes(twelve):
    files = synth.wfdb_files(twelve, "r")

    assert np.shares_memory(decode(files).counts, np.frombuffer(files["r.dat"], np.uint8))


def edited(pattern: str, by: str, count: int = 1, **base: str) -> dict[str, bytes]:
    files = two_leads(**base)
    head, n = re.subn(pattern, by, files["r.hea"].decode(), count=count, flags=re.MULTILINE)
    assert n, pattern
    return {**files, "r.hea": head.encode()}


REFUSALS: dict[str, tuple[dict[str, bytes], Reason]] = {
    "gain 0": (two_leads("0/mV"), Reason.UNKNOWN_GAIN),
    "gain and name absent": ({**two_leads(), "r.hea": b"r 2 500 4\nr.dat 16\nr.dat 16\n"}, Reason.MISSING_LEADS),
    "gain negative": (two_leads("-200/mV"), Reason.UNKNOWN_GAIN),
    "gain infinite": (two_leads("1e400/mV"), Reason.UNKNOWN_GAIN),
    "gain that overflows": (two_leads("1e-320/mV"), Reason.UNKNOWN_GAIN),
    "gain beyond a volt a count": (two_leads("1e-12/mV"), Reason.UNKNOWN_GAIN),
    "gain beyond any resolution": (two_leads("1e300/mV"), Reason.UNKNOWN_GAIN),
    "baseline without end": (two_leads("200(" + "9" * 5000 + ")/mV"), Reason.MALFORMED),
    "gain a word": (two_leads("gain/mV"), Reason.MALFORMED),
    "unit not volts": (two_leads("200/mmHg"), Reason.UNKNOWN_GAIN),
    "unit before baseline": (two_leads("200/mV(100)"), Reason.UNKNOWN_GAIN),
    "baseline beyond any sample": (two_leads(f"200({'9' * 400})/mV"), Reason.MALFORMED),
    "ADC zero beyond any sample": (two_leads(adc_zero=10**400), Reason.MALFORMED),
    "initial value beyond any sample": (edited(" 0 0 10 ", f" 0 {10**30} 10 ", fmt="8"), Reason.MALFORMED),
    "rate 0": (two_leads(head="r 2 0 4"), Reason.UNKNOWN_RATE),
    "rate absent": (two_leads(head="r 2"), Reason.UNKNOWN_RATE),
    "rate tiny": (two_leads(head="r 2 1e-300 4"), Reason.UNKNOWN_RATE),
    "rate huge": (two_leads(head="r 2 1e300 4"), Reason.UNKNOWN_RATE),
    "rate no number": (two_leads(head="r 2 ..e 4"), Reason.UNKNOWN_RATE),
    "rate huge by its frames": (
        edited(" -?10 0 I", " 0 0 I", 2, fmt="16x4", head="r 2 90000 1"),
        Reason.UNKNOWN_RATE,
    ),
    "signal file missing": ({"r.hea": two_leads()["r.hea"]}, Reason.MISSING_SIGNAL),
    "signal file short": ({**two_leads(), "r.dat": two_leads()["r.dat"][:-1]}, Reason.TRUNCATED),
    "signal file empty": ({**two_leads(), "r.dat": b""}, Reason.TRUNCATED),
    "signal file empty, count absent": ({**two_leads(head="r 2 500"), "r.dat": b""}, Reason.TRUNCATED),
    "samples no file holds": (two_leads(head="r 2 500 9223372036854775807"), Reason.UNKNOWN_FORMAT),
    "samples no memory holds": (two_leads(head="r 2 500 999999999999999"), Reason.TRUNCATED),
    "checksum wrong": (edited(" 10 0 I$", " 11 0 I"), Reason.CHECKSUM),
    "signal line gone": (edited(r"^.* II\n", ""), Reason.TRUNCATED),
    "signal lines without format": (edited(r"^r.dat .*$", "r.dat"), Reason.MALFORMED),
    "no signals": ({"r.hea": b"r 0 500 4\n"}, Reason.MISSING_LEADS),
    "format unknown": (two_leads(fmt="17"), Reason.MALFORMED),
    "format beyond int32": (two_leads(fmt="999999999"), Reason.MALFORMED),
    "format no number": (two_leads(fmt="sixteen"), Reason.MALFORMED),
    "no samples a frame": (two_leads(fmt="16x0"), Reason.MALFORMED),
    "offset beyond the file": (two_leads(fmt="16+999"), Reason.TRUNCATED),
    "offset beyond the file, count absent": (two_leads(fmt="16+999", head="r 2 500"), Reason.TRUNCATED),
    "skew beyond the record": (two_leads(fmt="16:4"), Reason.TRUNCATED),
    "formats mixed in a file": (edited("r.dat 16 ", "r.dat 61 "), Reason.MALFORMED),
    "lead twice": (edited("II$", "I"), Reason.DUPLICATE_LEAD),
    "no standard lead": (edited("II?$", "ABP", 2), Reason.MISSING_LEADS),
    "leads of two rates": (edited("r.dat 16 ", "r.dat 16x2 "), Reason.MALFORMED),
    "above the folder": (edited("^r.dat", "../r.dat", 2), Reason.MALFORMED),
    "absolute path": (edited("^r.dat", "/etc/passwd", 2), Reason.MALFORMED),
    "path in another system's style": (edited("^r.dat", r"..\\\\r.dat", 2), Reason.MALFORMED),
    "parent folder": (edited("^r.dat", "..", 2), Reason.MALFORMED),
    "no file": (edited("^r.dat", "~", 2), Reason.MALFORMED),
    "several segments": ({"r.hea": b"r/2 2 500 8\na 4\nb 4\n"}, Reason.NO_RHYTHM),
    "FLAC signals of different rates": (
        {
            **two_leads(fmt="516"),
            "r.hea": b"r 2 500 4\nr.dat 516x2 200/mV 16 0 0 0 0 x\nr.dat 516 200/mV 16 0 0 0 0 I\n",
        },
        Reason.MALFORMED,
    ),
    "FLAC that is none": (two_leads(fmt="516"), Reason.CORRUPT_PAYLOAD),
    "counter of signals beyond all": (two_leads(head="r 999999999 500 4"), Reason.TRUNCATED),
    "digits without end": ({"r.hea": b"r " + b"9" * 5000 + b" 500 4\n"}, Reason.UNKNOWN_FORMAT),
    "text": ({"r.hea": b"Dear colleague,\nplease find enclosed"}, Reason.UNKNOWN_FORMAT),
    "junk": ({"r.hea": bytes(range(256))}, Reason.UNKNOWN_FORMAT),
    "empty": ({"r.hea": b""}, Reason.EMPTY),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_record_that_cannot_be_trusted_is_refused_for(case):
    files, reason = REFUSALS[case]

    assert refusal(files) == reason


def test_a_file_named_again_after_another_is_refused(twelve):
    files = synth.wfdb_files(twelve, "r", n_files=3)
    head = files["r.hea"].replace(b"r_2.dat", b"r_0.dat")

    assert refusal({**files, "r.hea": head}) == Reason.MALFORMED


@pytest.mark.parametrize("length", [0, 4, 100, 600, 880])
def test_a_flac_file_that_ends_early_is_refused(data, length):
    files = files_of(data / "formats" / "samples" / "wfdb", "flacformats")
    files["flacformats.hea"] = relabelled(files["flacformats.hea"])
    files["flacformats.d1"] = files["flacformats.d1"][:length]

    with pytest.raises(RecordError) as defect:
        decode(files, "flacformats.hea")
    assert defect.value.reason in (Reason.CORRUPT_PAYLOAD, Reason.TRUNCATED, Reason.CHECKSUM)


def test_independent_leads_in_any_order_are_taken_by_their_labels():
    made = synth.record(seed=5)
    order = [3, 7, 0, 1, 2, 6, 5, 4]
    shuffled = replace(made, leads=tuple(INDEPENDENT_LEADS[i] for i in order), counts=made.counts[order])
    record = decode(synth.wfdb_files(shuffled, "r"))

    assert_array_equal(waveform.nanovolts(record, LEADS), waveform.nanovolts(made, LEADS))
