"""Samples as decimal text, thousands of them at once."""

from functools import lru_cache

import numpy as np

__all__ = ["decimals"]


def decimals(counts: np.ndarray, separator: str) -> str:
    """int16 counts (time,) one after another, each of them with the separator behind it."""
    return _words(separator)[counts.astype(np.int16).view(np.uint16)].tobytes().translate(None, b"\0").decode("ascii")


@lru_cache(maxsize=4)
def _words(separator: str) -> np.ndarray:
    """By the bits of a count: its digits with the separator, NULs behind them."""
    return np.array([f"{n}{separator}" for n in (*range(2**15), *range(-(2**15), 0))], "S8")
