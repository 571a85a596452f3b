"""Signal quality: measures of one record, in the output as columns."""

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from ecgbatch.record import Quality

__all__ = ["measure"]


def measure(extent_nv: Int32[ndarray, "lead 3"], flat_leads: tuple[str, ...]) -> Quality:
    """Quality of the independent leads; `extent_nv` is that of `host.measured`."""
    span_nv = extent_nv[:, 1].astype(np.int64) - extent_nv[:, 0]
    return Quality(flat_leads=flat_leads, amplitude_uv=max(float(span_nv.max()), 0.0) * 1e-3)
