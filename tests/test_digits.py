"""Decimal text: the kernel reads what Python reads, and takes nothing else for a number."""

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgbatch import _kernels

NUMBER = re.compile(rb"[-+]?\d+(?:\.0*)?")
LIST = re.compile(rb"[ \t\r\n]*(?:[-+]?\d+(?:\.0*)?(?:[ \t\r\n]*,[ \t\r\n]*|[ \t\r\n]+|$))*")


def digits(text: bytes) -> list[int] | None:
    """What the kernel finds, None where it finds no integers."""
    out = np.full(len(text) // 2 + 1, 99, np.int32)
    (n,) = _kernels.digits(text, [(0, len(text))], out)
    return None if n < 0 else out[:n].tolist()


def expected(text: bytes) -> list[int] | None:
    text = text.strip(b" \t\r\n")
    if not LIST.fullmatch(text):
        return None
    numbers = [int(number[0].partition(b".")[0]) for number in NUMBER.finditer(text)]
    return numbers if all(-(2**31) <= number < 2**31 for number in numbers) else None


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**31), 2**31 - 1) | st.integers(-999, 999),
            st.sampled_from([" ", ",", "\n", ", ", " ,", ",\n\t\t", "  ", "\r\n   ", ".0 ", ".,"]),
        ),
        max_size=60,
    )
)
def test_a_list_of_integers_is_read_as_python_reads_it(pairs):
    text = "".join(f"{number}{separator}" for number, separator in pairs).encode()

    assert digits(text) == [number for number, _ in pairs]


@settings(deadline=None, max_examples=1000)
@given(st.text(alphabet="0123456789 -+,.\n9e", max_size=40))
def test_what_is_no_list_of_integers_is_none(text):
    assert digits(text.encode()) == expected(text.encode())


@settings(deadline=None, max_examples=400)
@given(st.lists(st.integers(-4000, 4000), min_size=20, max_size=40), st.integers(0, 255), st.data())
def test_a_byte_changed_anywhere_is_seen_as_python_sees_it(numbers, byte, data):
    text = bytearray(" ".join(map(str, numbers)).encode())
    text[data.draw(st.integers(0, len(text) - 1))] = byte

    assert digits(bytes(text)) == expected(bytes(text))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"", []),
        (b" \n ", []),
        (b"1", [1]),
        (b"-12.0 3. +4", [-12, 3, 4]),
        (b"1,2,3,", [1, 2, 3]),
        (b"2147483647 -2147483648", [2**31 - 1, -(2**31)]),
        (b"0000000000000000012 1", [12, 1]),
        (b"1,,2", None),
        (b",1", None),
        (b"1,2,,", None),
        (b"2147483648", None),
        (b"-2147483649", None),
        (b"99999999999999999999999999", None),
        (b"1.5", None),
        (b"1e3", None),
        (b"1-2 3 4 5 6 7", None),
        (b"- 2 3 4 5 6 7", None),
        (b"--2 3 4 5 6 7", None),
        (b"12<!-- x -->3", None),
        (b"1\x002", None),
        (b"1\xa02", None),
    ],
)
def test_numbers_and_what_is_none(text, numbers):
    assert digits(text) == numbers


def test_spans_follow_one_another_in_the_output():
    text = b"<a>1 2</a><b>x</b><c>3,4,5</c>"
    out = np.zeros(12, np.int32)

    assert _kernels.digits(text, [(3, 6), (13, 14), (21, 26)], out) == [2, -1, 3]
    assert out[:5].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "call",
    [
        lambda: _kernels.digits(b"1 2", [(0, 4)], np.zeros(9, np.int32)),
        lambda: _kernels.digits(b"1 2", [(-1, 2)], np.zeros(9, np.int32)),
        lambda: _kernels.digits(b"1 2", [(2, 1)], np.zeros(9, np.int32)),
        lambda: _kernels.digits(b"1 2", [(0, 3)], np.zeros(1, np.int32)),
        lambda: _kernels.digits(b"1 2", [(0, 3)], np.zeros(9, np.int64)),
        lambda: _kernels.digits("1 2", [(0, 3)], np.zeros(9, np.int32)),
    ],
)
def test_a_call_that_does_not_fit_is_refused(call):
    with pytest.raises((TypeError, ValueError)):
        call()


def test_a_megabyte_of_digits_takes_milliseconds():
    text = b"9" * 1_000_000 + b" " * 1_000_000 + b"-" * 1_000_000
    started = time.process_time()
    digits(text)
    digits(text[1_000_000:])
    digits(text[2_000_000:])

    assert time.process_time() - started < 0.5
