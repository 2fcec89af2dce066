"""Parsing an output costs work in proportion to its length, whatever the model writes.

Work is counted, not timed: the calls that are made, also of what is built in, and the characters that a buffer copies.
Quadratic work would be four times as much in proportion; twice is allowed, as some texts cost more from some length on.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from types import FrameType
from typing import Any

import pytest

from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.text_buffer import TextBuffer
from tests.text.parsing import dialect, output_spec

PIECE_CHARS = 7
SHORT, LONG = 200, 800
COPIES = ("feed", "push_back", "pending_text", "stop_recording")


class Work:
    """The calls that have been made, and the characters in the buffer at each copy of it."""

    def __init__(self) -> None:
        self.num_calls = self.num_chars = 0

    def count(self, frame: FrameType, event: str, _: Any) -> None:
        self.num_calls += event == "call" or event == "c_call"


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()

    def charge(name: str) -> None:
        method = getattr(TextBuffer, name)

        def charged(buffer: TextBuffer, *args: Any) -> Any:
            before = buffer.text
            result = method(buffer, *args)
            if buffer.text is not before:
                work.num_chars += len(buffer.text)
            work.num_chars += len(result or "")
            return result

        monkeypatch.setattr(TextBuffer, name, charged)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        for name in COPIES:
            charge(name)
        sys.setprofile(work.count)
        try:
            yield work
        finally:
            sys.setprofile(None)


def count_work(tools: str | None, reasoning: str | None, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    parser = dialect(tools, reasoning).create_parser(output_spec())
    with counted(monkeypatch) as work:
        for start in range(0, len(text), PIECE_CHARS):
            parser.feed(text[start : start + PIECE_CHARS])
        parser.close()
    return work.num_calls, work.num_chars


def fragments(tools: str | None, reasoning: str | None) -> list[str]:
    """What a text may repeat without end: each marker, half of it, and what begins a value and does not end it."""
    found = dialect(tools, reasoning)
    markers = [
        *(getattr(found.tools, "openers", ()) or ()),
        *(getattr(found.reasoning, "open", ()) or ()),
        *(getattr(found.reasoning, "close", ()) or ()),
    ]
    return [
        *markers,
        *(marker[: -(len(marker) // 2)] for marker in markers if len(marker) > 2),
        *(marker + '{"name": "now", "arguments": {' for marker in markers[:2]),
        *(
            "{",
            "[",
            '"',
            "\\",
            '{"a": ',
            '[{"name": "now"}, ',
            '{"name": "now", "arguments": {}}',
            "<",
            " ",
            "a",
            "```",
        ),
        *("```json\n{", "now(", '\n\n{"x": [', "</", '{"name": "'),
    ]


NAMES = [name for name, found in TOOL_PARSERS.items() if found is not None]
PAIRS = [(name, None) for name in NAMES]
PAIRS += [
    (name, reasoning) for name, reasoning in product(("hermes",), REASONING_PARSERS) if REASONING_PARSERS[reasoning]
]


@pytest.mark.parametrize(("tools", "reasoning"), PAIRS)
def test_work_is_linear_in_the_text(tools, reasoning, monkeypatch):
    for fragment in fragments(tools, reasoning):
        calls, chars = zip(
            *(count_work(tools, reasoning, (fragment * length)[:length], monkeypatch) for length in (SHORT, LONG)),
            strict=True,
        )
        assert calls[1] <= 2 * LONG / SHORT * calls[0] + 1000, (fragment, "calls", calls)
        assert chars[1] <= 2 * LONG / SHORT * chars[0] + 20_000, (fragment, "characters", chars)
