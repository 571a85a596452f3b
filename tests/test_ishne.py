"""ISHNE: samples, codes and resolutions are the file's own."""

import struct
from binascii import crc_hqx
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import INVALID, LEADS, Reason, Record

COUNTS = np.random.default_rng(8).integers(-3000, 3000, (600, 12))


def made(counts: np.ndarray = COUNTS, **changes: object) -> bytes:
    """A file with these samples (time, lead); `changes` are fields of the header, or `after`, bytes at the end."""
    n, n_leads = counts.shape
    text = bytes(changes.pop("text", b""))  # type: ignore[arg-type]
    after, crc = changes.pop("after", b""), changes.pop("crc", "right")
    values: dict[str, object] = {
        "n_text": len(text),
        "n_samples": n,
        "text_at": 522,
        "ecg_at": 522 + len(text),
        "birth": (1, 1, 1950),
        "date": (29, 2, 2024),
        "time": (23, 59, 58),
        "n_leads": n_leads,
        "codes": [*range(5, 17)],
        "nv": [5000] * 12,
        "recorder": b"Holter 12",
        "fs_hz": 500,
        **changes,
    }
    header = struct.pack("<iiii2x", *(values[name] for name in ("n_text", "n_samples", "text_at", "ecg_at")))
    header += b"SECRET".ljust(40, b"\0") + b"SECRET".ljust(40, b"\0") + b"SECRET-ID".ljust(20, b"\0")
    header += struct.pack("<2h3h3h3h3h", 2, 0, *values["birth"], *values["date"], 0, 0, 0, *values["time"])  # type: ignore[misc]
    header += struct.pack("<h12h12h12hh", values["n_leads"], *values["codes"], *[1] * 12, *values["nv"], 0)  # type: ignore[misc]
    header += struct.pack("<40sh", values["recorder"], values["fs_hz"])
    header = header.ljust(512, b"\0") + text
    stated = crc_hqx(header, 0xFFFF) if crc == "right" else crc
    return b"ISHNE1.0" + struct.pack("<H", stated) + header + counts.astype("<i2").tobytes() + after  # type: ignore[operator]


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.ecg", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"an ISHNE file has no sibling, asked for {name!r}")


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    assert "SECRET" not in defect.value.detail
    return Reason(defect.value.reason)


def test_a_real_ecg_is_what_its_bytes_say(data):
    raw = (data / "formats" / "samples" / "ishne" / "DERIVED_ptb_s0010.ecg").read_bytes()
    record = decode(raw)

    assert (record.leads, record.fs_hz, record.uv_per_count) == (LEADS, 1000.0, (0.5,) * 12)
    assert record.counts.T.ravel().tolist() == [count for (count,) in struct.iter_unpack("<h", raw[522:])]
    assert (record.acquired_at, record.device_model) == (datetime(1990, 10, 1), "derived")


def test_a_real_ecg_equals_the_wfdb_record_that_it_was_made_of(data):
    samples = data / "formats" / "samples"
    record = decode((samples / "ishne" / "DERIVED_ptb_s0010.ecg").read_bytes())
    folder = samples / "wfdb"
    original = formats.decode(
        (folder / "s0010_re.hea").read_bytes(), "s0010_re.hea", lambda name: (folder / name).read_bytes()
    )

    assert original.leads == record.leads
    assert_array_equal(record.counts, original.counts[:, : record.n_samples])


def test_what_is_written_is_read_back():
    record = decode(made())

    assert_array_equal(record.counts, COUNTS.T)
    assert (record.format, record.leads, record.fs_hz) == ("ishne", LEADS, 500.0)
    assert (record.uv_per_count, record.zero_counts) == ((5.0,) * 12, (0.0,) * 12)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 23, 59, 58), "Holter 12")


def test_leads_are_taken_by_code_and_others_left_alone():
    record = decode(made(COUNTS[:, :5], codes=[2, 16, 0, 5, 17] + [-9] * 7, nv=[0, 1000, -9, 2500, 1] + [-9] * 7))

    assert (record.leads, record.uv_per_count) == (("V6", "I"), (1.0, 2.5))
    assert_array_equal(record.counts, COUNTS.T[[1, 3]])


