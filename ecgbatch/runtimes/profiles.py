"""Batch sizes that a TensorRT engine is built for, and how a batch of any size fits into one of them."""

from collections.abc import Sequence

from jaxtyping import Float32
from numpy import ndarray

from ecgbatch.errors import EngineError

__all__ = ["ALIGNMENT_BYTES", "fill", "fits_in_place", "size_for", "sizes"]

ALIGNMENT_BYTES = 256  # of an address given to IExecutionContext.set_tensor_address, TensorRT 11 API reference
_STEP = 4
_MOST = 4


def sizes(batch: int) -> tuple[int, ...]:
    """At most four batch sizes, smallest first: `batch`, a quarter of it, and so on.

    Fixed sizes let TensorRT choose its kernels for exactly them; a shard's tail then costs less than four times its
    own work, once a shard, and each further size would cost its share of the build.

    Raises:
        EngineError: `batch` is not a number of records.
    """
    if batch < 1:
        raise EngineError(f"batch of {batch} records, expected at least 1")
    found = [batch]
    while found[-1] > 1 and len(found) < _MOST:
        found.append(-(-found[-1] // _STEP))
    return tuple(reversed(found))


def size_for(n: int, built: Sequence[int]) -> int:
    """Position in `built`, which ascends, of the smallest size that holds n records.

    Raises:
        EngineError: none does.
    """
    for at, size in enumerate(built):
        if n <= size:
            return at
    raise EngineError(f"batch of {n} records, expected at most {built[-1]}; take a smaller --batch")


def fill(x: Float32[ndarray, "record ..."], out: Float32[ndarray, "size ..."]) -> None:
    """Write x into the first rows of `out` and zeros into the others, whose results are then dropped.

    Rows do not see each other; zeros only keep what lay there before from costing time as infinities or NaNs might.
    """
    out[: len(x)] = x
    out[len(x) :] = 0


def fits_in_place(n: int, size: int, address: int) -> bool:
    """Whether n records at this device address can be an engine's input of `size` records without a copy."""
    return n == size and address % ALIGNMENT_BYTES == 0
