"""One answer, from its first character: reasoning, then content and tool calls, as the dialects mark them."""

from contextlib import suppress
from typing import Protocol

from jaxserve.text.call_formats.format import Calls, Functions
from jaxserve.text.dialect import ReasoningDialect, ToolDialect
from jaxserve.text.markers import Emit, Malformed, Reading, Tape, ignore


class Answer(Calls, Protocol):
    """Where the parts of an answer go. num_calls: how many have begun."""

    @property
    def num_calls(self) -> int: ...

    def reasoning(self, text: str) -> None: ...

    def content(self, text: str) -> None: ...

    def hide(self) -> None:
        """White space around this place is no content."""
        ...


def read_answer(
    tape: Tape,
    answer: Answer,
    tools: ToolDialect | None,
    reasoning: ReasoningDialect | None,
    functions: Functions,
    inside: bool | None,
) -> Reading[None]:
    """Takes the whole answer. inside: it begins within a reasoning section; None: it has no such section."""
    if reasoning and inside is not None:
        opener = (yield from tape.accept(*reasoning.open)) if (yield from tape.followed_by(reasoning.open)) else None
        if inside or opener is not None:
            yield from _section(tape, answer, tools, reasoning, functions)
    unmarked = tools.unmarked if tools else ""
    if tools and unmarked and (yield from tape.followed_by((unmarked,))):
        yield from _calls(tape, answer, tools, unmarked, functions)
    hidden = reasoning.hidden if reasoning else ()
    again = reasoning.open if reasoning and reasoning.repeats and inside is not None else ()
    openers = (*(tools.openers if tools else ()), *hidden, *again)
    while True:
        found = yield from tape.until(openers, content_of(answer))
        if found is None:
            return
        if found in hidden:
            answer.hide()
        elif reasoning and found in again:
            yield from _section(tape, answer, tools, reasoning, functions)
        elif tools:
            tape.back(found)
            yield from _calls(tape, answer, tools, found, functions)


def _section(
    tape: Tape, answer: Answer, tools: ToolDialect | None, reasoning: ReasoningDialect, functions: Functions
) -> Reading[None]:
    """The rest of a section of reasoning, and the mark that closes it.

    Calls end it as well where its model is known to leave the mark out. But a model may also only speak of calls: from
    their first literal on, the text waits for the mark that closes the section, and so for the end of the answer.
    """
    ends_before = reasoning.ends_before if tools else ()
    found = yield from tape.until((*reasoning.close, *ends_before), answer.reasoning)
    if tools is None or found is None or found not in ends_before:
        return
    tape.back(found)
    tape.keep()
    num_reasoned = yield from _reasoned(tape, tools, reasoning, functions)
    text = tape.kept()
    tape.restore(text)
    if num_reasoned:
        answer.reasoning(text[:num_reasoned])
    tape.pos += num_reasoned
    yield from tape.accept(*reasoning.close)


def _reasoned(tape: Tape, tools: ToolDialect, reasoning: ReasoningDialect, functions: Functions) -> Reading[int]:
    """How many characters, from a literal of calls on, are reasoning.

    All before the mark that closes the section; if it never comes, all before the first call of a declared function. A
    mark within a call closes nothing.
    """
    start, first_call = tape.place, None
    again = reasoning.open if reasoning.repeats else ()
    while True:
        found = yield from tape.until((*reasoning.close, *reasoning.ends_before, *again), ignore)
        if found is None or (found in again and first_call is not None):
            return (tape.place if first_call is None else first_call) - start
        if found in reasoning.close:
            return tape.place - len(found) - start
        tape.back(found)
        place, probe = tape.place, _Probe(functions)
        opener = yield from tape.accept(*tools.openers)
        if opener is not None:
            with suppress(Malformed):
                yield from tools.read(tape, opener, probe, functions)
        if not probe.has_call:
            tape.restore(tape.unsettled()[place - start : tape.place - start])
            yield from tape.accept(found)
        elif first_call is None:
            first_call = place


class _Probe:
    """Learns whether a call of a declared function begins. Calls."""

    def __init__(self, functions: Functions) -> None:
        self.has_call = False
        self._functions = functions
        self._name = ""

    def begin(self, name: str) -> None:
        self._name = name

    def write(self, arguments: str) -> None:
        self.has_call = self.has_call or self._name in self._functions

    def end(self) -> None: ...


def _calls(tape: Tape, answer: Answer, tools: ToolDialect, opener: str, functions: Functions) -> Reading[None]:
    """Calls from an opener on, or content."""

    def reading() -> Reading[None]:
        yield from tape.accept(opener)
        yield from tools.read(tape, opener, answer, functions)

    yield from calls_or_content(tape, answer, reading())


def content_of(answer: Answer) -> Emit:
    """Where text goes that is in no call: nowhere behind one."""
    return ignore if answer.num_calls else answer.content


def calls_or_content(tape: Tape, answer: Answer, reading: Reading[None], before: str = "") -> Reading[None]:
    """Takes calls; what turns out to be none is content, with what was read `before`.

    A call that breaks off after its arguments have begun stays as it is; the text goes on behind the break.
    """
    num_calls, content = answer.num_calls, content_of(answer)
    tape.keep()
    try:
        yield from reading
    except Malformed:
        text = before + tape.kept()
        if answer.num_calls == num_calls:
            content(text)
    else:
        tape.kept()
