"""One choice's text on its way to the client: told apart into reasoning, content and tool calls."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxserve.answer_format import AnswerFormat, NamedTool
from jaxserve.outputs import FinishReason, ToolCallDelta
from jaxserve.text.dialect import random_id
from jaxserve.text.markers import MAX_BLANK_CHARS, Malformed, Reading, Tape


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


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    pieces: list[str]
    is_complete: bool = False


class Reader:
    """Reads one choice: feed it the text in any pieces, then close it.

    format    eager: calls are told while they are written. Otherwise content and calls are told at the close, the calls
              only if all of them can be read; if not, they are content. Where a call must be, nothing else is told.
    read      what takes the text from the tape and gives its parts to this reader
    new_id    a call's id, from its name and its number in the conversation
    shown     how the private-use characters that stand for special tokens are shown: character → text
    """

    def __init__(
        self,
        format: AnswerFormat,
        read: "Callable[[Tape, Reader], Reading[None]]",
        new_id: Callable[[str, int], str] = random_id,
        shown: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.num_calls = 0
        self.has_told_calls = False
        self._format = format
        self._new_id = new_id
        self._shown = str.maketrans(dict(shown))
        self._tape = Tape()
        self._reading: Reading[None] | None = read(self._tape, self)
        self._is_broken = False
        self._raw: list[str] = []  # all that was fed, where it may have to be shown after all
        self._calls_from = 0  # its place in there
        self._calls: list[_Call] = []
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._blank: str | None = ""  # white space at the beginning of the content, until something else comes
        self._shows_blank = True
        self._deltas: list[ToolCallDelta] = []
        self._marks: deque[int] = deque()
        self._num_reasoning_tokens = 0
        self._reasoning_end = -1  # where the last reasoning ended, as far as it has been read
        next(self._reading, None)

    def mark(self, place: int) -> None:
        """A token's text begins at this character of the answer. Marks come in order, none after its own text."""
        self._marks.append(place)

    def feed(self, piece: str) -> Pieces:
        if piece:
            if not self._format.eager:
                self._raw.append(piece)
            self._tape.feed(piece)
            self._go_on()
        return self._take()

    def close(self) -> Pieces:
        """The rest, when no more text comes."""
        self._tape.ended = True
        self._go_on()
        if self._reasoning_end == self._tape.place:
            self._num_reasoning_tokens += self._pass(self._reasoning_end + 1)  # tokens without a text
        if self._blank and self._shows_blank and not self.num_calls:
            self._content.append(self._blank)
        if not self._format.eager:
            self._settle()
        return self._take(is_last=True)

    def finish_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """Why the choice ended, for the client: a call that the model chose to make is a reason of its own."""
        is_call = self.has_told_calls and not isinstance(self._format.tool_choice, NamedTool)
        return FinishReason.TOOL_CALLS if is_call and reason is FinishReason.STOP else reason

    def reasoning(self, text: str) -> None:
        start = self._tape.place
        self._reasoning_end = start + len(text)
        self._pass(start)
        self._num_reasoning_tokens += self._pass(self._reasoning_end)
        if self._format.include_reasoning:
            self._reasoning.append(self._visible(text))

    def content(self, text: str) -> None:
        if self._format.must_call:
            return
        self._pass(self._tape.place)
        text = self._visible(text)
        if self._blank is not None:
            text = self._blank + text if self._shows_blank else text.lstrip()
            self._blank = text if len(text) <= MAX_BLANK_CHARS and not text.strip() else None
        if self._blank is None:
            self._content.append(text)

    def hide(self) -> None:
        self._blank, self._shows_blank = "", False

    def calls_at(self, place: int) -> None:
        if not self.num_calls:
            self._calls_from = place

    def begin(self, name: str) -> None:
        number = self._format.num_past_calls + self.num_calls
        call = _Call(self._new_id(name, number), self._visible(name), [])
        self._flush_arguments()
        self._calls.append(call)
        self.num_calls += 1
        if self._tells:
            self._deltas.append(ToolCallDelta(self.num_calls - 1, "", call.id, call.name))

    def write(self, arguments: str) -> None:
        if arguments:
            self._calls[-1].pieces.append(self._visible(arguments))

    def end(self) -> None:
        self._calls[-1].is_complete = True

    @property
    def _tells(self) -> bool:
        """Whether the newest call is told as it is written."""
        return self._format.eager and (self.num_calls == 1 or self._format.parallel_tool_calls)

    def _flush_arguments(self) -> None:
        if self.num_calls and self._tells and self._calls[-1].pieces:
            self._deltas.append(ToolCallDelta(self.num_calls - 1, "".join(self._calls[-1].pieces)))
            self._calls[-1].pieces.clear()

    def _settle(self) -> None:
        """Tells the calls now that all is known, or shows them as content."""
        if self._format.must_call:
            calls = [call for call in self._calls if call.is_complete]
        elif self._is_broken or not all(call.is_complete for call in self._calls):
            calls = []
            self._content += [self._blank or "", self._visible("".join(self._raw)[self._calls_from :])]
        else:
            calls = self._calls
        for index, call in enumerate(calls if self._format.parallel_tool_calls else calls[:1]):
            self._deltas.append(ToolCallDelta(index, "".join(call.pieces), call.id, call.name))

    def _go_on(self) -> None:
        if self._reading is None:
            return
        try:
            next(self._reading)
        except StopIteration:
            self._reading = None
        except Malformed:
            self._reading = None
            self._is_broken = True

    def _take(self, is_last: bool = False) -> Pieces:
        self._flush_arguments()
        self.has_told_calls = self.has_told_calls or bool(self._deltas)
        is_due = is_last or self._format.eager
        content = "".join(self._content) if is_due else ""
        pieces = Pieces("".join(self._reasoning), content, tuple(self._deltas), self._num_reasoning_tokens)
        self._reasoning.clear()
        self._deltas.clear()
        self._num_reasoning_tokens = 0
        if is_due:
            self._content.clear()
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
