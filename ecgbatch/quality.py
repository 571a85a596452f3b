"""Signal quality: measures of one record, in the output as columns."""

from ecgbatch.record import Quality

__all__ = ["measure"]


def measure(widest_nv: int, flat_leads: tuple[str, ...]) -> Quality:
    """Quality of the independent leads; `widest_nv` is that of `host.measured`."""
    return Quality(flat_leads=flat_leads, amplitude_uv=widest_nv * 1e-3)
