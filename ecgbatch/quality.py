"""Signal quality: measures of one record, in the output as columns."""

import numpy as np

from ecgbatch.record import Quality

__all__ = ["measure"]


def measure(extent_nv: np.ndarray, flat_leads: tuple[str, ...]) -> Quality:
    """Quality of the independent leads; `extent_nv` holds the smallest and largest int32 nV of each (lead, 2 or more)."""
    span_nv = extent_nv[:, 1].astype(np.int64) - extent_nv[:, 0]
    return Quality(flat_leads=flat_leads, amplitude_uv=max(float(span_nv.max()), 0.0) * 1e-3)
