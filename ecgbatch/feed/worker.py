"""A process that does one kind of work: threads of one interpreter would take turns rather than work at once.

Work and results are pickled, but for their arrays, into memory that only the two processes have; nothing of it is ever
a file.
"""

import json
import os
import pickle
import select
import sys
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from multiprocessing.connection import Connection
from signal import SIGINT, SIGKILL, SIGTERM, siginterrupt, strsignal
from socket import socketpair
from subprocess import DEVNULL, Popen, TimeoutExpired
from threading import Thread
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from ecgbatch.cores import take_long_turns
from ecgbatch.errors import FeedError

__all__ = ["Memory", "Worker", "can_start", "serve"]

T = TypeVar("T")
R = TypeVar("R")

_ALIGNMENT = 64
_PATIENCE_S = 5.0
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ecgbatch.feed import worker; "
    "worker.serve(*map(int, sys.argv[2:]))"
)
"""It finds what we find, and runs nothing of the program that we are in, as `multiprocessing` would."""
Span = tuple[int, int]
"""Begin and end of bytes."""


def can_start() -> bool:
    """Whether this system has what it takes: memory without a file (Linux), and an interpreter to start."""
    try:
        os.close(os.memfd_create("ecgbatch"))
    except (AttributeError, OSError):
        return False
    return bool(sys.executable)