def test_the_sample_of_a_lead_that_is_off_is_a_missing_one():
    counts = COUNTS.copy()
    counts[7:9, 3] = -32768
    nv = waveform.nanovolts(decode(made(counts)), LEADS)

    assert np.argwhere(nv == INVALID).tolist() == [[3, 7], [3, 8]]


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_crc_may_be_in_any_byte_order(order):
    raw = made()
    crc = crc_hqx(raw[10:522], 0xFFFF)

    assert_array_equal(decode(raw[:8] + crc.to_bytes(2, order) + raw[10:]).counts, COUNTS.T)


def test_the_number_of_samples_may_be_that_of_all_leads_together():
    assert_array_equal(decode(made(n_samples=COUNTS.size)).counts, COUNTS.T)
    assert refusal(made(n_samples=COUNTS.size)[:-24]) == Reason.TRUNCATED


def test_a_text_block_may_lie_before_the_samples_or_after_them():
    before = decode(made(text=b"a note of the hospital"))
    after = decode(made(text_at=522 + COUNTS.size * 2, n_text=6, after=b"a note", crc=0))

    assert_array_equal(before.counts, COUNTS.T)
    assert_array_equal(after.counts, COUNTS.T)


@pytest.mark.parametrize(
    ("changes", "moment"),
    [
        ({"date": (30, 2, 2024)}, None),
        ({"date": (1, 1, 24)}, None),
        ({"date": (-9, -9, -9)}, None),
        ({"time": (24, 0, 0)}, None),
        ({"time": (0, 0, 0)}, datetime(2024, 2, 29)),
    ],
)
def test_a_moment_that_is_none_is_unknown(changes, moment):
    assert decode(made(**changes)).acquired_at == moment


def test_a_header_whose_crc_was_never_written_is_read():
    assert decode(made(crc=0)).n_samples == 600


REFUSALS: dict[str, tuple[bytes, Reason]] = {
    "annotations": (b"ANN  1.0" + made()[8:], Reason.NO_RHYTHM),
    "crc wrong": (made(crc=1), Reason.CHECKSUM),
    "rate 0": (made(fs_hz=0), Reason.UNKNOWN_RATE),
    "rate negative": (made(fs_hz=-500), Reason.UNKNOWN_RATE),
    "resolution 0": (made(nv=[5000] * 11 + [0]), Reason.UNKNOWN_GAIN),
    "resolution negative": (made(nv=[-9] + [5000] * 11), Reason.UNKNOWN_GAIN),
    "no leads": (made(n_leads=0), Reason.MALFORMED),
    "13 leads": (made(n_leads=13), Reason.MALFORMED),
    "no standard lead": (made(codes=[2] * 12), Reason.MISSING_LEADS),
    "lead twice": (made(codes=[5, *range(5, 16)]), Reason.DUPLICATE_LEAD),
    "no samples": (made(n_samples=0), Reason.MALFORMED),
    "samples negative": (made(n_samples=-1), Reason.MALFORMED),
    "samples beyond the file": (made(n_samples=2**31 - 1), Reason.TRUNCATED),
    "fewer samples stated": (made(n_samples=599), Reason.MALFORMED),
    "samples inside the header": (made(ecg_at=520), Reason.MALFORMED),
    "samples at a negative byte": (made(ecg_at=-5), Reason.MALFORMED),
    "bytes after the samples": (made(after=b"\0\0"), Reason.MALFORMED),
}


@pytest.mark.parametrize(("raw", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_header_does_not_state_or_contradicts_is_refused(raw, reason):
    assert refusal(raw) == reason


def test_a_file_cut_anywhere_is_refused_as_truncated():
    raw = made()

    assert {refusal(raw[:n]) for n in range(10, len(raw), 10)} == {Reason.TRUNCATED}


@given(st.lists(st.tuples(st.integers(8, 1200), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=200, deadline=2000)
def test_damaged_bytes_give_a_record_or_a_reject(flips, has_crc):
    raw = bytearray(made(COUNTS[:20], crc="right" if has_crc else 0))
    for at, value in flips:
        raw[at % len(raw)] = value
    with suppress(RecordError):
        record = decode(bytes(raw))
        assert record.counts.shape[0] == len(record.leads)
