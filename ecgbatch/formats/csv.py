"""Tables of numbers (`.csv`): neither rate, unit nor orientation: those are the declared layout's."""

import re
from collections.abc import Callable

import numpy as np

from ecgbatch import _kernels
from ecgbatch.errors import RecordError
from ecgbatch.formats import layout
from ecgbatch.formats.layout import Layout
from ecgbatch.record import Reason, Record, lead_name

__all__ = ["decode", "is_table"]

_NO_NUMBER = re.compile(rb"[^-+\d.eE,; \t\rnaN]")
_NUMBER = re.compile(rb"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(rb"[-+]?\d+,\d+")
_NO_COMMAS = "numbers with commas in them, expected decimal points"
_DIGIT_OR_NAN = re.compile(rb"\d|nan", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"


def is_table(raw: bytes, name: str) -> bool:
    """Whether a file called `.csv` holds numbers, under a line of names or not."""
    return name.lower().endswith(".csv") and any(map(_has_numbers, raw.split(b"\n", 2)[:2]))


def decode(raw: bytes, sibling: Callable[[str], bytes]) -> Record:
    """The table in a `.csv` file, as the layout declared beside it makes it a record.

    Between numbers stand commas, semicolons, tabs or spaces; the decimal mark is a point; `nan` is a missing sample.

    Raises:
        RecordError: there is no such layout, or the table is damaged or not what it declares.
    """
    found = layout.declared(sibling)
    first, _, rest = raw.removeprefix(_BOM).partition(b"\n")
    separator = next((mark for mark in (b";", b"\t", b",") if mark in first), b" ")
    if not raw.endswith(b"\n"):
        raise RecordError(Reason.TRUNCATED, "a table whose last line has no end")
    cells = [cell.strip() for cell in (first.split() if separator == b" " else first.split(separator))]
    if not _are_names(cells, found):
        return layout.record(_numbers(raw.removeprefix(_BOM), separator), found, container="csv")
    _require_names(cells, found)
    return layout.record(_numbers(rest, separator), found, container="csv")


def _has_numbers(line: bytes) -> bool:
    line = line.removeprefix(_BOM)
    return not _NO_NUMBER.search(line) and _DIGIT_OR_NAN.search(line) is not None


def _are_names(cells: list[bytes], found: Layout) -> bool:
    """Whether a first line names columns: by words, or as pandas does where they have none, by 0, 1, 2 and so on.

    Raises:
        RecordError: some of it are words and some are numbers.
    """
    if not found.is_lead_first and len(cells) > 1 and cells == [b"%d" % column for column in range(len(found.leads))]:
        return True
    n_numbers = sum([_NUMBER.fullmatch(cell) is not None for cell in cells])
    if any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells):
        raise RecordError(Reason.MALFORMED, _NO_COMMAS)
    if 0 < n_numbers < len(cells):
        raise RecordError(Reason.MALFORMED, "a first line of words and numbers, expected either")
    return n_numbers == 0


def _require_names(names: list[bytes], found: Layout) -> None:
    """Hold a line of names to the declared leads, where it names leads."""
    if found.is_lead_first or len(names) != len(found.leads):
        raise RecordError(Reason.MALFORMED, f"a first line of {len(names)} names, expected {len(found.leads)} columns")
    for name, lead in zip(names, found.leads, strict=True):
        named = lead_name(name.decode("latin-1").strip().strip('"'))
        if named and named != lead:
            raise RecordError(Reason.MALFORMED, f"the column of {named} is declared as {lead or 'another channel'}")


def _numbers(table: bytes, separator: bytes) -> np.ndarray:
    """float64 (line, column)."""
    if not table.strip():
        raise RecordError(Reason.TRUNCATED, "a table without numbers")
    numbers = np.empty(table.count(separator) + table.count(b"\n"))  # as many as there can be
    n_lines, n_columns = _kernels.table_numbers(table, separator.decode(), numbers)
    if not n_lines:
        has_commas = separator != b"," and b"," in table
        detail = _NO_COMMAS if has_commas else "a table that is not all numbers, or whose lines differ in length"
        raise RecordError(Reason.MALFORMED, detail)
    return numbers[: n_lines * n_columns].reshape(n_lines, n_columns)
