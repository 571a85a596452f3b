"""One piece of work in several processes, a device each: all of them end well, or none goes on.

Fabric's other way, to run the command line anew for each device, watches the others from the first alone: nobody ends
them where that one is killed, and where one of them ends, it is killed without a word.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from threading import Thread

from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from ecgbatch.errors import EcgbatchError, EngineError, UsageError

__all__ = ["launch"]


def launch(fabric: Fabric, work: Callable[[Fabric], object]) -> None:
    """Have every process of `fabric` do `work`, which is pickled, and wait for all of them.

    Raises:
        EcgbatchError: what the first that failed has raised.
        EngineError: one of them was killed.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells which ones it ends
    context = get_context("spawn")
    errors = context.SimpleQueue()
    theirs, ours = context.Pipe(duplex=False)
    with theirs, ours:  # closed when we leave, however we do
        try:
            fabric.launch(partial(_do, work, theirs, errors))
        except ProcessException as err:
            if not errors.empty():
                raise errors.get() from None
            if not isinstance(err, ProcessExitedException):
                raise
            end = err.signal_name or f"exit code {err.exit_code}"
            raise EngineError(
                f"process {err.error_index + 1} of {fabric.world_size} ended by {end}, so all did; "
                "go on from the last checkpoint with --resume"
            ) from None


def _do(
    work: Callable[[Fabric], object], theirs: Connection, errors: "SimpleQueue[EcgbatchError]", fabric: Fabric
) -> None:
    Thread(target=_end_after, args=(theirs,), daemon=True).start()
    try:
        work(fabric)
    except EcgbatchError as err:
        errors.put((UsageError if isinstance(err, UsageError) else EcgbatchError)(str(err)))  # these can be pickled
        sys.exit(1)


def _end_after(theirs: Connection) -> None:
    """End this process, whatever it waits for, when the one that launched it has left."""
    with suppress(EOFError, OSError):
        theirs.recv()  # nothing is ever sent
    os._exit(1)
