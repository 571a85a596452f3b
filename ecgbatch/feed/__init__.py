"""Feeds: entries become batches of model input, read, decoded and judged on the host."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ecgbatch.bundle import InputSpec
from ecgbatch.errors import UsageError
from ecgbatch.plan import Shard

if TYPE_CHECKING:
    from ecgbatch.feed.batch import Batch

__all__ = ["FEEDS", "Feed", "open_feed"]

FEEDS = ("host", "dali")
"""Who makes model input of decoded records: the host's own kernels, or a DALI graph."""

Feed = Callable[[Iterable[Shard]], Generator["Batch", None, None]]
"""Every entry of every shard, in order, as `batch.batches` gives them; closed, it ends what works for it."""


def open_feed(
    name: str,
    specs: Sequence[InputSpec],
    *,
    device: str,
    size: int,
    workers: int,
    least_quality: float | None = None,
) -> Feed:
    """A feed of batches of at most `size` records for engines on `device`.

    Raises:
        UsageError: there is no such feed.
        MissingExtraError: its library is not installed.
        EngineError: its operator has not been built, or the device cannot be had.
    """
    match name:
        case "host":
            from ecgbatch.feed.batch import batches

            return partial(batches, specs=specs, size=size, workers=workers, least_quality=least_quality)
        case "dali":
            from ecgbatch.feed import dali

            return dali.opened(specs, device=device, size=size, workers=workers, least_quality=least_quality)
    raise UsageError(f"feed {name!r}, expected {' or '.join(map(repr, FEEDS))}")
