"""Normalised ECGs and their labels in batches, in an order that follows from the seed and the epoch alone.

Blocks of ECGs that lie together are read in a random order into a buffer of bounded size, and every batch is drawn from
the buffer: what is in memory does not grow with the cohort. A small cohort is kept in memory whole, in the same order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import ArchiveError, RecordError
from ecgbatch.feed import host
from ecgbatch.record import Record
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.survey import in_blocks

__all__ = ["CACHED_BYTES", "Inputs", "Stream"]

T = TypeVar("T")
U = TypeVar("U")

CACHED_BYTES = 2**29
"""Input of a cohort that is kept in memory: of one side of a split, and there are two that are read again and again."""
BUFFER_BYTES = 2**28
"""Input that batches are drawn from, where the cohort is larger."""
_THREADS = 2
"""That read and normalise blocks."""
_AHEAD = 2
"""Batches that are ready before they are asked for."""
_END = object()


class Inputs:
    """What a network sees of each record of a cohort: float32 (record, lead, time)."""

    def __init__(self, cohort: Cohort, spec: InputSpec, *, cached_bytes: int = CACHED_BYTES) -> None:
        self.cohort = cohort
        self.spec = spec
        self.record_bytes = 4 * len(spec.leads) * spec.samples
        self.blocks = in_blocks(cohort, np.arange(len(cohort)))
        """Numbers of the records that are best read together."""
        self._kept: np.ndarray | None = None
        if self.record_bytes * len(cohort) <= cached_bytes:
            kept = self._empty(len(cohort))
            for at, x in zip(self.blocks, self.each(self.blocks), strict=True):
                kept[at] = x
            self._kept = kept

    @property
    def is_kept(self) -> bool:
        """Whether they are in memory."""
        return self._kept is not None

    def of(self, at: np.ndarray, *, wanted: np.ndarray | None = None) -> np.ndarray:
        """The input of these records, in this order; anything for those that `wanted`, bool (record,), leaves out."""
        if self._kept is not None:
            return self._kept[at]
        order = np.argsort(at, kind="stable")
        if wanted is not None:
            order = order[wanted[at[order]]]
        x, start = self._empty(len(at)), 0
        for block in self.each(in_blocks(self.cohort, at[order])):
            x[order[start : start + len(block)]] = block
            start += len(block)
        return x

    def each(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The input of each of these blocks of records, made a few blocks ahead."""
        return _mapped(self.of if self._kept is not None else self._normalised, blocks)

    def _empty(self, n: int) -> np.ndarray:
        return np.empty((n, len(self.spec.leads), self.spec.samples), np.float32)

    def _normalised(self, at: np.ndarray) -> np.ndarray:
        """The input of records that lie in one block."""
        x = self._empty(len(at))
        for record, name, out in zip(self.cohort.read(at), self.cohort.record_ids[at], x, strict=True):
            if not isinstance(record, Record):
                raise ArchiveError(f"{name}: could be read when training began, now {record.reason}: {record.detail}")
            try:
                host.normalise(record, self.spec, out)
            except RecordError as defect:
                raise ArchiveError(f"{name}: {defect.reason}: {defect.detail}; it could be used before") from defect
        return x


class Stream:
    """The batches of one epoch after another; each record is in an epoch once at most."""

    def __init__(
        self, inputs: Inputs, *, batch: int, seed: int, buffer_bytes: int = BUFFER_BYTES, share: slice = slice(None)
    ) -> None:
        """Of every batch of `batch` records yield those in `share`, where several processes go through one stream."""
        self.inputs = inputs
        self._share = share
        self._batch = min(batch, len(inputs.cohort))
        self._seed = seed
        self._n_slots = min(len(inputs.cohort), max(4 * batch, buffer_bytes // inputs.record_bytes))
        self.n_steps = len(inputs.cohort) // self._batch
        """Of an epoch; a short last batch would disturb normalisation, and is left out."""

    def epoch(self, number: int, *, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """float32 (record, lead, time) and targets (record, label) of each step from `start` on."""
        batches = self._kept(number, start) if self.inputs.is_kept else self._streamed(number, start)
        return _prefetched(batches, _AHEAD)

    def _kept(self, number: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        _, draws = self._draws(number)
        for step, (_, records, _) in enumerate(draws):
            if step >= start:
                mine = records[self._share]
                yield self.inputs.of(mine), self.inputs.cohort.targets[mine]

    def _streamed(self, number: int, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order, draws = self._draws(number)
        held = np.concatenate(order)[: self._n_slots]
        n_read = len(held)
        for _ in range(start):
            slots, _, fresh = next(draws)
            held[slots[: len(fresh)]] = fresh
            n_read += len(fresh)
        is_drawn = self._is_drawn(number)
        buffer = self.inputs.of(held, wanted=is_drawn)
        wanted = (block[is_drawn[block]] for block in _from(order, n_read))
        arriving = (row for block in self.inputs.each(filter(len, wanted)) for row in block)
        for slots, records, fresh in draws:
            x = buffer[slots[self._share]]
            for slot, record in zip(slots, fresh, strict=False):  # towards the end fewer arrive
                if is_drawn[record]:
                    buffer[slot] = next(arriving)
            yield x, self.inputs.cohort.targets[records[self._share]]

    def _is_drawn(self, number: int) -> np.ndarray:
        """Whether a record, bool (record,), is in the share of any batch of that epoch; no other is read."""
        is_drawn = np.zeros(len(self.inputs.cohort), bool)
        for _, records, _ in self._draws(number)[1]:
            is_drawn[records[self._share]] = True
        return is_drawn

    def _draws(self, number: int) -> tuple[list[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Blocks of records in the order of reading, and what each step does with the buffer."""
        rng = np.random.default_rng([self._seed, number])
        order = [self.inputs.blocks[at] for at in rng.permutation(len(self.inputs.blocks))]
        return order, _drawn(np.concatenate(order), self._n_slots, self._batch, self.n_steps, rng)


def _drawn(
    order: np.ndarray, n_slots: int, batch: int, n_steps: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """At each step: the slots of the buffer that are emptied, the records in them, and those that take their place."""
    held, n_read, live = order[:n_slots].copy(), n_slots, np.arange(n_slots)
    for _ in range(n_steps):
        slots = rng.choice(live, batch, replace=False)
        records = held[slots]
        fresh = order[n_read : n_read + batch]
        n_read += len(fresh)
        held[slots[: len(fresh)]] = fresh
        live = live if len(fresh) == batch else np.setdiff1d(live, slots[len(fresh) :])
        yield slots, records, fresh


def _from(blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
    """What is left of the blocks after so many records."""
    for block in blocks:
        if start < len(block):
            yield block[start:]
        start = max(0, start - len(block))


def _mapped(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`function` of every item, in order, by a few threads ahead; an exception is raised where its result would be."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stream")
    ahead: deque[Future[U]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > _THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prefetched(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, made up to `depth` ahead on a thread; its exception is raised here, in order."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    ahead = deque(pool.submit(next, items, _END) for _ in range(depth))
    try:
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(pool.submit(next, items, _END))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
