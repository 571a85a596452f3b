"""NumPy arrays (`.npy`): shape and type, but neither rate, unit nor leads: those are the declared layout's."""

import re
from collections.abc import Callable
from math import prod

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.formats import layout
from ecgbatch.record import Reason, Record

__all__ = ["decode", "starts"]

_MAGIC = b"\x93NUMPY"
_TYPE = re.compile(r"'descr':\s*'([<>|=](?:[iu][1248]|f[248]))'")
_IS_FORTRAN = re.compile(r"'fortran_order':\s*(True|False)")
_SHAPE = re.compile(r"'shape':\s*\(([\d, ]*)\)")
_MAX_HEADER_BYTES = 4096


def starts(raw: bytes) -> bool:
    """Whether a file begins as NumPy arrays do."""
    return raw.startswith(_MAGIC)


def decode(raw: bytes, sibling: Callable[[str], bytes]) -> Record:
    """The array in a `.npy` file, as the layout declared beside it makes it a record.

    Raises:
        RecordError: there is no such layout, or the array is damaged or not what it declares.
    """
    return layout.record(_array(raw), layout.declared(sibling), container="npy")


def _array(raw: bytes) -> np.ndarray:
    """The array itself, never a pickled object."""
    if len(raw) < 12 or raw[6] not in (1, 2, 3):
        raise RecordError(Reason.TRUNCATED if len(raw) < 12 else Reason.MALFORMED, "no header of a NumPy array")
    begin = 10 if raw[6] == 1 else 12
    end = begin + int.from_bytes(raw[8:begin], "little")
    if end > len(raw):
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected a header of {end}")
    header = raw[begin : min(end, _MAX_HEADER_BYTES)].decode("latin-1")
    found = _TYPE.search(header), _IS_FORTRAN.search(header), _SHAPE.search(header)
    if not all(found):
        raise RecordError(Reason.MALFORMED, "a header that does not give a shape and a type of numbers")
    type_, is_fortran, dimensions = [match[1] for match in found if match]
    try:
        shape = [int(n) for n in dimensions.split(",") if n.strip()]
    except ValueError:
        raise RecordError(Reason.MALFORMED, "a shape that is none") from None
    needed = prod(shape[:32]) * np.dtype(type_).itemsize
    if len(raw) - end != needed or len(shape) != 2 or not needed:
        reason = Reason.TRUNCATED if len(raw) - end < needed and len(shape) == 2 else Reason.MALFORMED
        raise RecordError(reason, f"{len(raw) - end} bytes of {len(shape)} axes, expected two axes that fill them")
    return np.frombuffer(raw, type_, offset=end).reshape(shape, order="F" if is_fortran == "True" else "C")
