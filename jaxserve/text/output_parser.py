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
from jaxserve.text.text_buffer import MAX_WHITESPACE_CHARS, Parser, TextBuffer
from jaxserve.text.unmarked_calls import UnmarkedCallParser


@dataclass(frozen=True, slots=True)
class ParsedDelta:
    """What one feed brought. num_reasoning_tokens: of the tokens marked so far, those that now are known as such."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    num_reasoning_tokens: int = 0

    def __add__(self, later: "ParsedDelta") -> "ParsedDelta":
        return ParsedDelta(
            self.reasoning + later.reasoning,
            self.content + later.content,
            self.tool_calls + later.tool_calls,
            self.num_reasoning_tokens + later.num_reasoning_tokens,
        )


class OutputParser:
    """Reads one choice: feed it the text in any pieces, then close it. A stream and a whole answer are read alike.

    A call is told from the first character of its arguments on, so that nothing has to be taken back: what turns out
    before to be no call is content, and a call that breaks off later keeps the arguments that have come.

    parse     what takes the text from the buffer and gives its parts to this reader
    new_id    a call's id, from its name and its number in the conversation
    unescaped how the private-use characters that stand for special tokens are shown: character → text
    unmarked  functions of which calls in a form of no dialect are taken, too; None: none are

    num_calls   that are in the dialect's form and have begun
    """

    def __init__(
        self,
        format: ChatOutputSpec,
        parse: "Callable[[TextBuffer, OutputParser], Parser[None]]",
        new_id: Callable[[str, int], str] = random_id,
        unescaped: Mapping[str, str] = MappingProxyType({}),
        unmarked: Functions | None = None,
    ) -> None:
        self.num_calls = 0
        self._format = format
        self._unescape_table = str.maketrans(dict(unescaped))
        self._calls = CallDeltas(format, new_id)
        self._unmarked = None if unmarked is None else UnmarkedCallParser(unmarked, self._calls, self._emit_content)
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._leading_whitespace: str | None = ""  # of the content, until something else comes
        self._keeps_leading_whitespace = True
        self._token_starts: deque[int] = deque()
        self._num_reasoning_tokens = 0
        self._reasoning_end = -1  # where the last reasoning ended, as far as it has been read
        self._buffer = TextBuffer()
        self._parsing: Parser[None] | None = parse(self._buffer, self)
        next(self._parsing, None)

    def mark_token_start(self, position: int) -> None:
        """A token's text begins at this character of the answer. Marks come in order, none after its own text."""
        self._token_starts.append(position)

    def feed(self, piece: str) -> ParsedDelta:
        if piece:
            self._buffer.feed(piece)
            self._advance()
        return self._take_delta()

    def close(self, *, is_cut: bool = False) -> ParsedDelta:
        """The rest, when no more text comes. is_cut: not the model has ended it, but a limit or a stop string."""
        self._buffer.is_ended, self._buffer.is_cut = True, is_cut
        self._advance()
        if self._unmarked is not None:
            self._unmarked.close()
        if self._reasoning_end == self._buffer.position:
            self._num_reasoning_tokens += self._take_token_starts(self._reasoning_end + 1)  # tokens without a text
        if self._leading_whitespace and self._keeps_leading_whitespace and not self._calls.num_calls:
            self._content.append(self._leading_whitespace)
        return self._take_delta()

    def finish_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """Why the choice ended, for the client: calls that the model chose to make, each of them whole, are a reason
        of their own."""
        is_call = self._calls.num_calls and not self._calls.num_unfinished
        if is_call and reason is FinishReason.STOP and not isinstance(self._format.tool_choice, NamedTool):
            return FinishReason.TOOL_CALLS
        return reason

    def add_reasoning(self, text: str) -> None:
        start = self._buffer.position
        self._reasoning_end = start + len(text)
        self._take_token_starts(start)
        self._num_reasoning_tokens += self._take_token_starts(self._reasoning_end)
        if self._format.include_reasoning:
            self._reasoning.append(self._unescape(text))

    def add_content(self, text: str) -> None:
        if self._format.requires_tool_call:
            return
        self._take_token_starts(self._buffer.position)
        text = self._unescape(text)
        if self._unmarked is not None and text:
            self._unmarked.feed(text)
        else:
            self._emit_content(text)

    def trim_whitespace(self) -> None:
        if self._unmarked is not None:
            self._unmarked.flush()
        self._leading_whitespace, self._keeps_leading_whitespace = "", False

    def begin_call(self, name: str) -> None:
        self._calls.begin_call(self._unescape(name))

    def add_arguments(self, arguments: str) -> None:
        if not arguments:
            return
        if not self._calls.has_begun:
            self.num_calls += 1
            if self._unmarked is not None:
                self._unmarked.flush(is_marked=True)
                self._unmarked = None  # a model that knows its form writes no calls in another
        self._calls.add_arguments(self._unescape(arguments))

    def end_call(self) -> None:
        self._calls.end_call()

    def _emit_content(self, text: str) -> None:
        """Content, which has no call in it."""
        if self._calls.num_calls:
            return
        if self._leading_whitespace is not None:
            text = self._leading_whitespace + text if self._keeps_leading_whitespace else text.lstrip()
            self._leading_whitespace = text if len(text) <= MAX_WHITESPACE_CHARS and not text.strip() else None
        if self._leading_whitespace is None:
            self._content.append(text)

    def _advance(self) -> None:
        if self._parsing is None:
            return
        try:
            next(self._parsing)
        except StopIteration:
            self._parsing = None

    def _take_delta(self) -> ParsedDelta:
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        pieces = ParsedDelta(reasoning, content, self._calls.take_deltas(), self._num_reasoning_tokens)
        self._reasoning.clear()
        self._content.clear()
        self._num_reasoning_tokens = 0
        return pieces

    def _take_token_starts(self, place: int) -> int:
        """Takes away the marks before a place, and counts them."""
        num = 0
        while self._token_starts and self._token_starts[0] < place:
            self._token_starts.popleft()
            num += 1
        return num

    def _unescape(self, text: str) -> str:
        return text.translate(self._unescape_table) if self._unescape_table and not text.isascii() else text
