"""Work done ahead and given in order: by threads, or by processes where there is much of it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain, islice
from typing import TypeVar

from ecgbatch.cores import take_long_turns
from ecgbatch.feed.worker import Memory, Worker, can_start

__all__ = ["ahead"]

T = TypeVar("T")
R = TypeVar("R")

_FEW = 32
"""Items that are done by the time a process has started."""
_HELD = 8
"""Results that whoever takes them has at a time, as a rule."""


def ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    workers: int,
    *,
    kin: Callable[[T], object] = lambda _: None,
    waits: Callable[[T], bool] = lambda _: False,
) -> Generator[R, None, None]:
    """`work` on every item, in order, by `workers` a few items ahead; what it raises is raised here.

    Consecutive items of one `kin`, which is not None, go to the same process; if the first ones are such that the work
    mostly `waits`, threads do it all.

    Raises:
        FeedError: a process has ended, or cannot be started.
    """
    items = iter(items)
    first = list(islice(items, _FEW))
    items = chain(first, items)
    if workers == 1 or len(first) < _FEW or any(map(waits, first)) or not can_start():
        return _by_threads(work, items, workers)
    return _by_processes(work, items, workers, kin)


def _by_threads(work: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="feed", initializer=take_long_turns)
    running: deque[Future[R]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(
    work: Callable[[T], R], items: Iterable[T], workers: int, kin: Callable[[T], object]
) -> Generator[R, None, None]:
    n_ahead = 2 * workers
    with ExitStack() as stack:
        memory = stack.enter_context(closing(Memory(n_ahead + 1 + _HELD)))
        turns = deque(stack.enter_context(closing(Worker(work, memory))) for _ in range(workers))
        running: deque[Worker[T, R]] = deque()
        last: object = None
        for item in items:
            this = kin(item)
            if this is None or this != last:
                turns.rotate(-1)
            last = this
            turns[0].start(item)
            running.append(turns[0])
            if len(running) > n_ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
