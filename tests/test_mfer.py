"""MFER: no real 12-lead file is at hand, so the reader is held to the standard's own encoding, and is strict."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, Reason, Record

CODES = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)
COUNTS = np.random.default_rng(9).integers(-3000, 3000, (12, 1000))
LITTLE = (0x01, b"\1")


def item(tag: int, value: bytes, *, channel: int | None = None, n_length: int = 0) -> bytes:
    """One definition; its length in `n_length` more bytes, or in one where it fits."""
    length = bytes([len(value)]) if not n_length and len(value) < 128 else b""
    if not length:
        n_length = n_length or 4
        length = bytes([0x80 | n_length]) + len(value).to_bytes(n_length, "big")
    return bytes([tag]) + (b"" if channel is None else bytes([channel])) + length + value


def made(
    counts: np.ndarray = COUNTS,
    *,
    little: bool = True,
    stored: str = "i2",
    n_sequences: int = 10,
    file: dict[int, bytes] | None = None,
    each: dict[int, bytes] | None = None,
    codes: tuple[int, ...] = CODES,
    samples: bytes | None = None,
    after: bytes = item(0x80, b"")[:1],
) -> bytes:
    """A file of these channels; `file` and `each` change its definitions, b"" taking one away."""
    order = "little" if little else "big"

    def number(value: int, n: int) -> bytes:
        return value.to_bytes(n, order, signed=value < 0)

    n_block = counts.shape[1] // n_sequences
    fields = {
        0x17: b"Maker^Cart 3^1.0^SERIAL-SECRET",
        0x01: b"\1" if little else b"\0",
        0x81: b"SECRET NAME",
        0x82: b"SECRET-ID",
        0x08: number(1, 2) + b"ECG",
        0x0B: b"\1\xfd" + number(2, 2),  # 2 ms
        0x0C: b"\0\xfa" + number(5, 2),  # 5 µV
        0x04: number(n_block, 4),
        0x05: number(len(counts), 1),
        0x06: number(n_sequences, 2),
        0x85: number(2024, 2) + bytes([2, 29, 23, 59, 58]) + bytes(4),
        **(file or {}),
    }
    channels = [
        item(0x3F, item(0x09, number(code, 2)) + b"".join(item(*pair) for pair in (each or {}).items()), channel=i)
        for i, code in enumerate(codes)
    ]
    frames = counts.reshape(len(counts), n_sequences, n_block).transpose(1, 0, 2)
    payload = frames.astype(("<" if little else ">") + stored).tobytes() if samples is None else samples
    head = item(0x40, b"MFR Standard 12 leads ECG".ljust(32))
    definitions = [item(tag, value) for tag, value in fields.items() if value]
    return b"".join([head, *definitions, *channels, item(0x1E, payload, n_length=4), after])


def decode(raw: bytes) -> Record:
    return formats.decode(raw, "ecg.mwf", no_sibling)


def no_sibling(name: str) -> bytes:
    raise AssertionError(f"an MFER file has no sibling, asked for {name!r}")


def refusal(raw: bytes) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw)
    assert "\n" not in defect.value.detail
    assert "SECRET" not in defect.value.detail
    return Reason(defect.value.reason)


@pytest.mark.parametrize("little", [True, False], ids=["little", "big"])
@pytest.mark.parametrize("n_sequences", [1, 10, 1000])
@pytest.mark.parametrize("stored", ["i2", "i4"])
def test_what_is_written_is_read_back(little, n_sequences, stored):
    kind = {"i2": b"\0", "i4": b"\2"}[stored]
    record = decode(made(little=little, n_sequences=n_sequences, stored=stored, file={0x0A: kind}))

    assert_array_equal(record.counts, COUNTS)
    assert (record.format, record.leads, record.fs_hz) == ("mfer", LEADS, 500.0)
    assert (record.uv_per_count, record.zero_counts, record.invalid_count) == ((5.0,) * 12, (0.0,) * 12, None)
    assert (record.acquired_at, record.device_model) == (datetime(2024, 2, 29, 23, 59, 58), "Cart 3")


@pytest.mark.parametrize(
    ("stored", "code"), [("u1", 3), ("u2", 1), ("i1", 5)], ids=["8 bits unsigned", "16 bits unsigned", "8 bits"]
)
def test_samples_of_other_widths_keep_their_value(stored, code):
    counts = COUNTS.clip(*(np.iinfo(stored).min, np.iinfo(stored).max))
    counts[:, 0] = np.iinfo(stored).max
    record = decode(made(counts, stored=stored, file={0x0A: bytes([code])}))

    assert_array_equal(record.counts, counts)


@pytest.mark.parametrize(
    ("interval", "fs_hz"),
    [(b"\0\0\xf4\1", 500.0), (b"\0\2\5", 500.0), (b"\1\xfd\1", 1000.0), (b"\1\xfa\xd0\7\0\0", 500.0)],
    ids=["500 Hz", "5e2 Hz", "1 ms", "2000 µs"],
)
def test_the_rate_is_a_rate_or_an_interval(interval, fs_hz):
    assert decode(made(file={0x0B: interval})).fs_hz == fs_hz


@pytest.mark.parametrize(
    ("resolution", "uv"), [(b"\0\xfa\1", 1.0), (b"\0\xf9\x0c", 1.2), (b"\0\xf7\xc4\x09", 2.5)], ids=str
)
def test_the_gain_is_the_files_own(resolution, uv):
    assert decode(made(file={0x0C: resolution})).uv_per_count == pytest.approx((uv,) * 12, rel=1e-15)


def test_a_channel_may_have_its_own_rate_width_and_gain():
    other = item(0x3F, item(0x04, b"\5\0\0\0") + item(0x09, b"\xa0\0") + item(0x0A, b"\3"), channel=2)
    lead = item(0x3F, item(0x09, b"\2\0") + item(0x0C, b"\0\xfa\2"), channel=1)
    payload = b"".join(
        COUNTS[0, 100 * s :][:100].astype("<i2").tobytes()
        + COUNTS[1, 100 * s :][:100].astype("<i2").tobytes()
        + b"x" * 5
        for s in range(10)
    )
    raw = made(COUNTS[:1], codes=(1,), file={0x05: b"\3"}, samples=payload)
    at = raw.index(item(0x1E, payload, n_length=4))
    record = decode(raw[:at] + lead + other + raw[at:])

    assert (record.leads, record.uv_per_count) == (("I", "II"), (5.0, 2.0))
    assert_array_equal(record.counts, COUNTS[:2])


def test_the_value_of_a_missing_sample_is_the_files_own():
    assert decode(made(file={0x12: b"\0\x80"})).invalid_count == -32768


def test_without_a_number_of_sequences_the_samples_give_it():
    assert_array_equal(decode(made(file={0x06: b""})).counts, COUNTS)


def test_a_dominant_beat_behind_the_ecg_is_left_alone():
    beat = item(0x08, b"\x09\0") + item(0x04, b"\2\0\0\0") + item(0x06, b"\1\0") + item(0x1E, bytes(48))
    record = decode(made(after=beat + b"\x80"))

    assert_array_equal(record.counts, COUNTS)


@pytest.mark.parametrize("n_bytes", [1, 2])
def test_a_lead_code_may_be_of_one_byte(n_bytes):
    raw = made(codes=()).replace(
        b"\x1e\x84",
        b"".join([item(0x3F, item(0x09, code.to_bytes(n_bytes, "little")), channel=i) for i, code in enumerate(CODES)])
        + b"\x1e\x84",
    )

    assert decode(raw).leads == LEADS


@pytest.mark.parametrize("name", ["1.mwf", "1.MFER"])
def test_a_file_without_preamble_is_known_by_its_name_and_first_definition(name):
    raw = made().removeprefix(item(0x40, b"MFR Standard 12 leads ECG".ljust(32)))

    assert_array_equal(formats.decode(raw, name, no_sibling).counts, COUNTS)
    for unknown in ((raw, "1.dat2"), (b"no definition at all", name)):
        with pytest.raises(RecordError) as defect:
            formats.decode(*unknown, no_sibling)
        assert defect.value.reason == Reason.UNKNOWN_FORMAT


def test_definitions_that_are_not_needed_are_skipped():
    raw = made(after=b"\0\0" + item(0x41, b"event") + item(0x80, b"")[:1] + b"whatever")

    assert_array_equal(decode(raw).counts, COUNTS)


@pytest.mark.parametrize("moment", [b"", b"\xe8\7", b"\xe8\7\2\x1e\0\0\0", b"\x18\0\2\2\0\0\0"], ids=str)
def test_a_moment_that_is_none_is_unknown(moment):
    assert decode(made(file={0x85: moment})).acquired_at is None


REFUSALS: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "rate absent": (lambda: made(file={0x0B: b""}), Reason.UNKNOWN_RATE),
    "rate in metres": (lambda: made(file={0x0B: b"\2\xfd\2"}), Reason.UNKNOWN_RATE),
    "rate 0": (lambda: made(file={0x0B: b"\0\0\0"}), Reason.UNKNOWN_RATE),
    "interval 0": (lambda: made(file={0x0B: b"\1\0\0"}), Reason.UNKNOWN_RATE),
    "interval without number": (lambda: made(file={0x0B: b"\1\xfd"}), Reason.UNKNOWN_RATE),
    "gain absent": (lambda: made(file={0x0C: b""}), Reason.UNKNOWN_GAIN),
    "gain in mmHg": (lambda: made(file={0x0C: b"\1\0\1"}), Reason.UNKNOWN_GAIN),
    "gain negative": (lambda: made(file={0x0C: b"\0\xfa\xff"}), Reason.UNKNOWN_GAIN),
    "offset": (lambda: made(file={0x0D: b"\5\0"}), Reason.UNKNOWN_GAIN),
    "compressed": (lambda: made(file={0x0E: b"\1\0\0\0\0\0"}), Reason.UNKNOWN_FORMAT),
    "floats": (lambda: made(file={0x0A: b"\7"}), Reason.UNKNOWN_FORMAT),
    "data type that is none": (lambda: made(file={0x0A: b"\x33"}), Reason.UNKNOWN_FORMAT),
    "grouped": (lambda: made(file={0x67: b"x"}), Reason.UNKNOWN_FORMAT),
    "EEG": (lambda: made(file={0x08: b"\x28\0"}), Reason.NO_RHYTHM),
    "dominant beat": (lambda: made(file={0x08: b"\x09\0"}), Reason.NO_RHYTHM),
    "kind absent": (lambda: made(file={0x08: b""}), Reason.NO_RHYTHM),
    "no samples defined": (lambda: made()[: made().index(b"\x1e\x84")] + b"\x80", Reason.NO_RHYTHM),
    "two frames": (lambda: made(after=item(0x1E, b"\0\0")), Reason.NO_RHYTHM),
    "two frames of ECG": (lambda: made(after=item(0x08, b"\x02\0") + item(0x1E, b"\0\0")), Reason.NO_RHYTHM),
    "no standard lead": (lambda: made(codes=(9,) * 12), Reason.MISSING_LEADS),
    "lead twice": (lambda: made(codes=(1, *CODES[:11])), Reason.DUPLICATE_LEAD),
    "no channels": (lambda: made(file={0x05: b"\0"}), Reason.MALFORMED),
    "channels beyond any ECG": (lambda: made(file={0x05: b"\xff" * 4}), Reason.MALFORMED),
    "number beyond 4 bytes": (lambda: made(file={0x04: b"\1" * 100}), Reason.MALFORMED),
    "fewer channels than defined": (lambda: made(file={0x05: b"\x0b"}), Reason.MALFORMED),
    "byte order that is none": (lambda: made(file={0x01: b"\2"}), Reason.MALFORMED),
    "more sequences stated": (lambda: made(file={0x06: b"\x0b\0"}), Reason.TRUNCATED),
    "sequences beyond the file": (lambda: made(file={0x06: b"\xff" * 4}), Reason.TRUNCATED),
    "fewer sequences stated": (lambda: made(file={0x06: b"\x09\0"}), Reason.MALFORMED),
    "block of no samples": (lambda: made(file={0x04: b"\0"}), Reason.MALFORMED),
    "block beyond the file": (lambda: made(file={0x04: b"\xff" * 4}), Reason.TRUNCATED),
    "no samples": (lambda: made(samples=b"", file={0x06: b""}), Reason.MALFORMED),
    "indefinite length": (lambda: made().replace(b"\x1e\x84", b"\x1e\x80"), Reason.MALFORMED),
    "length of five bytes": (lambda: made().replace(b"\x1e\x84", b"\x1e\x85"), Reason.MALFORMED),
    "channel number of two bytes": (lambda: made().replace(b"\x3f\0\4", b"\x3f\x81\4"), Reason.MALFORMED),
    "file's definition after the channels'": (
        lambda: made().replace(b"\x1e\x84", item(0x0C, b"\0\xfa\1") + b"\x1e\x84"),
        Reason.MALFORMED,
    ),
    "byte order after numbers": (lambda: made().replace(b"\x1e\x84", item(*LITTLE) + b"\x1e\x84"), Reason.MALFORMED),
    "definitions without end": (lambda: made(file={0x41: b"x"}, after=item(0x41, b"") * 5000), Reason.MALFORMED),
}


@pytest.mark.parametrize(("raw", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_stated_not_read_or_contradictory_is_refused(raw, reason):
    assert refusal(raw()) == reason


def test_a_file_cut_anywhere_is_refused_as_truncated():
    raw = made()

    assert {refusal(raw[:n]) for n in range(10, len(raw) - 1, 10)} == {Reason.TRUNCATED}


@given(st.lists(st.tuples(st.integers(0, 450), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=300, deadline=2000)
def test_damaged_bytes_give_a_record_or_a_reject(flips, little):
    raw = bytearray(made(COUNTS[:, :20], little=little))
    for at, value in flips:
        raw[at] = value
    with suppress(RecordError):
        record = decode(bytes(raw))
        assert record.counts.shape[0] == len(record.leads)
