"""MATLAB level 5: the array that the layout names is what SciPy reads, and nothing else is taken out of the file."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import formats, synth, waveform
from ecgbatch.errors import RecordError
from ecgbatch.record import LEADS, Reason, Record

scipy_io = pytest.importorskip("scipy.io")

COUNTS = np.random.default_rng(4).integers(-3000, 3000, (12, 500)).astype(np.int16)


def declaration(**changes: object) -> bytes:
    keys = {
        "fs_hz": 500,
        "unit": "uV",
        "leads": list(LEADS),
        "orientation": "lead,time",
        "variable": "val",
        **changes,
    }
    return "".join(f"{key} = {value!r}\n" for key, value in keys.items() if value is not None).encode()


def mat(variables: dict[str, object], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    scipy_io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def decode(raw: bytes, layout: bytes | None = None) -> Record:
    def sibling(name: str) -> bytes:
        if name != "layout.toml" or layout == b"":
            raise RecordError(Reason.MISSING_SIGNAL, "no such file")
        return declaration() if layout is None else layout

    return formats.decode(raw, "ecg.mat", sibling)


def refusal(raw: bytes, layout: bytes | None = None) -> Reason:
    with pytest.raises(RecordError) as defect:
        decode(raw, layout)
    assert "\n" not in defect.value.detail
    return Reason(defect.value.reason)


@pytest.mark.parametrize("name", ["code_15_1238362.mat", "code_15_1594286.mat"])
def test_a_real_file_is_read_as_scipy_reads_it(data, name):
    path = data / "formats" / "samples" / "mat_code15" / name
    expected = scipy_io.loadmat(path)
    record = decode(path.read_bytes(), declaration(fs_hz=400, unit="mV", variable="feats"))

    assert (record.format, record.fs_hz, record.leads) == ("mat", 400.0, LEADS)
    assert_array_equal(record.counts, np.rint(expected["feats"].astype(float) * 1e6))


def test_a_real_file_states_its_rate_and_a_layout_must_not_contradict_it(data):
    raw = (data / "formats" / "samples" / "mat_code15" / "code_15_1238362.mat").read_bytes()

    assert refusal(raw, declaration(fs_hz=500, unit="mV", variable="feats")) == Reason.MALFORMED
    assert refusal(raw, b"") == Reason.UNKNOWN_GAIN


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u2", "f4", "f8", ">f8"])
def test_an_array_of_any_type_is_read_as_scipy_reads_it(kind, compressed):
    values = (np.abs(COUNTS) % 100 if kind[-2] != "f" else COUNTS / 8).astype(kind)
    raw = mat({"other": np.arange(9), "val": values, "text": "words"}, compressed=compressed)
    record = decode(raw)

    expected = scipy_io.loadmat(io.BytesIO(raw))["val"]
    assert_array_equal(waveform.nanovolts(record, LEADS), expected.astype(float) * 1000)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_an_array_may_be_a_field_of_a_structure(compressed):
    exam = {"sex": "Male", "age": 74.0, "data": COUNTS.astype(float)}
    raw = mat({"ECG": exam}, compressed=compressed)

    assert_array_equal(decode(raw, declaration(variable="ECG.data")).counts, COUNTS.astype(np.int32) * 1000)


def test_a_file_of_the_other_byte_order_is_read():
    body = b"".join(
        [
            struct.pack(">IIII", 6, 8, 10, 0),  # int16
            struct.pack(">IIII", 5, 8, 12, 500),
            struct.pack(">I4s", 3 << 16 | 1, b"val"),
            struct.pack(">II", 3, COUNTS.nbytes),
            COUNTS.T.astype(">i2").tobytes(),
        ]
    )
    raw = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body

    assert_array_equal(scipy_io.loadmat(io.BytesIO(raw))["val"], COUNTS)
    assert_array_equal(decode(raw).counts, COUNTS)


def compressed_file(inner: bytes) -> bytes:
    stream = zlib.compress(inner)
    return mat({})[:128] + struct.pack("<II", 15, len(stream)) + stream


VALID = mat({"val": COUNTS})
INNER = VALID[128:]

REFUSALS: dict[str, tuple[bytes, bytes | None, Reason]] = {
    "no layout": (VALID, b"", Reason.UNKNOWN_GAIN),
    "no variable declared": (VALID, declaration(variable=None), Reason.MALFORMED),
    "no such variable": (VALID, declaration(variable="x"), Reason.MALFORMED),
    "no structure": (VALID, declaration(variable="val.data"), Reason.MALFORMED),
    "no such field": (mat({"E": {"a": COUNTS}}), declaration(variable="E.b"), Reason.MALFORMED),
    "a structure itself": (mat({"E": {"a": COUNTS}}), declaration(variable="E"), Reason.MALFORMED),
    "several structures": (
        mat({"E": np.array([(1,), (2,)], [("a", "f8")])}),
        declaration(variable="E.a"),
        Reason.MALFORMED,
    ),
    "text": (mat({"val": "words"}), None, Reason.MALFORMED),
    "cells": (mat({"val": np.array([1, "a"], object)}), None, Reason.MALFORMED),
    "complex": (mat({"val": COUNTS * 1j}), None, Reason.MALFORMED),
    "truths": (mat({"val": COUNTS > 0}), None, Reason.MALFORMED),
    "three axes": (mat({"val": COUNTS.reshape(12, 2, 250)}), None, Reason.MALFORMED),
    "empty": (mat({"val": COUNTS[:, :0]}), None, Reason.MALFORMED),
    "other orientation": (mat({"val": COUNTS.T}), None, Reason.MALFORMED),
    "several rates": (mat({"val": COUNTS, "curr_sample_rate": [500, 500]}), None, Reason.MALFORMED),
    "another rate": (mat({"val": COUNTS, "curr_sample_rate": 400}), None, Reason.MALFORMED),
    "byte order absent": (VALID[:126] + b"??" + VALID[128:], None, Reason.MALFORMED),
    "shape beyond the file": (
        VALID.replace(struct.pack("<II", 12, 500), struct.pack("<II", 12, 2**30)),
        None,
        Reason.MALFORMED,
    ),
    "negative shape": (
        VALID.replace(struct.pack("<II", 12, 500), struct.pack("<ii", -12, -500)),
        None,
        Reason.MALFORMED,
    ),
    "variables without end": (VALID[:128] + struct.pack("<II", 1, 0) * 5000, None, Reason.MALFORMED),
    "stream cut": (compressed_file(INNER[:-100]), None, Reason.CORRUPT_PAYLOAD),
    "stream goes on": (compressed_file(INNER + b"\0" * 8), None, Reason.CORRUPT_PAYLOAD),
    "stream is none": (VALID[:128] + struct.pack("<II", 15, 8) + b"garbage!", None, Reason.CORRUPT_PAYLOAD),
    "stream is empty": (compressed_file(b""), None, Reason.CORRUPT_PAYLOAD),
    "stream with a wrong checksum": (compressed_file(INNER)[:-1] + b"\0", None, Reason.CORRUPT_PAYLOAD),
    "stream that declares 4 GB": (compressed_file(INNER[:4] + b"\xff" * 4 + INNER[8:]), None, Reason.CORRUPT_PAYLOAD),
}


@pytest.mark.parametrize(("raw", "layout", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_declared_damaged_or_no_ecg_is_refused(raw, layout, reason):
    assert refusal(raw, layout) == reason


def test_a_stream_that_inflates_without_end_is_left_where_its_name_is_known():
    bomb = mat({"other": np.zeros((1000, 10_000))}, compressed=True) + VALID[128:]

    assert len(bomb) < 200_000
    assert_array_equal(decode(bomb).counts, COUNTS)


def test_the_layout_of_wfdb_without_its_header_stays_an_orphan(ecg):
    raw = synth.wfdb_files(ecg, "r", container="mat")["r.mat"]

    assert refusal(raw) == Reason.ORPHAN_SIGNAL


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_file_cut_anywhere_is_refused_as_truncated(compressed):
    raw = mat({"val": COUNTS}, compressed=compressed)

    assert {refusal(raw[:n]) for n in range(20, len(raw), 10)} <= {Reason.TRUNCATED, Reason.MALFORMED}
    assert {refusal(raw[:n]) for n in range(130, len(raw), 10)} == {Reason.TRUNCATED}


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 2))
@settings(max_examples=300, deadline=2000)
def test_damaged_bytes_give_a_record_or_a_reject(flips, kind):
    exam = {"ECG": {"sex": "Male", "data": COUNTS[:, :9]}} if kind == 2 else {"val": COUNTS[:, :9]}
    raw = bytearray(mat(exam, compressed=kind == 1))
    for at, value in flips:
        raw[at % len(raw)] = value
    with suppress(RecordError):
        assert decode(bytes(raw), declaration(variable="ECG.data") if kind == 2 else None).leads == LEADS


def test_a_file_of_matlab_7_3_is_refused_with_what_to_do():
    raw = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"

    with pytest.raises(RecordError, match="save it as version 7") as defect:
        formats.decode(raw, "x.mat", lambda _: b"")
    assert defect.value.reason == Reason.UNKNOWN_FORMAT
