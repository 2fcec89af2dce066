"""One choice's text on its way to the client: told apart into reasoning, content and tool calls."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool
from jaxserve.outputs import FinishReason, ToolCallDelta
from jaxserve.text.call_deltas import CallDeltas
from jaxserve.text.call_formats.format import Functions
from jaxserve.text.dialect import random_id
from jaxserve.text.markers import MAX_BLANK_CHARS, Reading, Tape
from jaxserve.text.unmarked_calls import UnmarkedCalls


@dataclass(frozen=True, slots=True)
class Pieces:
    """What one feed brought. num_reasoning_tokens: of the tokens marked so far, those that now are known as such."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    num_reasoning_tokens: int = 0

    def __add__(self, later: "Pieces") -> "Pieces":
        return Pieces(
            self.reasoning + later.reasoning,
            self.content + later.content,
            self.tool_calls + later.tool_calls,
            self.num_reasoning_tokens + later.num_reasoning_tokens,
        )


class Reader:
    """Reads one choice: feed it the text in any pieces, then close it. A stream and a whole answer are read alike.

    A call is told from the first character of its arguments on, so that nothing has to be taken back: what turns out
    before to be no call is content, and a call that breaks off later keeps the arguments that have come.

    read      what takes the text from the tape and gives its parts to this reader
    new_id    a call's id, from its name and its number in the conversation
    shown     how the private-use characters that stand for special tokens are shown: character → text
    unmarked  functions of which calls in a form of no dialect are taken, too; None: none are

    num_calls   that are in the dialect's form and have begun
    """

    def __init__(
        self,
        format: ChatOutputSpec,
        read: "Callable[[Tape, Reader], Reading[None]]",
        new_id: Callable[[str, int], str] = random_id,
        shown: Mapping[str, str] = MappingProxyType({}),
        unmarked: Functions | None = None,
    ) -> None:
        self.num_calls = 0
        self._format = format
        self._shown = str.maketrans(dict(shown))
        self._calls = CallDeltas(format, new_id)
        self._unmarked = None if unmarked is None else UnmarkedCalls(unmarked, self._calls, self._show)
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._blank: str | None = ""  # white space at the beginning of the content, until something else comes
        self._shows_blank = True
        self._marks: deque[int] = deque()
        self._num_reasoning_tokens = 0
        self._reasoning_end = -1  # where the last reasoning ended, as far as it has been read
        self._tape = Tape()
        self._reading: Reading[None] | None = read(self._tape, self)
        next(self._reading, None)

    def mark(self, place: int) -> None:
        """A token's text begins at this character of the answer. Marks come in order, none after its own text."""
        self._marks.append(place)

    def feed(self, piece: str) -> Pieces:
        if piece:
            self._tape.feed(piece)
            self._go_on()
        return self._take()

    def close(self, *, is_cut: bool = False) -> Pieces:
        """The rest, when no more text comes. is_cut: not the model has ended it, but a limit or a stop string."""
        self._tape.ended, self._tape.is_cut = True, is_cut
        self._go_on()
        if self._unmarked is not None:
            self._unmarked.close()
        if self._reasoning_end == self._tape.place:
            self._num_reasoning_tokens += self._pass(self._reasoning_end + 1)  # tokens without a text
        if self._blank and self._shows_blank and not self._calls.num_calls:
            self._content.append(self._blank)
        return self._take()

    def finish_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """Why the choice ended, for the client: calls that the model chose to make, each of them whole, are a reason
        of their own."""
        is_call = self._calls.num_calls and not self._calls.num_unfinished
        if is_call and reason is FinishReason.STOP and not isinstance(self._format.tool_choice, NamedTool):
            return FinishReason.TOOL_CALLS
        return reason

    def reasoning(self, text: str) -> None:
        start = self._tape.place
        self._reasoning_end = start + len(text)
        self._pass(start)
        self._num_reasoning_tokens += self._pass(self._reasoning_end)
        if self._format.include_reasoning:
            self._reasoning.append(self._visible(text))

    def content(self, text: str) -> None:
        if self._format.requires_tool_call:
            return
        self._pass(self._tape.place)
        text = self._visible(text)
        if self._unmarked is not None and text:
            self._unmarked.feed(text)
        else:
            self._show(text)

    def hide(self) -> None:
        if self._unmarked is not None:
            self._unmarked.settle()
        self._blank, self._shows_blank = "", False

    def begin(self, name: str) -> None:
        self._calls.begin(self._visible(name))

    def write(self, arguments: str) -> None:
        if not arguments:
            return
        if not self._calls.has_begun:
            self.num_calls += 1
            if self._unmarked is not None:
                self._unmarked.settle(is_marked=True)
                self._unmarked = None  # a model that knows its form writes no calls in another
        self._calls.write(self._visible(arguments))

    def end(self) -> None:
        self._calls.end()

    def _show(self, text: str) -> None:
        """Content, which has no call in it."""
        if self._calls.num_calls:
            return
        if self._blank is not None:
            text = self._blank + text if self._shows_blank else text.lstrip()
            self._blank = text if len(text) <= MAX_BLANK_CHARS and not text.strip() else None
        if self._blank is None:
            self._content.append(text)

    def _go_on(self) -> None:
        if self._reading is None:
            return
        try:
            next(self._reading)
        except StopIteration:
            self._reading = None

    def _take(self) -> Pieces:
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        pieces = Pieces(reasoning, content, self._calls.take(), self._num_reasoning_tokens)
        self._reasoning.clear()
        self._content.clear()
        self._num_reasoning_tokens = 0
        return pieces

    def _pass(self, place: int) -> int:
        """Takes away the marks before a place, and counts them."""
        num = 0
        while self._marks and self._marks[0] < place:
            self._marks.popleft()
            num += 1
        return num

    def _visible(self, text: str) -> str:
        return text.translate(self._shown) if self._shown and not text.isascii() else text
