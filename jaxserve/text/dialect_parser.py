"""Parse one output from its first character: reasoning, then content and tool calls, as the dialects mark them."""

from contextlib import suppress

from jaxserve.text.call_formats.format import Functions
from jaxserve.text.dialect import OutputSink
from jaxserve.text.marked_dialect import MarkedReasoning, MarkedTools
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, discard


def parse_output(
    buffer: TextBuffer,
    sink: OutputSink,
    tools: MarkedTools | None,
    reasoning: MarkedReasoning | None,
    functions: Functions,
    starts_inside: bool | None,
) -> Parser[None]:
    """Parse a whole output.

    starts_inside: it begins within a reasoning section; None: it has no such section.
    """
    if reasoning and starts_inside is not None:
        opener = None
        if (yield from buffer.is_followed_by(reasoning.open)):
            opener = yield from buffer.accept(*reasoning.open)
        if starts_inside or opener is not None:
            yield from _parse_section(buffer, sink, tools, reasoning, functions)
    unmarked = tools.unmarked_start if tools else ""
    if tools and unmarked and (yield from buffer.is_followed_by((unmarked,))):
        yield from _parse_calls(buffer, sink, tools, unmarked, functions)
    hidden = reasoning.hidden_markers if reasoning else ()
    reopeners = reasoning.open if reasoning and reasoning.may_repeat and starts_inside is not None else ()
    markers = (*(tools.openers if tools else ()), *hidden, *reopeners)
    while True:
        marker = yield from buffer.read_until(markers, content_emitter(sink))
        if marker is None:
            return
        if marker in hidden:
            sink.trim_whitespace()
        elif reasoning and marker in reopeners:
            yield from _parse_section(buffer, sink, tools, reasoning, functions)
        elif tools:
            buffer.unread(marker)
            yield from _parse_calls(buffer, sink, tools, marker, functions)


def _parse_section(
    buffer: TextBuffer, sink: OutputSink, tools: MarkedTools | None, reasoning: MarkedReasoning, functions: Functions
) -> Parser[None]:
    """Parse the rest of a reasoning section and the marker that closes it.

    Calls end it as well where its model is known to leave the marker out. But a model may also only write about calls:
    from their first literal on, the text waits for the closing marker, and so for the end of the output.
    """
    call_starts = reasoning.call_starts if tools else ()
    marker = yield from buffer.read_until((*reasoning.close, *call_starts), sink.add_reasoning)
    if tools is None or marker is None or marker not in call_starts:
        return
    buffer.unread(marker)
    buffer.start_recording()
    num_chars = yield from _measure_reasoning(buffer, tools, reasoning, functions)
    text = buffer.stop_recording()
    buffer.push_back(text)
    if num_chars:
        sink.add_reasoning(text[:num_chars])
    buffer.pos += num_chars
    yield from buffer.accept(*reasoning.close)


def _measure_reasoning(
    buffer: TextBuffer, tools: MarkedTools, reasoning: MarkedReasoning, functions: Functions
) -> Parser[int]:
    """Return how many characters, from the first literal of a call on, are reasoning.

    These are all before the closing marker; if it never comes, all before the first call of a declared function. A
    marker within a call closes nothing.
    """
    start, first_call = buffer.position, None
    reopeners = reasoning.open if reasoning.may_repeat else ()
    while True:
        marker = yield from buffer.read_until((*reasoning.close, *reasoning.call_starts, *reopeners), discard)
        if marker is None or (marker in reopeners and first_call is not None):
            return (buffer.position if first_call is None else first_call) - start
        if marker in reasoning.close:
            return buffer.position - len(marker) - start
        buffer.unread(marker)
        call_start, probe = buffer.position, _CallProbe(functions)
        opener = yield from buffer.accept(*tools.openers)
        if opener is not None:
            with suppress(Malformed):
                yield from tools.parse_calls(buffer, opener, probe, functions)
        if not probe.has_call:
            buffer.push_back(buffer.pending_text()[call_start - start : buffer.position - start])
            yield from buffer.accept(marker)
        elif first_call is None:
            first_call = call_start


class _CallProbe:
    """A ToolCallSink that only records whether a call of a declared function has begun."""

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
    buffer: TextBuffer, sink: OutputSink, tools: MarkedTools, opener: str, functions: Functions
) -> Parser[None]:
    """Parse calls from an opener on; text that turns out to be none is content."""

    def calls() -> Parser[None]:
        yield from buffer.accept(opener)
        yield from tools.parse_calls(buffer, opener, sink, functions)

    yield from parse_calls_or_content(buffer, sink, calls())


def content_emitter(sink: OutputSink) -> Emit:
    """Return what receives text outside of calls: the content, or nothing once a call has begun."""
    return discard if sink.num_calls else sink.add_content


def parse_calls_or_content(buffer: TextBuffer, sink: OutputSink, calls: Parser[None], before: str = "") -> Parser[None]:
    """Run a parser of calls; if the text turns out to be none, it is content, after the text `before`.

    A call that breaks off after its arguments have begun stays as it is, and parsing goes on behind the break.
    """
    num_calls, emit = sink.num_calls, content_emitter(sink)
    buffer.start_recording()
    try:
        yield from calls
    except Malformed:
        text = before + buffer.stop_recording()
        if sink.num_calls == num_calls:
            emit(text)
    else:
        buffer.stop_recording()
