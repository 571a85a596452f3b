"""The cores that this process may use, and how its threads take turns on them."""

import os
from contextlib import suppress

__all__ = ["n_cores", "take_long_turns"]


def n_cores() -> int:
    """Those it is bound to, where the system can bind it to some; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take_long_turns() -> None:
    """Have this thread run longer at a time where others want its core, if the system and its user let it.

    Whenever it takes turns with an engine's thread, both find the caches full of the other's.
    """
    with suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
