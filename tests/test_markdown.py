"""Tables in Markdown: what stands in a cell stays in it."""

import re

import pytest

from ecgbatch.train import markdown


def test_a_table_is_aligned_by_a_letter_a_column():
    assert markdown.table(("", "ECGs"), "lr", [("all", 3), ("", None)]) == "\n".join(
        ["| | ECGs |", "|---|---:|", "| all | 3 |", "| | None |"]
    )


@pytest.mark.parametrize("text", ["ICU|ward 3", "|", "ICU\nward 3", "ICU\r\nward 3", "ICU\u2028ward 3"], ids=repr)
def test_a_cell_is_one_cell_whatever_its_text(text):
    lines = markdown.table((text, "n"), "lr", [(text, 1)]).splitlines()

    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]
