"""MATLAB files (level 5): an array in a variable or in a field of a structure, which the declared layout names.

Nothing but that array is taken out of the file, and of a compressed variable no more is inflated than it declares.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from math import prod
from struct import Struct
from typing import NamedTuple

import numpy as np

from ecgbatch.errors import RecordError
from ecgbatch.formats import layout
from ecgbatch.formats.layout import Layout
from ecgbatch.record import Reason, Record

__all__ = ["decode", "is_later", "starts"]

_MAGIC, _LATER = b"MATLAB 5.0 MAT-f", b"MATLAB 7.3 MAT-f"
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_STRUCTURE, _FIRST_NUMERIC, _LAST_NUMERIC = 2, 6, 15  # classes of arrays
_COMPLEX_OR_LOGICAL = 0x0A  # flags
_RATE = "curr_sample_rate"  # beside the exams of CODE-15 that were exported one by one
_MAX_ELEMENTS = 4096  # variables of a file, fields of a structure
_MAX_BYTES = 64 * 2**20  # of a variable once inflated
_MAX_INFLATION = 1032  # of deflate, by its own design
_HEAD_BYTES = 1024  # hold flags, shape and name of a variable


class _Element(NamedTuple):
    type: int
    content: memoryview


class _Matrix(NamedTuple):
    """What an array says of itself, and the elements that follow."""

    array_class: int
    flags: int
    shape: tuple[int, ...]
    name: str
    parts: Iterator[_Element]


class _Order(NamedTuple):
    """Byte order of a file."""

    mark: str
    pair: Struct


def starts(raw: bytes) -> bool:
    """Whether a file begins as MATLAB's level 5 does."""
    return raw.startswith(_MAGIC)


def is_later(raw: bytes) -> bool:
    """Whether a file begins as MATLAB's files of version 7.3 do, which are HDF5."""
    return raw.startswith(_LATER)


def decode(raw: bytes, sibling: Callable[[str], bytes]) -> Record:
    """The array that the layout declared beside a MATLAB file names, as the layout makes it a record.

    Raises:
        RecordError: there is no such layout or variable, or the array is damaged or not what the layout declares.
    """
    found = layout.declared(sibling)
    if not found.variable:
        raise RecordError(Reason.MALFORMED, f"{layout.FILE}: no key 'variable', expected the array's name in the .mat")
    if len(raw) < _HEADER_BYTES:
        raise RecordError(Reason.TRUNCATED, f"{len(raw)} bytes, expected a header of {_HEADER_BYTES}")
    mark = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    if mark is None:
        raise RecordError(Reason.MALFORMED, "a header without its byte order")
    order = _Order(mark, Struct(f"{mark}II"))
    name, _, field = found.variable.partition(".")
    array, rate_hz = _array(raw, order, name, field)
    _require_rate(rate_hz, found)
    return layout.record(array, found, container="mat")


