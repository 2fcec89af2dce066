"""One answer, from its first character: reasoning, then content and tool calls, as the dialects mark them."""

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
            yield from _section(tape, answer, tools, reasoning)
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
            yield from _section(tape, answer, tools, reasoning)
        elif tools:
            tape.back(found)
            yield from _calls(tape, answer, tools, found, functions)


def _section(tape: Tape, answer: Answer, tools: ToolDialect | None, reasoning: ReasoningDialect) -> Reading[None]:
    ends_before = reasoning.ends_before if tools else ()
    found = yield from tape.until((*reasoning.close, *ends_before), answer.reasoning)
    if found is not None and found in ends_before:
        tape.back(found)


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