class _Slot:
    """Memory that two processes see; it doubles until what is put in has room, and never shrinks."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._mapped: mmap | bytes = b""

    def put(self, item: object) -> list[Span]:
        """Write an item; where it is now: its pickle, then each of its arrays."""
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(item, 5, buffer_callback=arrays.append)
        pieces = [memoryview(pickled), *(array.raw() for array in arrays)]
        spans: list[Span] = []
        end = 0
        for piece in pieces:
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + len(piece)
            spans.append((begin, end))
        place = self.bytes(end).data
        for (begin, end), piece in zip(spans, pieces, strict=True):
            place[begin:end] = piece
        return spans

    def bytes(self, n: int) -> UInt8[ndarray, " n"]:
        """The first `n`, as an array that keeps them."""
        if n > len(self._mapped):
            there = max(1 << (n - 1).bit_length(), os.fstat(self.fd).st_size)
            os.ftruncate(self.fd, there)
            self._mapped = mmap(self.fd, there)
        return np.frombuffer(self._mapped, np.uint8, n)


class Memory:
    """What the workers of one feed share with the process that started them: slots, each for an item at a time."""

    def __init__(self, n_slots: int) -> None:
        """Make them.

        Raises:
            FeedError: the system has no more.
        """
        self.slots: list[_Slot] = []
        self._free = deque(range(n_slots))
        try:
            for at in range(n_slots):
                self.slots.append(_Slot(os.memfd_create(f"ecgbatch {at}")))
        except OSError as err:
            self.close()
            raise _too_many(err) from err

    def put(self, item: object) -> tuple[int, list[Span]]:
        """Write an item into a free slot: which one, and where in it.

        Raises:
            FeedError: the system has no more memory or files.
        """
        at = self._free.popleft()
        try:
            return at, self.slots[at].put(item)
        except OSError as err:
            raise _too_many(err) from err

    def take(self, at: int, spans: list[Span]) -> Any:
        """The item in a slot, which is free again when the item's arrays are gone.

        One slot is always left free: where this one would have been the last, the arrays are copied.

        Raises:
            FeedError: the system has no more memory or files.
        """
        try:
            place = self.slots[at].bytes(spans[-1][1])
        except OSError as err:
            raise _too_many(err) from err
        if self._free:
            weakref.finalize(place, self._free.append, at)
        else:
            place = place.copy()
            self._free.append(at)
        return _item(place, spans)

    def close(self) -> None:
        """Let go of the memory; arrays that lie in it keep theirs."""
        for slot in self.slots:
            os.close(slot.fd)


class Worker(Generic[T, R]):
    """A process that does `work`, one item after the other."""

    def __init__(self, work: Callable[[T], R], memory: Memory) -> None:
        """Start it; `work` and what it is given and gives can be pickled.

        Raises:
            FeedError: the system starts no more.
        """
        self._memory = memory
        self._slots: deque[int] = deque()
        pickled = pickle.dumps(work)  # before a process is started for what cannot be
        try:
            ours, theirs = socketpair()
            with theirs:
                fds = [theirs.fileno(), *(slot.fd for slot in memory.slots)]
                self._connection = Connection(ours.detach())
                self._process = Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, json.dumps([*map(str, sys.path)]), *map(str, fds)],
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    pass_fds=fds,
                    process_group=0,  # an interrupt is for us; it ends when we close the connection, or are gone
                )
        except OSError as err:
            raise _too_many(err) from err
        self._send(pickled)

    def start(self, item: T) -> None:
        """Have it work on an item when it is done with those before."""
        at, spans = self._memory.put(item)
        self._slots.append(at)
        self._send((at, spans))

    def result(self) -> R:
        """That of the first item whose result was not taken yet.

        Raises:
            FeedError: the process has ended.
            Exception: what `work` has raised.
        """
        siginterrupt(SIGINT, True)  # Polars, once it is used, has a wait go on after an interrupt
        try:
            is_done, spans = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        item = self._memory.take(self._slots.popleft(), spans)
        if not is_done:
            raise item
        return item

    def close(self) -> None:
        """End it, whatever it does; one that the system cannot end yet ends later."""
        self._connection.close()
        self._process.kill()
        with suppress(TimeoutExpired):
            self._process.wait(_PATIENCE_S)

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._ended() from None

    def _ended(self) -> FeedError:
        code = self._process.wait()
        end = f"signal {-code} ({strsignal(-code)})" if code < 0 else f"exit code {code}"
        known = "" if -code in (SIGKILL, SIGTERM) else "; if it does so again, a file of the archive may be the cause"
        return FeedError(f"a process that reads and decodes ended by {end}; the same command goes on from here{known}")


def _too_many(err: OSError) -> FeedError:
    return FeedError(f"no more processes to read and decode: {err.strerror}; take fewer --workers")


def _item(place: UInt8[ndarray, " n"], spans: list[Span]) -> Any:
    head, *arrays = (place[begin:end].data for begin, end in spans)
    return pickle.loads(head, buffers=arrays)


def serve(socket: int, *fds: int) -> None:
    """Work, in the process that was started for it, until the other side closes the connection."""
    take_long_turns()
    Thread(target=_end_with_it, args=(socket,), daemon=True).start()
    connection, slots = Connection(socket), [_Slot(fd) for fd in fds]
    with suppress(EOFError, ConnectionError):
        work = pickle.loads(connection.recv())
        while True:
            at, spans = connection.recv()
            item = _item(slots[at].bytes(spans[-1][1]).copy(), spans)  # the outcome takes its place
            is_done, outcome = _outcome(work, item)
            try:
                spans = slots[at].put(outcome)
            except OSError as err:  # to say so takes less room
                is_done, spans = False, slots[at].put(_too_many(err))
            connection.send((is_done, spans))


def _end_with_it(socket: int) -> None:
    """End this process, whatever it does, when the other side has gone."""
    gone = select.poll()
    gone.register(socket, 0)  # nothing but a hang-up
    gone.poll()
    os._exit(1)


def _outcome(work: Callable[[T], R], item: T) -> tuple[bool, R | Exception]:
    """Whether the work was done, and what came of it."""
    try:
        return True, work(item)
    except Exception as err:
        err.add_note("".join(traceback.format_tb(err.__traceback__)))
        with suppress(Exception):
            pickle.loads(pickle.dumps(err))
            return False, err
        return False, RuntimeError("".join(traceback.format_exception(err)))
