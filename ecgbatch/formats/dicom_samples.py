"""Samples of DICOM waveforms in every interpretation of 8, 16 and 32 bits (PS3.3, C.10.9.1.5)."""

from typing import Any

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.formats.dicom_file import DataSet
from ecgbatch.record import Reason

__all__ = ["UNSIGNED", "ZERO_COUNT", "counts", "sample_bytes"]

UNSIGNED = ("UB", "US", "UL")
ZERO_COUNT = {"UL": -(2**31)}
"""The count of sample 0 where that is not 0: 32 bits without sign fill the range of int32."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "SB": np.dtype("i1"),
    "UB": np.dtype("u1"),
    "MB": np.dtype("u1"),
    "AB": np.dtype("u1"),
    "SS": np.dtype("<i2"),
    "US": np.dtype("<u2"),
    "SL": np.dtype("<i4"),
    "UL": np.dtype("<u4"),
}


def sample_bytes(kind: str, bits: int, *, big_endian: bool) -> int:
    """Bytes of a sample of that interpretation.

    Raises:
        RecordError: it has not so many bits, or no standard says how it is stored.
    """
    n_bytes = _DTYPES[kind].itemsize if kind in _DTYPES else 0
    if not n_bytes or bits != 8 * n_bytes:
        raise RecordError(Reason.MALFORMED, f"samples of {bits} bits, and an interpretation that is not of that size")
    if big_endian and n_bytes != 2:
        raise RecordError(Reason.MALFORMED, f"big-endian samples of {bits} bits, in an order that no standard states")
    return n_bytes


def counts(found: DataSet, kind: str, begin: int, n: int) -> np.ndarray:
    """`n` samples as int16 or int32: a view of the file's own where they are such."""
    dtype = _DTYPES[kind]
    data = found.data
    if begin % dtype.itemsize:
        data, begin = data[begin : begin + n * dtype.itemsize], 0
    stored = np.frombuffer(data, dtype.newbyteorder(">") if found.big_endian else dtype, n, begin)
    match kind:
        case "SS" | "SL":
            return stored.astype(dtype) if found.big_endian else stored
        case "US":
            return stored.astype(np.int32)
        case "UL":
            return (stored ^ np.uint32(2**31)).view(np.int32)
        case "MB":
            return _MU_LAW[stored]
        case "AB":
            return _A_LAW[stored]
    return stored.astype(np.int16)


def _mu_law() -> np.ndarray:
    """The value of each octet in 14 bits with sign (ITU-T G.711, table 2)."""
    code = np.arange(256) ^ 0xFF
    magnitude = ((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law() -> np.ndarray:
    """The value of each octet in 13 bits with sign (ITU-T G.711, table 1)."""
    code = np.arange(256) ^ 0x55
    segment, step = code >> 4 & 7, 2 * (code & 15) + 1
    magnitude = np.where(segment, (step + 32) << np.maximum(segment - 1, 0), step)
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_MU_LAW, _A_LAW = _mu_law(), _a_law()
