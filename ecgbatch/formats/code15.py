"""HDF5 in the layout of CODE-15: `tracings` float32 (exam, time, lead) in mV at 400 Hz, and `exam_id` (exam).

The layout is that of the data set's publication (Ribeiro et al., CODE-15%: a large scale annotated dataset of 12-lead
ECGs, Zenodo 2021): twelve leads in the usual order, every exam centred in 4096 samples, zeros around a shorter one. The
file itself states nothing of it, so a file that is not of exactly this shape is not read.
"""

from functools import lru_cache
from pathlib import Path
from threading import Lock

import h5py
import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.files import require_handles
from ecgbatch.record import INVALID, LEADS, Reason, Record

__all__ = ["Exams", "opened"]

_FS_HZ = 400.0
_N_SAMPLES = 4096
_NV_PER_MV = 1e6
_OPENING = Lock()


class Exams:
    """An open file: each exam is a record, told apart by its row."""

    has_checksums = False

    def __init__(self, path: str, stamp: tuple[int, int]) -> None:
        """Open it.

        Raises:
            RecordError: no HDF5 file, or of another layout.
        """
        self.stamp = stamp
        try:
            self._file = h5py.File(path, "r")
            tracings, exam_id = self._file.get("tracings"), self._file.get("exam_id")
        except (OSError, RuntimeError, ValueError, KeyError) as err:
            require_handles(err)
            raise RecordError(Reason.MALFORMED, "not a readable HDF5 file") from err
        if not isinstance(tracings, h5py.Dataset) or not isinstance(exam_id, h5py.Dataset):
            raise RecordError(Reason.UNKNOWN_FORMAT, "HDF5 without tracings and exam_id, expected CODE-15's layout")
        n = exam_id.shape[0] if exam_id.shape else 0
        if tracings.shape != (n, _N_SAMPLES, len(LEADS)) or tracings.dtype.kind != "f":
            detail = f"HDF5 with tracings {tracings.shape}, expected ({n}, {_N_SAMPLES}, {len(LEADS)}) as in CODE-15"
            raise RecordError(Reason.UNKNOWN_FORMAT, detail)
        self._tracings = tracings
        self._rows = {str(row): row for row in range(n)}

    def members(self) -> list[str]:
        """Rows, as text."""
        return list(self._rows)

    def record(self, member: str) -> Record:
        """The exam of a row, without the zeros around it.

        Raises:
            RecordError: there is none, or it cannot be read.
        """
        if member not in self._rows:
            raise RecordError(Reason.UNREADABLE, "no exam of this row")
        try:
            mv = self._tracings[self._rows[member]]  # (time, lead)
        except (OSError, RuntimeError, ValueError) as err:
            raise RecordError(Reason.CORRUPT_PAYLOAD, "an exam that cannot be read") from err
        live = np.flatnonzero(mv.any(axis=1))
        if len(live):
            mv = mv[live[0] : live[-1] + 1]
        nv = np.rint(mv.T.astype(np.float64) * _NV_PER_MV)
        if (np.abs(nv) > -INVALID - 1).any():
            raise RecordError(Reason.MALFORMED, "a value beyond 2 V, expected mV")
        return Record(
            format="hdf5-code15",
            fs_hz=_FS_HZ,
            leads=LEADS,
            counts=np.where(np.isnan(nv), INVALID, nv).astype(np.int32),
            uv_per_count=(1e-3,) * len(LEADS),
            zero_counts=(0.0,) * len(LEADS),
            invalid_count=INVALID,
        )


def opened(path: str) -> Exams:
    """The file at `path` as it is now, kept open for the entries to come.

    Raises:
        RecordError: it cannot be opened, or is of another layout.
    """
    try:
        status = Path(path).stat()
    except OSError as err:
        raise RecordError(Reason.UNREADABLE, err.strerror or "cannot be opened") from err
    with _OPENING:
        return _opened(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _opened(path: str, n_bytes: int, modified_ns: int) -> Exams:
    return Exams(path, (n_bytes, modified_ns))
