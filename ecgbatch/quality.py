"""Signal quality: measures of one record, in the output as columns."""

import numpy as np

from ecgbatch.record import Quality

__all__ = ["measure"]


def measure(nv: np.ndarray, flat_leads: tuple[str, ...]) -> Quality:
    """Quality of int32 nV (lead, time) of the independent leads, samples all present."""
    span_nv = nv.max(axis=1).astype(np.int64) - nv.min(axis=1)
    return Quality(flat_leads=flat_leads, amplitude_uv=float(span_nv.max()) * 1e-3)