def _array(raw: bytes, order: _Order, name: str, field: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The array of that name, or in that field of a structure of that name; and the rate, where one is stated."""
    array = rate_hz = None
    for element in _elements(memoryview(raw)[_HEADER_BYTES:], order):
        matrix = _variable(element, order, (name, _RATE))
        if matrix and matrix.name == name and array is None:
            array = _numbers(_field(matrix, order, field) if field else matrix, order)
        elif matrix and matrix.name == _RATE:
            rate_hz = _numbers(matrix, order)
    if array is None:
        raise RecordError(Reason.MALFORMED, f"no variable of the name that {layout.FILE} declares")
    return array, rate_hz


def _elements(content: memoryview, order: _Order) -> Iterator[_Element]:
    """The elements that follow each other, each on a multiple of eight bytes but after a compressed one."""
    at = 0
    for _ in range(_MAX_ELEMENTS):
        if at >= len(content):
            return
        if len(content) - at < 8:
            raise RecordError(Reason.TRUNCATED, "an element's tag is cut off")
        type_, n_bytes = order.pair.unpack_from(content, at)
        begin, padding = at + 8, -n_bytes % 8 if type_ != _COMPRESSED else 0
        if type_ > 0xFFFF:  # up to four bytes within the tag
            type_, n_bytes, begin, padding = type_ & 0xFFFF, type_ >> 16, at + 4, 0
            if n_bytes > 4:
                raise RecordError(Reason.MALFORMED, f"a small element of {n_bytes} bytes")
            at += 8
        else:
            at = begin + n_bytes + padding
        if begin + n_bytes > len(content):
            raise RecordError(
                Reason.TRUNCATED, f"an element of {n_bytes} bytes, of which {len(content) - begin} are there"
            )
        yield _Element(type_, content[begin : begin + n_bytes])
    raise RecordError(Reason.MALFORMED, f"more than {_MAX_ELEMENTS} elements")


def _variable(element: _Element, order: _Order, names: tuple[str, ...]) -> _Matrix | None:
    """A variable, where it is an array of one of those names."""
    if element.type == _COMPRESSED:
        return _inflated(element.content, order, names)
    if element.type != _MATRIX:
        return None
    matrix = _matrix(element.content, order)
    return matrix if matrix.name in names else None


def _inflated(content: memoryview, order: _Order, names: tuple[str, ...]) -> _Matrix | None:
    """The same of a compressed variable."""
    inflate = zlib.decompressobj()
    try:
        head = inflate.decompress(content, _HEAD_BYTES)
        if len(head) < 8:
            raise RecordError(Reason.CORRUPT_PAYLOAD, "a compressed variable that ends before its tag")
        type_, n_bytes = order.pair.unpack_from(head)
        if type_ != _MATRIX or _matrix(memoryview(head)[8:], order).name not in names:
            return None
        if n_bytes > min(_MAX_BYTES, _MAX_INFLATION * len(content)):
            raise RecordError(Reason.CORRUPT_PAYLOAD, f"{n_bytes} bytes in {len(content)} compressed ones")
        whole = head + inflate.decompress(inflate.unconsumed_tail, max(1, 8 + n_bytes - len(head)))
        rest = inflate.decompress(inflate.unconsumed_tail, 1)
    except zlib.error as err:
        raise RecordError(Reason.CORRUPT_PAYLOAD, "a compressed variable that cannot be inflated") from err
    if len(whole) != 8 + n_bytes or rest or not inflate.eof:
        raise RecordError(Reason.CORRUPT_PAYLOAD, f"a compressed variable that is not the {n_bytes} bytes it declares")
    return _matrix(memoryview(whole)[8:], order)


def _matrix(content: memoryview, order: _Order) -> _Matrix:
    """Flags, shape and name; the elements after them are read as they are asked for."""
    parts = _elements(content, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or [part.type for part in head[:2]] != [6, 5] or len(head[0].content) != 8:
        raise RecordError(Reason.MALFORMED, "an array without flags, shape and name")
    (flags,) = np.frombuffer(head[0].content[:4], f"{order.mark}u4").tolist()
    shape = head[1].content
    if len(shape) % 4 or len(shape) > 128:
        raise RecordError(Reason.MALFORMED, "a shape that is none")
    axes = np.frombuffer(shape, f"{order.mark}i4").tolist()
    return _Matrix(flags & 0xFF, flags >> 8 & 0xFF, tuple(axes), bytes(head[2].content).decode("latin-1"), parts)


def _field(matrix: _Matrix, order: _Order, field: str) -> _Matrix:
    """The array in a field of a single structure."""
    lead_in = list(islice(matrix.parts, 2))
    if matrix.array_class != _STRUCTURE or prod(matrix.shape) != 1 or len(lead_in) < 2 or len(lead_in[0].content) != 4:
        raise RecordError(Reason.MALFORMED, f"the variable that {layout.FILE} declares is no single structure")
    (width,) = np.frombuffer(lead_in[0].content, f"{order.mark}i4").tolist()
    stored = bytes(lead_in[1].content)
    names = [stored[at : at + width].partition(b"\0")[0] for at in range(0, len(stored), width)] if width > 0 else []
    for name, part in zip(names, matrix.parts, strict=False):
        if name.decode("latin-1") == field and part.type == _MATRIX:
            return _matrix(part.content, order)
    raise RecordError(Reason.MALFORMED, f"no field of the name that {layout.FILE} declares")


def _numbers(matrix: _Matrix, order: _Order) -> np.ndarray:
    """The numbers of an array, whatever type they are packed as."""
    part = next(matrix.parts, None)
    if not _FIRST_NUMERIC <= matrix.array_class <= _LAST_NUMERIC or matrix.flags & _COMPLEX_OR_LOGICAL or part is None:
        raise RecordError(Reason.MALFORMED, f"an array of class {matrix.array_class}, expected real numbers")
    if part.type not in _NUMBERS:
        raise RecordError(Reason.MALFORMED, f"numbers of type {part.type}, which is none")
    type_ = np.dtype(order.mark + _NUMBERS[part.type])
    if min(matrix.shape, default=0) < 1 or prod(matrix.shape) * type_.itemsize != len(part.content):
        raise RecordError(Reason.MALFORMED, f"{len(part.content)} bytes of numbers in shape {matrix.shape}")
    return np.frombuffer(part.content, type_).reshape(matrix.shape, order="F")


def _require_rate(rate_hz: np.ndarray | None, found: Layout) -> None:
    """Hold the declared rate to the one that the file states, if it does."""
    if rate_hz is not None and (rate_hz.size != 1 or float(rate_hz.flat[0]) != found.fs_hz):
        raise RecordError(Reason.MALFORMED, f"{layout.FILE} declares {found.fs_hz:g} Hz, the file's {_RATE} differs")
