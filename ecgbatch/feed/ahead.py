"""Work done ahead and given in order: by threads, or by processes where there is much of it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
    work: Callable[[T], R], items: Iterable[T], workers: int, *, kin: Callable[[T], object] = lambda _: None
) -> Iterator[R]:
    """`work` on every item, in order, by `workers` a few items ahead; what it raises is raised here.

    Consecutive items of one `kin`, which is not None, go to the same process.

    Raises:
        FeedError: a process was killed.
    """
    items = iter(items)
    first = list(islice(items, _FEW))
    items = chain(first, items)
    if workers == 1 or len(first) < _FEW or not can_start():
        return _by_threads(work, items, workers)
    return _by_processes(work, items, workers, kin)


def _by_threads(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
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


def _by_processes(work: Callable[[T], R], items: Iterable[T], workers: int, kin: Callable[[T], object]) -> Iterator[R]:
    with ExitStack() as stack:
        memory = stack.enter_context(closing(Memory(2 * workers + 1 + _HELD)))
        turns = deque(stack.enter_context(closing(Worker(work, memory))) for _ in range(workers))
        running: deque[Worker[T, R]] = deque()
        last: object = None
        for item in items:
            if (of := kin(item)) is None or of != last:
                turns.rotate(-1)
            last = of
            turns[0].start(item)
            running.append(turns[0])
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
