"""Signal quality: measures of one record, in the output as columns."""

from jaxtyping import Int32
from numpy import ndarray

from ecgbatch.record import Quality

__all__ = ["measure"]


def measure(extent_nv: Int32[ndarray, "lead 3"], flat_leads: tuple[str, ...]) -> Quality:
    """Quality of the independent leads; `extent_nv` is that of `host.measured`."""
    widest_nv = max(high - low for low, high, _ in extent_nv.tolist())
    return Quality(flat_leads=flat_leads, amplitude_uv=max(widest_nv, 0) * 1e-3)
