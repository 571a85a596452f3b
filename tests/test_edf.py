"""EDF and BDF: every sample, gain and rate is the file's own, in whatever data records it lies."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ecgbatch import _kernels, formats, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, Reason, Record


@dataclass(frozen=True)
class Signal:
    label: str
    counts: np.ndarray
    """(record, sample)"""
    unit: str = "uV"
    physical: tuple[object, object] = (-3276.8, 3276.7)
    digital: tuple[object, object] = (-32768, 32767)


@dataclass(frozen=True)
class File:
    signals: tuple[Signal, ...]
    width: int = 2
    version: bytes = b"0       "
    patient: bytes = b"SECRET-ID F 01-JAN-1950 Secret_Name"
    recording: bytes = b"Startdate 29-FEB-2024 SECRET-ID Secret_Name Cart"
    date: bytes = b"29.02.24"
    time: bytes = b"23.59.58"
    reserved: bytes = b""
    duration: object = 0.5
    n_records: object = None
    header_bytes: object = None
    n_signals: object = None
    per_record: dict[int, object] = field(default_factory=dict)

    def __bytes__(self) -> bytes:
        n_records = len(self.signals[0].counts)
        fixed = (
            (self.version, 8),
            (self.patient, 80),
            (self.recording, 80),
            (self.date, 8),
            (self.time, 8),
            (256 * (len(self.signals) + 1) if self.header_bytes is None else self.header_bytes, 8),
            (self.reserved, 44),
            (n_records if self.n_records is None else self.n_records, 8),
            (self.duration, 8),
            (len(self.signals) if self.n_signals is None else self.n_signals, 4),
        )
        columns = (
            ([s.label for s in self.signals], 16),
            (["electrode"] * len(self.signals), 80),
            ([s.unit for s in self.signals], 8),
            ([s.physical[0] for s in self.signals], 8),
            ([s.physical[1] for s in self.signals], 8),
            ([s.digital[0] for s in self.signals], 8),
            ([s.digital[1] for s in self.signals], 8),
            ([""] * len(self.signals), 80),
            ([self.per_record.get(i, s.counts.shape[1]) for i, s in enumerate(self.signals)], 8),
            ([""] * len(self.signals), 32),
        )
        padded = [padded_to(value, n) for value, n in fixed]
        padded += [padded_to(value, n) for values, n in columns for value in values]
        data = [self.samples(s.counts[r]) for r in range(n_records) for s in self.signals]
        return b"".join(padded + data)

    def samples(self, counts: np.ndarray) -> bytes:
        if self.width == 2:
            return counts.astype("<i2").tobytes()
        return counts.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def padded_to(value: object, n: int) -> bytes:
    text = value if isinstance(value, bytes) else str(value).encode("latin-1")
    assert len(text) <= n, value
    return text.ljust(n)


def made(n_records: int = 4, per_record: int = 250, leads: tuple[str, ...] = LEADS, **changes: object) -> File:
    rng = np.random.default_rng(5)
    counts = rng.integers(-2000, 2000, (len(leads), n_records, per_record))
    return replace(File(tuple(map(Signal, leads, counts))), **changes)


BDF = {"width": 3, "version": b"\xffBIOSEMI", "reserved": b"24BIT"}


def times(onsets: list[bytes]) -> Signal:
    """The annotation signal of a file whose data records start at those times."""
    rows = [(onset + b"\x14\x14\0").ljust(16, b"\0") for onset in onsets]
    return Signal("EDF Annotations", np.frombuffer(b"".join(rows), "<i2").reshape(len(onsets), 8), unit="")


def with_times(file: File, *onsets: bytes, reserved: bytes = b"EDF+D") -> File:
    return replace(file, signals=(*file.signals[:3], times(list(onsets)), *file.signals[3:]), reserved=reserved)


def decode(file: File | bytes) -> Record:
    return formats.decode(bytes(file), "ecg.edf", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"an EDF file has no sibling, asked for {name!r}")


def refusal(file: File | bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(file)
    assert "\n" not in defect.value.detail
    assert "secret" not in defect.value.detail.lower()
    return Reason(defect.value.reason)


def counts_of(file: File) -> np.ndarray:
    return np.stack([signal.counts.ravel() for signal in file.signals if signal.label in LEADS])


@pytest.mark.parametrize("kind", ["Edf", "Bdf"])
@pytest.mark.parametrize("record_s", [1.0, 0.002, 0.01, 2.5])
def test_what_edfio_writes_is_read_as_edfio_reads_it(tmp_path, kind, record_s):
    edfio = pytest.importorskip("edfio")
    uv = np.random.default_rng(3).normal(0, 400, (12, 2500))
    signals = [
        getattr(edfio, f"{kind}Signal")(row, 500, label=lead, physical_dimension="uV", physical_range=(-3000, 3100 + i))
        for i, (lead, row) in enumerate(zip(LEADS, uv, strict=True))
    ]
    getattr(edfio, kind)(signals, data_record_duration=record_s).write(tmp_path / "ecg")
    expected = getattr(edfio, f"read_{kind.lower()}")(tmp_path / "ecg")
    record = decode((tmp_path / "ecg").read_bytes())

    assert (record.format, record.fs_hz, record.leads) == (kind.lower(), 500.0, LEADS)
    assert_array_equal(record.counts, np.stack([signal.digital for signal in expected.signals]))
    gain, zero = np.array(record.uv_per_count)[:, None], np.array(record.zero_counts)[:, None]
    assert_allclose((record.counts - zero) * gain, np.stack([signal.data for signal in expected.signals]), atol=1e-6)


def test_the_annotations_of_a_real_file_are_no_lead(data):
    raw = (data / "formats" / "samples" / "edf" / "test_edfann.edf").read_bytes()

    assert refusal(raw) == Reason.MISSING_LEADS


@pytest.mark.parametrize("changes", [{}, BDF], ids=["16 bits", "24 bits"])
@pytest.mark.parametrize(("n_records", "per_record"), [(1, 1000), (1000, 1), (125, 8), (10, 100)])
def test_samples_are_gathered_from_any_data_records(changes, n_records, per_record):
    file = made(n_records, per_record, duration=per_record / 500, **changes)
    record = decode(file)

    assert record.fs_hz == 500
    assert_array_equal(record.counts, counts_of(file))


def test_samples_of_24_bits_keep_their_sign_and_all_their_bits():
    counts = np.array([[-(2**23), -1, 0, 1, 2**23 - 1, 65536]])
    file = File((Signal("I", counts, digital=(-(2**23), 2**23 - 1)),), duration=0.012, **BDF)

    assert decode(file).counts.tolist() == counts.tolist()


@pytest.mark.parametrize(
    ("label", "lead"),
    [
        ("I", "I"),
        ("avr", "aVR"),
        ("ECG V1", "V1"),
        ("EKG aVF", "aVF"),
        ("ECG_II", "II"),
        ("II-Ref", "II"),
        ("ECG V2-REF", "V2"),
        ("Lead III", "III"),
        ("ECG Lead V6", "V6"),
        ("ECG", None),
        ("ECG1", None),
        ("ECG I-II", None),
        ("EEG I", None),
        ("I Resp", None),
        ("V7", None),
        ("V1-V2", None),
        ("II+III", None),
    ],
)
def test_a_label_is_a_lead_only_where_it_can_be_nothing_else(label, lead):
    file = made(leads=("V5", "x"))
    other = decode(replace(file, signals=(file.signals[0], replace(file.signals[1], label=label))))

    assert other.leads == (("V5", lead) if lead else ("V5",))


def test_other_channels_of_any_rate_are_left_alone():
    file = made()
    resp = Signal("Resp", np.full((4, 25), 7), unit="Ohm")
    status = Signal("Status", np.full((4, 1), 9), unit="", physical=("x", "y"))

    assert_array_equal(decode(replace(file, signals=(resp, *file.signals, status))).counts, counts_of(file))


@pytest.mark.parametrize(
    ("unit", "physical", "digital", "gain_uv", "zero"),
    [
        ("uV", (-3276.8, 3276.7), (-32768, 32767), 0.1, 0),
        ("mV", (-5, 5), (-1000, 1000), 5, 0),
        ("V", ("-.005", ".005"), (-1000, 1000), 5, 0),
        ("nV", (-5000, 5000), (-1000, 1000), 0.005, 0),
        ("\xb5V", (0, 100), (0, 100), 1, 0),
        ("UV", (-10, 90), (0, 100), 1, 10),
        ("uV", ("1e1", "1.1e2"), (0, 100), 1, -10),
    ],
)
def test_gain_and_zero_are_the_line_through_the_ranges(unit, physical, digital, gain_uv, zero):
    made_of = Signal("II", np.ones((4, 250)), unit, physical, digital)
    record = decode(File((made_of,)))

    assert record.uv_per_count == pytest.approx((gain_uv,))
    assert record.zero_counts == pytest.approx((zero,), abs=1e-9)


def test_a_lead_stored_upside_down_is_turned_over():
    upside_down = Signal("II", np.array([[-32768, 0, 100, 32767]]), physical=(100, -100), digital=(-1000, 1000))
    file = File((upside_down, replace(upside_down, label="I", physical=(-100, 100))), duration=0.008)
    nv = waveform.nanovolts(decode(file), ("I", "II"))

    assert_array_equal(nv[0], np.array([-32768, 0, 100, 32767]) * 100)
    assert_array_equal(nv[1], -nv[0])


@pytest.mark.parametrize(
    ("changes", "moment"),
    [
        ({}, datetime(2024, 2, 29, 23, 59, 58)),
        ({"recording": b"Startdate 29-feb-2024"}, datetime(2024, 2, 29, 23, 59, 58)),
        ({"recording": b"Startdate 01-JAN-1901 X X X"}, datetime(1901, 1, 1, 23, 59, 58)),
        ({"recording": b"Startdate 01-JAN-0101 X X X"}, None),
        ({"recording": b"Startdate X X X X"}, None),
        ({"recording": b"Startdate 30-FEB-2024 X X X"}, None),
        ({"recording": b"room 5"}, datetime(2024, 2, 29, 23, 59, 58)),
        ({"recording": b"", "date": b"01.01.85"}, None),
        ({"recording": b"", "date": b"02.01.85"}, datetime(1985, 1, 2, 23, 59, 58)),
        ({"recording": b"", "date": b"31.12.84"}, datetime(2084, 12, 31, 23, 59, 58)),
        ({"recording": b"", "date": b"1.2"}, None),
        ({"time": b"23:59:58"}, None),
        ({"time": b"24.00.00"}, None),
    ],
)
def test_the_start_is_the_stated_date_and_time_or_unknown(changes, moment):
    assert decode(made(**changes)).acquired_at == moment


@pytest.mark.parametrize("reserved", [b"EDF+C", b"EDF+D"])
def test_data_records_that_follow_each_other_are_one_recording(reserved):
    file = with_times(made(), b"+0", b"+0.5", b"+1.0", b"+1.5", reserved=reserved)

    assert_array_equal(decode(file).counts, counts_of(file))


def test_a_recording_may_start_at_any_time():
    file = with_times(made(), b"-0.25", b"+0.25", b"+.75", b"+1.25")

    assert decode(file).n_samples == 1000


REFUSALS: dict[str, tuple[Callable[[], object], Reason]] = {
    "gap": (lambda: with_times(made(), b"+0", b"+0.5", b"+1.002", b"+1.502"), Reason.INVALID_SAMPLES),
    "overlap": (lambda: with_times(made(), b"+0", b"+0.25", b"+0.5", b"+0.75"), Reason.INVALID_SAMPLES),
    "time missing": (lambda: with_times(made(), b"+0", b"", b"+1", b"+1.5"), Reason.MALFORMED),
    "time without sign": (lambda: with_times(made(), b"0", b"+.5", b"+1", b"+1.5"), Reason.MALFORMED),
    "time beyond numbers": (lambda: with_times(made(), b"+1e999", b"+.5", b"+1", b"+1.5"), Reason.MALFORMED),
    "discontinuous without annotations": (lambda: made(reserved=b"EDF+D"), Reason.MALFORMED),
    "no lead": (lambda: made(leads=("x", "y")), Reason.MISSING_LEADS),
    "lead twice": (lambda: made(leads=("I", "ECG I")), Reason.DUPLICATE_LEAD),
    "never closed": (lambda: replace(made(), n_records=-1), Reason.TRUNCATED),
    "no records": (lambda: replace(made(), n_records=0), Reason.MALFORMED),
    "half a record": (lambda: replace(made(), n_records=1.5), Reason.MALFORMED),
    "more records stated": (lambda: replace(made(), n_records=5), Reason.TRUNCATED),
    "fewer records stated": (lambda: replace(made(), n_records=3), Reason.MALFORMED),
    "records beyond any file": (lambda: replace(made(), n_records="2e9"), Reason.TRUNCATED),
    "samples beyond any file": (lambda: replace(made(), per_record=dict.fromkeys(range(12), 40_000)), Reason.TRUNCATED),
    "samples beyond any number": (lambda: replace(made(), per_record={3: "1e200"}), Reason.MALFORMED),
    "no samples": (lambda: replace(made(), per_record={3: 0}), Reason.MALFORMED),
    "negative samples": (lambda: replace(made(leads=("I", "x")), per_record={1: -1}), Reason.MALFORMED),
    "samples a word": (lambda: replace(made(), per_record={3: "many"}), Reason.MALFORMED),
    "two rates": (lambda: replace(made(), per_record={3: 125}), Reason.MALFORMED),
    "header size wrong": (lambda: replace(made(), header_bytes=256), Reason.MALFORMED),
    "no signals": (lambda: replace(made(), n_signals=0, header_bytes=256), Reason.MALFORMED),
    "signals a word": (lambda: replace(made(), n_signals="?"), Reason.MALFORMED),
    "duration 0": (lambda: replace(made(), duration=0), Reason.UNKNOWN_RATE),
    "duration absent": (lambda: replace(made(), duration=""), Reason.UNKNOWN_RATE),
    "duration negative": (lambda: replace(made(), duration=-1), Reason.UNKNOWN_RATE),
    "duration nan": (lambda: replace(made(), duration="nan"), Reason.UNKNOWN_RATE),
    "duration tiny": (lambda: replace(made(), duration="1e-9"), Reason.UNKNOWN_RATE),
    "duration with underscore": (lambda: replace(made(), duration="0_1"), Reason.UNKNOWN_RATE),
}
GAINS: dict[str, dict[str, object]] = {
    "unit absent": {"unit": ""},
    "unit unknown": {"unit": "mmHg"},
    "no digital range": {"digital": (5, 5)},
    "digital range reversed": {"digital": (100, -100)},
    "digital range a word": {"digital": ("low", 100)},
    "no physical range": {"physical": (5, 5)},
    "physical range infinite": {"physical": ("-inf", "inf")},
    "comma in a number": {"physical": ("-3,2", "3,2")},
    "gain beyond a volt a count": {"physical": ("-1e300", "1e300")},
    "gain beyond any resolution": {"physical": (0, "1e-300")},
    "zero beyond any sample": {"physical": (9999998, 9999999), "digital": (0, 1000000)},
}


@pytest.mark.parametrize(("file", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_header_does_not_state_or_contradicts_is_refused(file, reason):
    assert refusal(file()) == reason


@pytest.mark.parametrize("changes", GAINS.values(), ids=GAINS)
def test_a_lead_without_a_gain_is_refused(changes):
    file = made()

    broken = replace(file, signals=(replace(file.signals[0], **changes), *file.signals[1:]))
    assert refusal(broken) == Reason.UNKNOWN_GAIN


def test_a_file_cut_anywhere_is_refused_as_truncated():
    raw = bytes(made(leads=("I", "II")))

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


def test_a_file_with_bytes_after_its_end_is_refused():
    assert refusal(bytes(made()) + b"\0\0") == Reason.MALFORMED


MISUSE: dict[str, tuple[object, ...]] = {
    "no samples": (bytes(40), 0, 20, [0], 0),
    "a signal beyond its record": (bytes(40), 0, 20, [12], 5),
    "records beyond the data": (bytes(39), 0, 20, [0], 5),
    "an offset beyond the data": (bytes(40), 41, 20, [0], 5),
    "part of a record": (bytes(400), 0, 20, [0], 7),
}


@pytest.mark.parametrize("arguments", MISUSE.values(), ids=MISUSE)
def test_the_kernel_reads_nothing_beyond_its_data(arguments):
    with pytest.raises(ValueError, match=r"record|samples"):
        _kernels.edf_rows(*arguments, np.empty((1, 10), np.int16))
    with pytest.raises(ValueError, match="record"):
        _kernels.edf_onsets(bytes(40), 0, 20, 15, 6, np.empty(2))


@given(st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=200, deadline=2000)
def test_damaged_bytes_give_a_record_or_a_reject(flips):
    file = with_times(made(4, 50, leads=("I", "II", "V1"), duration=0.1), b"+0", b"+.1", b"+.2", b"+.3")
    raw = bytearray(bytes(file))
    for at, value in flips:
        raw[at % len(raw)] = value
    with suppress(RecordError):
        record = decode(bytes(raw))
        assert record.counts.shape[0] == len(record.leads)
