"""What a cohort's records are good for, found by reading each of them once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import RecordError
from ecgbatch.feed import host
from ecgbatch.record import Reason, Record, Reject
from ecgbatch.train.cohort import Cohort, waveform_of

__all__ = ["Survey", "survey"]

_THREADS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The records that a model of this input can be trained on."""

    cohort: Cohort
    """Without the others, which `left_out` counts by reason."""
    variance: np.ndarray
    """float64 (record, lead): mV² about the record's own mean, in the part that the model sees."""
    waveforms: np.ndarray
    """uint64 (record,): `waveform_of` each record."""

    def scale_mv(self, at: np.ndarray) -> tuple[float, ...]:
        """Each lead's standard deviation in mV over the records of these numbers; 0.001 at least."""
        return tuple(max(0.001, round(float(value), 3)) for value in np.sqrt(self.variance[at].mean(axis=0)))


def survey(cohort: Cohort, spec: InputSpec) -> Survey:
    """Read every record, and leave out those that scoring with `spec` would reject."""
    blocks = in_blocks(cohort, np.arange(len(cohort)))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="survey") as pool:
        found = [one for block in pool.map(lambda at: _looked_at(cohort, spec, at), blocks) for one in block]
    good = [one for one in found if not isinstance(one, Reason)]
    reasons = Counter(str(one) for one in found if isinstance(one, Reason))
    variance = np.array([one for one, _ in good]).reshape(-1, len(spec.leads))
    kept = cohort.only(np.flatnonzero([not isinstance(one, Reason) for one in found]))
    waveforms = np.array([one for _, one in good], np.uint64)
    return Survey(replace(kept, left_out={**cohort.left_out, **reasons}), variance, waveforms)


def in_blocks(cohort: Cohort, at: np.ndarray) -> list[np.ndarray]:
    """The records of these numbers, which ascend, parted where a block of the cohort ends."""
    block = cohort.ecgs.block[cohort.rows[at]]
    return np.split(at, np.flatnonzero(np.diff(block)) + 1) if len(at) else []


def _looked_at(cohort: Cohort, spec: InputSpec, at: np.ndarray) -> list[tuple[np.ndarray, int] | Reason]:
    x = np.empty((len(spec.leads), spec.samples), np.float32)
    return [_seen(record, spec, x) for record in cohort.read(at)]


def _seen(record: Record | Reject, spec: InputSpec, x: np.ndarray) -> tuple[np.ndarray, int] | Reason:
    """mV² of each lead and the waveform, or why the record cannot be scored."""
    if isinstance(record, Reject):
        return record.reason
    flat = host.flat_leads(record)
    if len(flat) == len(record.leads):
        return Reason.NO_SIGNAL
    try:
        nv = host.nanovolts(record, spec.leads, flat)
        host.model_input(nv, record.fs_hz, spec, x)
    except RecordError as defect:
        return Reason(defect.reason)
    seen = nv[:, : round(spec.seconds * record.fs_hz)]
    variance: np.ndarray = np.var(seen * 1e-6, axis=1)
    return variance, waveform_of(x)
