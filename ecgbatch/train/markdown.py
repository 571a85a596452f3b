"""Tables in Markdown, whatever is in their cells."""

from collections.abc import Iterable, Sequence

__all__ = ["table"]

_RULES = {"l": "---", "r": "---:"}


def table(heads: Sequence[str], align: str, rows: Iterable[Sequence[object]]) -> str:
    """A table; `align` has a letter a column, `l` or `r`."""
    rule = f"|{'|'.join(_RULES[side] for side in align)}|"
    return "\n".join([_row(heads), rule, *map(_row, rows)])


def _row(cells: Sequence[object]) -> str:
    return f"|{''.join(map(_cell, cells))}"


def _cell(value: object) -> str:
    """The text on one line, without a bar that would end the cell."""
    text = " ".join(str(value).splitlines()).replace("|", "\\|")
    return f" {text} |" if text else " |"
