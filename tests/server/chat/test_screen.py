"""Answers on a terminal: what stands there at the end is the whole answer as Markdown, however it came."""

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from server.chat.screen import Screen, find_block_end

ANSWER = """\
# Title

Two lines
of a *verse*

- one

- two

```python
x = 1

y = 2
```

| a | b |
|---|---|
| 1 | 2 |

The end."""


def shown(pieces: list[str], **options) -> str:
    """The screen's last state, plain: what a person sees who scrolls up."""
    out = io.StringIO()
    console = Console(file=out, width=60, height=10, **options)
    with Screen(console).show_answer() as view:
        for piece in pieces:
            view.show_content(piece)
    return out.getvalue()


def blocks(text: str) -> list[str]:
    """The blocks that are printed for good, in their order."""
    found = []
    while cut := find_block_end(text):
        found.append(text[:cut])
        text = text[cut:].lstrip("\n")
    return [*found, text]


def test_blocks_end_where_nothing_can_change_them_any_more():
    first, second, third, fourth = blocks(ANSWER)
    assert (first, second) == ("# Title\n", "Two lines\nof a *verse*\n\n- one\n\n- two\n")
    assert third.startswith("```python") and "x = 1\n\ny = 2" in third and "| 1 | 2 |" in third
    assert fourth == "The end."


@given(st.lists(st.integers(0, len(ANSWER)), max_size=8))
def test_blocks_do_not_depend_on_how_the_text_arrives(cuts):
    ends = sorted({0, *cuts, len(ANSWER)})
    pending, found = "", []
    for begin, end in pairwise(ends):
        pending += ANSWER[begin:end]
        *done, pending = blocks(pending)
        found += done
    assert [*found, pending] == blocks(ANSWER)


def test_on_a_terminal_it_is_markdown():
    text = shown(list(ANSWER), force_terminal=True, color_system=None)
    last = text[text.rindex("Title") :]
    assert "Two lines" in last and "**" not in text and "```" not in last
    assert text.rstrip().endswith("The end.")


@pytest.mark.parametrize("options", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}])
def test_elsewhere_it_is_the_text_itself(options):
    assert shown(list(ANSWER), **options) == ANSWER + "\n"


def test_a_long_block_shows_its_end_while_it_grows():
    out = io.StringIO()
    console = Console(file=out, width=60, height=10, force_terminal=True, color_system=None)
    with Screen(console).show_answer() as view:
        view.show_content("```\n" + "".join(f"line {number}\n" for number in range(100)))
        seen = out.getvalue()
        assert "line 99" in seen and "line 80" not in seen
    assert "line 80" in out.getvalue()


def test_reasoning_is_for_terminals_alone():
    for is_terminal in (True, False):
        out = io.StringIO()
        with Screen(Console(file=out, force_terminal=is_terminal, color_system=None)).show_answer() as view:
            view.show_reasoning("Let me see.")
            view.show_content("Yes.")
        assert ("Let me see." in out.getvalue()) == is_terminal
