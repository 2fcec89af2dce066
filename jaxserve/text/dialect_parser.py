"""One answer, from its first character: reasoning, then content and tool calls, as the dialects mark them."""

from contextlib import suppress
from typing import Protocol

from jaxserve.text.call_formats.format import Functions, ToolCallSink
from jaxserve.text.dialect import ReasoningDialect, ToolDialect
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, discard


class OutputSink(ToolCallSink, Protocol):
    """Where the parts of an answer go. num_calls: how many have begun."""

    @property
    def num_calls(self) -> int: ...

    def add_reasoning(self, text: str) -> None: ...

    def add_content(self, text: str) -> None: ...

    def trim_whitespace(self) -> None:
        """White space around this place is no content."""
        ...


def parse_output(
    buffer: TextBuffer,
    answer: OutputSink,
    tools: ToolDialect | None,
    reasoning: ReasoningDialect | None,
    functions: Functions,
    inside: bool | None,
) -> Parser[None]:
    """Takes the whole answer. inside: it begins within a reasoning section; None: it has no such section."""
    if reasoning and inside is not None:
        opener = (
            (yield from buffer.accept(*reasoning.open)) if (yield from buffer.is_followed_by(reasoning.open)) else None
        )
        if inside or opener is not None:
            yield from _parse_section(buffer, answer, tools, reasoning, functions)
    unmarked = tools.unmarked_start if tools else ""
    if tools and unmarked and (yield from buffer.is_followed_by((unmarked,))):
        yield from _parse_calls(buffer, answer, tools, unmarked, functions)
    hidden = reasoning.hidden_markers if reasoning else ()
    again = reasoning.open if reasoning and reasoning.may_repeat and inside is not None else ()
    openers = (*(tools.openers if tools else ()), *hidden, *again)
    while True:
        found = yield from buffer.read_until(openers, content_emitter(answer))
        if found is None:
            return
        if found in hidden:
            answer.trim_whitespace()
        elif reasoning and found in again:
            yield from _parse_section(buffer, answer, tools, reasoning, functions)
        elif tools:
            buffer.unread(found)
            yield from _parse_calls(buffer, answer, tools, found, functions)


def _parse_section(
    buffer: TextBuffer, answer: OutputSink, tools: ToolDialect | None, reasoning: ReasoningDialect, functions: Functions
) -> Parser[None]:
    """The rest of a section of reasoning, and the mark that closes it.

    Calls end it as well where its model is known to leave the mark out. But a model may also only speak of calls: from
    their first literal on, the text waits for the mark that closes the section, and so for the end of the answer.
    """
    ends_before = reasoning.call_starts if tools else ()
    found = yield from buffer.read_until((*reasoning.close, *ends_before), answer.add_reasoning)
    if tools is None or found is None or found not in ends_before:
        return
    buffer.unread(found)
    buffer.start_recording()
    num_reasoned = yield from _measure_reasoning(buffer, tools, reasoning, functions)
    text = buffer.stop_recording()
    buffer.push_back(text)
    if num_reasoned:
        answer.add_reasoning(text[:num_reasoned])
    buffer.pos += num_reasoned
    yield from buffer.accept(*reasoning.close)


def _measure_reasoning(
    buffer: TextBuffer, tools: ToolDialect, reasoning: ReasoningDialect, functions: Functions
) -> Parser[int]:
    """How many characters, from a literal of calls on, are reasoning.

    All before the mark that closes the section; if it never comes, all before the first call of a declared function. A
    mark within a call closes nothing.
    """
    start, first_call = buffer.position, None
    again = reasoning.open if reasoning.may_repeat else ()
    while True:
        found = yield from buffer.read_until((*reasoning.close, *reasoning.call_starts, *again), discard)
        if found is None or (found in again and first_call is not None):
            return (buffer.position if first_call is None else first_call) - start
        if found in reasoning.close:
            return buffer.position - len(found) - start
        buffer.unread(found)
        place, probe = buffer.position, _Probe(functions)
        opener = yield from buffer.accept(*tools.openers)
        if opener is not None:
            with suppress(Malformed):
                yield from tools.parse_calls(buffer, opener, probe, functions)
        if not probe.has_call:
            buffer.push_back(buffer.pending_text()[place - start : buffer.position - start])
            yield from buffer.accept(found)
        elif first_call is None:
            first_call = place


class _Probe:
    """Learns whether a call of a declared function begins."""

    def __init__(self, functions: Functions) -> None:
        self.has_call = False
        self._functions = functions
        self._name = ""

    def begin_call(self, name: str) -> None:
        self._name = name

    def add_arguments(self, arguments: str) -> None:
        self.has_call = self.has_call or self._name in self._functions

    def end_call(self) -> None: ...


def _parse_calls(
    buffer: TextBuffer, answer: OutputSink, tools: ToolDialect, opener: str, functions: Functions
) -> Parser[None]:
    """Calls from an opener on, or content."""

    def reading() -> Parser[None]:
        yield from buffer.accept(opener)
        yield from tools.parse_calls(buffer, opener, answer, functions)

    yield from parse_calls_or_content(buffer, answer, reading())


def content_emitter(answer: OutputSink) -> Emit:
    """Where text goes that is in no call: nowhere behind one."""
    return discard if answer.num_calls else answer.add_content


def parse_calls_or_content(
    buffer: TextBuffer, answer: OutputSink, reading: Parser[None], before: str = ""
) -> Parser[None]:
    """Takes calls; what turns out to be none is content, with what was read `before`.

    A call that breaks off after its arguments have begun stays as it is; the text goes on behind the break.
    """
    num_calls, content = answer.num_calls, content_emitter(answer)
    buffer.start_recording()
    try:
        yield from reading
    except Malformed:
        text = before + buffer.stop_recording()
        if answer.num_calls == num_calls:
            content(text)
    else:
        buffer.stop_recording()
