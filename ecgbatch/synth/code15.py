"""Records as the HDF5 of CODE-15 holds them: every exam float32 mV at 400 Hz, centred in 4096 samples, zeros around."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ecgbatch.errors import UsageError
from ecgbatch.record import LEADS, Record

__all__ = ["FS_HZ", "N_SAMPLES", "write_code15"]

FS_HZ = 400.0
N_SAMPLES = 4096


def write_code15(path: Path, records: Sequence[Record]) -> None:
    """Write records of the twelve leads as one file, numbered in order; a missing sample becomes NaN.

    Raises:
        UsageError: a record of other leads, another rate, or too long.
    """
    tracings = np.zeros((len(records), N_SAMPLES, len(LEADS)), np.float32)
    for tracing, record in zip(tracings, records, strict=True):
        if record.leads != LEADS or record.fs_hz != FS_HZ or record.n_samples > N_SAMPLES:
            found = f"{len(record.leads)} leads, {record.n_samples} samples at {record.fs_hz:g} Hz"
            raise UsageError(f"CODE-15: {found}, expected 12 leads, at most {N_SAMPLES} samples at {FS_HZ:g} Hz")
        zero, uv = np.array(record.zero_counts), np.array(record.uv_per_count)
        mv = (record.counts.T - zero) * (uv / 1000)
        if record.invalid_count is not None:
            mv[np.equal(record.counts.T, record.invalid_count)] = np.nan
        first = (N_SAMPLES - record.n_samples) // 2
        tracing[first : first + record.n_samples] = mv
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.arange(len(records))
        file["tracings"] = tracings
