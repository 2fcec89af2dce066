"""OutputParser: split the text of one choice into reasoning, content and tool calls as it arrives."""

import logging
import time
import traceback
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

# Processor time that the parsing of an output may take: some ten times what a parser takes for a text of that length.
MAX_PARSE_S, MAX_PARSE_S_PER_CHAR = 1.0, 100e-6
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ParsedDelta:
    """The parts that one piece of text has added to a choice.

    reasoning              Reasoning text.
    content                Content text.
    tool_calls             Deltas of tool calls.
    num_reasoning_tokens   Tokens whose start was marked and which are now known to be reasoning.
    content_tokens         The numbers, from 0, of those that are now known to be content.
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    num_reasoning_tokens: int = 0
    content_tokens: tuple[int, ...] = ()

    def __add__(self, later: "ParsedDelta") -> "ParsedDelta":
        return ParsedDelta(
            self.reasoning + later.reasoning,
            self.content + later.content,
            self.tool_calls + later.tool_calls,
            self.num_reasoning_tokens + later.num_reasoning_tokens,
            self.content_tokens + later.content_tokens,
        )


class OutputParser:
    """Parser of one choice: feed it the text in any pieces, then close it. Pieces and a whole text are parsed alike.

    A call is reported from the first character of its arguments on, so that nothing has to be taken back: what turns
    out before to be no call is content, and a call that breaks off later keeps the arguments that have come. If parsing
    fails or takes too long, what has not been parsed, and all further text, is content.

    num_calls   The number of calls in the dialect's own form that have begun.
    """

    def __init__(
        self,
        spec: ChatOutputSpec,
        parse: "Callable[[TextBuffer, OutputParser], Parser[None]]",
        new_id: Callable[[str, int], str] = random_id,
        unescaped: Mapping[str, str] = MappingProxyType({}),
        unmarked: Functions | None = None,
    ) -> None:
        """Start parsing.

        spec        What the request says about its output.
        parse       The function that reads the text from the buffer and gives its parts to this parser.
        new_id      Makes the id of a call from its name and its number in the conversation.
        unescaped   The texts of the private-use characters that stand for special tokens, by character.
        unmarked    The functions whose calls are also parsed in a form of no dialect; None: no such calls are.
        """
        self.num_calls = 0
        self._spec = spec
        self._unescape_table = str.maketrans(dict(unescaped))
        self._calls = CallDeltas(spec, new_id)
        self._unmarked = None if unmarked is None else UnmarkedCallParser(unmarked, self._calls, self._emit_content)
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._leading_whitespace: str | None = ""  # of the content, until something else comes
        self._keeps_leading_whitespace = True
        self._token_starts: deque[int] = deque()
        self._num_assigned_tokens = 0  # to reasoning, content, or neither; the starts are those of the others
        self._num_reasoning_tokens = 0
        self._content_tokens: list[int] = []
        self._reasoning_end = -1  # position of the end of the last reasoning so far, or -1
        self._buffer = TextBuffer()
        self._spent_s = 0.0
        self._has_given_up = False
        self._parsing: Parser[None] | None = parse(self._buffer, self)
        next(self._parsing, None)

    def mark_token_start(self, position: int) -> None:
        """Note that the text of a token begins at this character of the output.

        Tokens are marked in order, each before its text is fed.
        """
        self._token_starts.append(position)

    def feed(self, piece: str) -> ParsedDelta:
        """Parse more text and return what it adds."""
        if self._has_given_up:
            self._emit_content(self._unescape(piece))
            self._assign_rest_to_content()
        elif piece:
            self._buffer.feed(piece)
            self._advance()
        return self._take_delta()

    def close(self, *, is_cut: bool = False) -> ParsedDelta:
        """Return the rest, when no more text comes.

        is_cut: the text was not ended by the model, but by a limit or a stop string.
        """
        self._buffer.is_ended, self._buffer.is_cut = True, is_cut
        self._advance()
        if self._unmarked is not None:
            self._parse_unmarked(UnmarkedCallParser.close)
        if self._reasoning_end == self._buffer.position:
            self._num_reasoning_tokens += self._take_token_starts(self._reasoning_end + 1)  # tokens without a text
        if self._leading_whitespace and self._keeps_leading_whitespace and not self._calls.num_calls:
            self._content.append(self._leading_whitespace)
        return self._take_delta()

    def finish_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """Return the finish reason to show to the client.

        STOP becomes TOOL_CALLS if the model chose to make calls and all of them are complete.
        """
        is_call = self._calls.num_calls and not self._calls.num_unfinished
        if is_call and reason is FinishReason.STOP and not isinstance(self._spec.tool_choice, NamedTool):
            return FinishReason.TOOL_CALLS
        return reason

    def add_reasoning(self, text: str) -> None:
        """Receive a piece of the reasoning and count its tokens."""
        start = self._buffer.position
        self._reasoning_end = start + len(text)
        self._take_token_starts(start)
        self._num_reasoning_tokens += self._take_token_starts(self._reasoning_end)
        if self._spec.include_reasoning:
            self._reasoning.append(self._unescape(text))

    def add_content(self, text: str) -> None:
        """Receive a piece of the content, which may hold unmarked calls."""
        if self._spec.requires_tool_call:
            return
        self._assign_to_content(text)
        text = self._unescape(text)
        if self._unmarked is None:
            self._emit_content(text)
        elif text:
            self._parse_unmarked(lambda unmarked: unmarked.feed(text))

    def trim_whitespace(self) -> None:
        """Leave out the whitespace at the beginning of the content."""
        if self._unmarked is not None:
            self._unmarked.flush()
        self._leading_whitespace, self._keeps_leading_whitespace = "", False

    def begin_call(self, name: str) -> None:
        """Receive the function name of the next call."""
        self._calls.begin_call(self._unescape(name))

    def add_arguments(self, arguments: str) -> None:
        """Receive a piece of the call's arguments, which is JSON text."""
        if not arguments:
            return
        if not self._calls.has_begun:
            self.num_calls += 1
            if self._unmarked is not None:
                self._unmarked.flush(is_marked=True)
                self._unmarked = None  # a model that uses its dialect writes no calls in another form
        self._calls.add_arguments(self._unescape(arguments))

    def end_call(self) -> None:
        """Mark the call as complete."""
        self._calls.end_call()

    def _emit_content(self, text: str) -> None:
        """Add content that holds no unmarked call."""
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
        started_s = time.thread_time()
        try:
            next(self._parsing)
        except StopIteration:
            self._parsing = None
        except Exception as error:
            self._give_up(_describe(error))
            return
        self._spent_s += time.thread_time() - started_s
        if self._spent_s > MAX_PARSE_S + MAX_PARSE_S_PER_CHAR * self._buffer.position:
            self._give_up(f"it took {self._spent_s:.1f} s")

    def _give_up(self, reason: str) -> None:
        """Parse no more: what is held back is content, and so is all that comes."""
        log.error("the parsing of an output has failed, the rest is content: %s", reason)
        held = self._buffer.pending_text()
        self._parsing, self._has_given_up = None, True
        self._drop_unmarked()
        self._assign_rest_to_content()
        self._emit_content(self._unescape(held))

    def _parse_unmarked(self, step: Callable[[UnmarkedCallParser], None]) -> None:
        """Let the parser of unmarked calls make a step; if it fails, its text is content."""
        assert self._unmarked is not None
        try:
            step(self._unmarked)
        except Exception as error:
            log.error("the parsing of an output has failed, the rest has no unmarked calls: %s", _describe(error))
            self._drop_unmarked()

    def _drop_unmarked(self) -> None:
        unmarked, self._unmarked = self._unmarked, None
        if unmarked is not None:
            unmarked.flush()

    def _take_delta(self) -> ParsedDelta:
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        calls, content_tokens = self._calls.take_deltas(), tuple(self._content_tokens)
        delta = ParsedDelta(reasoning, content, calls, self._num_reasoning_tokens, content_tokens)
        self._reasoning.clear()
        self._content.clear()
        self._content_tokens.clear()
        self._num_reasoning_tokens = 0
        return delta

    def _assign_to_content(self, text: str) -> None:
        """Note the tokens of content: it comes next in the buffer, or was read last, as what might have been a call."""
        buffer = self._buffer
        is_next = buffer.text.startswith(text, buffer.pos) or text.isspace()  # a dialect may add a line break
        start = buffer.position - (0 if is_next else len(text))
        self._take_token_starts(start)
        first = self._num_assigned_tokens
        self._take_token_starts(start + len(text))
        self._content_tokens += range(first, self._num_assigned_tokens)

    def _assign_rest_to_content(self) -> None:
        """Note that all tokens are content's of which nothing is known yet."""
        first = self._num_assigned_tokens
        self._num_assigned_tokens += len(self._token_starts)
        self._token_starts.clear()
        self._content_tokens += range(first, self._num_assigned_tokens)

    def _take_token_starts(self, position: int) -> int:
        """Remove the token starts before a position and return their number."""
        num_tokens = 0
        while self._token_starts and self._token_starts[0] < position:
            self._token_starts.popleft()
            num_tokens += 1
        self._num_assigned_tokens += num_tokens
        return num_tokens

    def _unescape(self, text: str) -> str:
        return text.translate(self._unescape_table) if self._unescape_table and not text.isascii() else text


def _describe(error: Exception) -> str:
    """Return what was raised, and where, without the error's text, which may be the model's."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.name}, line {place.lineno}"
