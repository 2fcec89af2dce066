"""A parser that fails, or takes too long, costs nobody an answer: what it has not parsed is content."""

import pytest

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.text import output_parser
from jaxserve.text.output_parser import OutputParser
from jaxserve.text.unmarked_calls import UnmarkedCallParser
from tests.text.parsing import collect, dialect, output_spec

TEXT = "one two three ! four five six"


def failing(buffer, sink):
    """Emit words; hold back what follows `t`, then raise at `!`."""
    while True:
        marker = yield from buffer.read_until(("t", "!"), sink.add_content)
        if marker is None:
            return
        if marker == "!":
            raise KeyError(buffer.text)
        buffer.unread(marker)
        buffer.start_recording()
        yield from buffer.read_until(("!",), lambda text: None)
        raise KeyError(buffer.text)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_what_a_broken_parser_has_not_emitted_is_content(size, caplog):
    parser = OutputParser(ChatOutputSpec(), failing)
    pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    assert collect(parser, pieces).content == TEXT
    (message,) = caplog.messages
    assert "KeyError in failing" in message and "three" not in message


def test_a_parser_that_takes_too_long_is_left(monkeypatch):
    seconds = iter(range(0, 10**6, 1))
    monkeypatch.setattr(output_parser.time, "thread_time", lambda: next(seconds) * 0.4)
    parser, text = dialect("hermes").create_parser(output_spec()), '<tool_call>{"name": "now", '
    parts = [parser.feed(piece) for piece in ("Hello ", "you, ", text, '"arguments": {}}</tool_call>')]
    assert "".join(part.content for part in parts) == "Hello you, " + text + '"arguments": {}}</tool_call>'
    assert parser.close().content == "" and not any(part.tool_calls for part in parts)


def test_a_parser_may_take_time_for_a_long_text(monkeypatch):
    seconds = iter(range(10**9))
    monkeypatch.setattr(
        output_parser.time, "thread_time", lambda: next(seconds) * 0.9 * output_parser.MAX_PARSE_S_PER_CHAR
    )
    parser = dialect("hermes").create_parser(output_spec())
    parts = [parser.feed("a") for _ in range(30_000)]
    parts += [parser.feed('<tool_call>{"name": "now", "arguments": {}}</tool_call>'), parser.close()]
    assert sum(len(part.content) for part in parts) == 30_000 and any(part.tool_calls for part in parts)


@pytest.mark.parametrize("step", ["feed", "close"])
def test_a_failure_among_unmarked_calls_leaves_their_text(step, monkeypatch, caplog):
    parse = getattr(UnmarkedCallParser, step)

    def fail(self, *args):
        parse(self, *args)
        raise ValueError("a secret")

    text = 'Well: {"name": "now", "argu'
    parser = dialect("hermes").create_parser(output_spec())
    monkeypatch.setattr(UnmarkedCallParser, step, fail)
    assert collect(parser, [text, " more"]).content == text + " more"
    assert "secret" not in caplog.text and "ValueError in fail" in caplog.text
