"""What one core of this machine can do at best, for the stages to be held against."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

__all__ = ["copy_s", "fp32_flop_per_s", "read_s"]

_N = 768
"""Rows of the matrices: 7 MB in all, enough to be busy with nothing but multiplying."""


def copy_s(n_bytes: int) -> float:
    """Seconds to copy so many bytes from one warm buffer to another."""
    source, target = np.ones(n_bytes, np.uint8), np.empty(n_bytes, np.uint8)
    return _median_s(lambda: np.copyto(target, source))


def read_s(folder: Path, n_bytes: int) -> float:
    """Seconds to have so many bytes from the page cache in a warm buffer, opening no file for it."""
    path = folder / "page-cache"
    path.write_bytes(bytes(n_bytes))
    target = [bytearray(n_bytes)]
    handle = os.open(path, os.O_RDONLY)
    try:
        return _median_s(lambda: os.preadv(handle, target, 0))
    finally:
        os.close(handle)
        path.unlink()


def fp32_flop_per_s() -> float:
    """The best rate of an fp32 matrix product in NumPy, on the cores that this process may use."""
    # A process of its own: NumPy's BLAS counts the cores once, when it is loaded.
    found = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    return float(found.stdout)


def _median_s(work: Callable[[], object], repeats: int = 101) -> float:
    taken = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        taken.append(perf_counter() - started)
    return median(taken)


def _multiply_flop_per_s() -> float:
    a, b = (np.random.default_rng(seed).random((_N, _N), np.float32) for seed in (1, 2))
    out = np.empty_like(a)
    return 2 * _N**3 / _median_s(lambda: np.matmul(a, b, out=out), repeats=41)


if __name__ == "__main__":
    print(_multiply_flop_per_s())
