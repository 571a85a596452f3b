"""The cores that this process may use."""

import os

__all__ = ["n_cores"]


def n_cores() -> int:
    """Those it is bound to, where the system can bind it to some; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
