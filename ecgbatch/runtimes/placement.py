"""Which GPUs a run uses, which shard is whose, and the joint stream of what they give."""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from queue import Full, Queue
from threading import Event, Thread
from typing import Protocol, TypeVar

from ecgbatch.errors import EngineError, UsageError

__all__ = ["gpus", "listed", "merged", "own_shards", "require_present", "split"]

T = TypeVar("T")
_Item = tuple[int, T] | BaseException | None
_AHEAD = 2
_POLL_S = 0.05


class _Numbered(Protocol):
    @property
    def index(self) -> int: ...


S = TypeVar("S", bound=_Numbered)


def gpus(device: str) -> tuple[int, ...]:
    """Indices of the GPUs that `cuda`, `cuda:1` or `cuda:0,1` names; `cuda` is the first.

    Raises:
        UsageError: it names none, or one of them twice.
    """
    found = re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", device)
    if not found:
        raise UsageError(f"device {device!r}, expected 'cuda', 'cuda:<index>' or 'cuda:<index>,<index>'")
    indices = tuple(int(index) for index in (found[1] or "0").split(","))
    if len(set(indices)) < len(indices):
        raise UsageError(f"device {device!r} names a GPU twice, expected each once")
    return indices


def listed(devices: str) -> list[str]:
    """The devices of a list: `cpu,cuda:0,1` is the CPU, and the GPUs 0 and 1 together; `auto` is the CPU."""
    return ["cpu" if device == "auto" else device for device in re.split(r",(?!\d)", devices)]


def split(device: str) -> list[str]:
    """Each GPU of a device that names several, as a device of its own; any other device as it is.

    Raises:
        UsageError: `device` begins with `cuda` and names no GPU, or one of them twice.
    """
    return [f"cuda:{index}" for index in gpus(device)] if device.startswith("cuda") else [device]


def require_present(indices: Sequence[int], n_present: int) -> None:
    """Nothing, where this machine has all of these GPUs.

    Raises:
        EngineError: it has not.
    """
    if missing := [index for index in indices if index >= n_present]:
        has = f"cuda:0 to cuda:{n_present - 1}" if n_present > 1 else "cuda:0 only" if n_present else "no GPU"
        raise EngineError(f"device 'cuda:{missing[0]}', but this machine has {has}")


def own_shards(shards: Iterable[S], position: int, n_devices: int) -> Iterator[S]:
    """The shards of one of n devices: every n-th by the plan's number, whichever are already done."""
    return (shard for shard in shards if shard.index % n_devices == position)


def merged(streams: Sequence[Iterator[T]]) -> Iterator[tuple[int, T]]:
    """What several streams give, as it comes, with the position of its stream; each runs on a thread of its own.

    Of each stream the order is kept, and at most a few items are made ahead. The first exception of any is raised here
    once all of them have stopped; so they are when this is closed early.
    """
    ready: Queue[_Item[T]] = Queue(_AHEAD * len(streams))
    stopping = Event()
    threads = [Thread(target=_pump, args=(at, each, ready, stopping)) for at, each in enumerate(streams)]
    for thread in threads:
        thread.start()
    try:
        n_running = len(threads)
        while n_running:
            match ready.get():
                case None:
                    n_running -= 1
                case BaseException() as err:
                    raise err
                case item:
                    yield item
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _pump(at: int, stream: Iterator[T], ready: "Queue[_Item[T]]", stopping: Event) -> None:
    last: BaseException | None = None
    try:
        with closing(_closable(stream)) as items:
            for item in items:
                if not _put(ready, (at, item), stopping):
                    return
    except BaseException as err:  # raised again where the streams are merged
        last = err
    _put(ready, last, stopping)


def _closable(stream: Iterator[T]) -> Generator[T, None, None]:
    yield from stream  # which is closed with this, where it is a generator


def _put(ready: "Queue[_Item[T]]", item: "_Item[T]", stopping: Event) -> bool:
    """Whether the item was taken; it is not where nobody waits for it any more."""
    while not stopping.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
        except Full:
            continue
        return True
    return False
