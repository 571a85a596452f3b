"""What must hold of any bytes that stand in an archive: the claims of the campaigns, and of the tests that replay them.

An input is a byte that says what the file is called, the file, and the files beside it, `SEPARATOR` before each.
"""

import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import islice
from math import isfinite
from pathlib import Path

import numpy as np

from ecgbatch import _kernels, archive, container, formats
from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.feed import batch, host, payload
from ecgbatch.record import FIRST_YEAR, INDEPENDENT_LEADS, LEADS, RATES_HZ, UV_PER_COUNT, Reason, Record, Reject

__all__ = ["SEPARATOR", "TARGETS", "decoded", "most_bytes", "peak_bytes", "unpacked"]

SEPARATOR = b"\xffFILE\xff"
NAMES = {b"h": "x.hea", b"d": "x.dat", b"c": "x.csv", b"n": "x.npy", b"m": "x.mat"}
SPEC = InputSpec(
    leads=INDEPENDENT_LEADS,
    fs_hz=250,
    seconds=10.0,
    min_seconds=0.01,
    scale_mv=(0.2,) * len(INDEPENDENT_LEADS),
    clip=20.0,
)
MOST_ENTRIES = 64
"""Of an archive that are read, so that a list of thousands does not count as slow."""
ENTRY = archive.Entry("x", "x", 0, 0)


def decoded(data: bytes) -> Reason | None:
    """Why `formats.decode` or the feed refuses a file; None for one that ends as model input.

    Raises:
        AssertionError: the outcome is neither, or makes no sense.
    """
    raw, *beside = data[1:].split(SEPARATOR)
    names: dict[str, bytes] = {}

    def sibling(name: str) -> bytes:
        if not beside:
            raise RecordError(Reason.MISSING_SIGNAL, "no such file")
        return names.setdefault(name, beside[min(len(names), len(beside) - 1)])

    name = NAMES.get(data[:1], "x")
    try:
        formats.companions(raw, name)
        record = formats.decode(raw, name, sibling)
    except RecordError as defect:
        return _reason(defect.reason, defect.detail)
    return _prepared(record)


def unpacked(data: bytes) -> set[Reason | None]:
    """The same of every entry of an archive; a zip where the first byte says so, else a tar.

    Raises:
        AssertionError: an outcome makes no sense, or something was written.
    """
    container._opened.cache_clear()  # files of one size that follow each other within a tick have equal stamps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.zip" if data[:1] == b"z" else "x.tar.gz")
        path.write_bytes(data[1:])
        entries = list(islice(archive.scan([path], companions=formats.companions, skip=Path("/none")), MOST_ENTRIES))
        assert entries, "nothing is left out in silence"
        found = map(batch.read, entries)
        outcomes = {_reason(one.reason, one.detail) if isinstance(one, Reject) else _prepared(one) for one in found}
        assert list(Path(folder).iterdir()) == [path]
    return outcomes


TARGETS: dict[str, Callable[[bytes], object]] = {"decode": decoded, "container": unpacked}


def peak_bytes(target: Callable[[bytes], object], data: bytes) -> int:
    """The most memory that Python and NumPy hold at any moment of it."""
    tracemalloc.start()
    try:
        target(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def most_bytes(n: int) -> int:
    """What an input of n bytes justifies: deflate's 1032 fold, eight bytes a sample of one byte, and a fixed part."""
    return 8 * 1032 * n + 16 * 2**20


def _prepared(record: Record) -> Reason | None:
    _require_sound(record)
    out = np.full((len(SPEC.leads), SPEC.samples), np.nan, np.float32)
    try:
        row = batch._prepare(ENTRY, record, {SPEC: out}, host.put)
    except RecordError as defect:
        return _reason(defect.reason, defect.detail)
    assert np.isfinite(out).all()
    _require_payload(record, out)
    quality = row.quality
    assert 0 <= quality.quality <= 1
    assert all(map(isfinite, (quality.amplitude_uv, quality.spike_uv, quality.noise_uv, quality.qrs_agreement)))
    return None


def _require_payload(record: Record, expected: np.ndarray) -> None:
    """What the host scores, a device can: nothing in a DALI graph may fail on a record that has come this far."""
    one = payload.of(record, SPEC, host.flat_leads(record))
    out = np.full((1, *expected.shape), np.nan, np.float32)
    _kernels.Jobs([(one.counts, one.taps, one.recipe.tobytes())])(SPEC.clip, out)
    assert np.array_equal(out[0], expected)


def _require_sound(record: Record) -> None:
    n = len(record.leads)
    assert record.leads
    assert len(set(record.leads)) == n
    assert set(record.leads) <= set(LEADS)
    assert record.counts.dtype in (np.int16, np.int32)
    assert record.counts.shape == (n, record.n_samples)
    assert record.n_samples > 0
    assert RATES_HZ[0] <= record.fs_hz <= RATES_HZ[1]
    assert len(record.uv_per_count) == len(record.zero_counts) == n
    assert all(UV_PER_COUNT[0] <= gain <= UV_PER_COUNT[1] for gain in record.uv_per_count)
    assert all(abs(zero) <= 2**31 for zero in record.zero_counts)
    assert record.acquired_at is None or record.acquired_at.year >= FIRST_YEAR
    assert record.device_model is None or (record.device_model.isprintable() and len(record.device_model) <= 64)


def _reason(reason: str, detail: str) -> Reason:
    assert detail
    assert detail.isprintable()
    assert len(detail) < 400
    return Reason(reason)
