"""Calls in the manner of a programming language: NAME(KEY=VALUE, ...), values as literals of that language."""

from dataclasses import dataclass
from typing import Any, Protocol

from jaxserve.structured.grammar_expr import GrammarExpr, KeywordArguments
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.incremental_json import dump_json
from jaxserve.text.text_buffer import PARAMETER_NAME, Emit, Malformed, Parser, TextBuffer

_MAX_DEPTH = 100
_NAMES = r"[\w.$@-]{1,256}"
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")


class Literals(Protocol):
    """How a language writes its values.

    quotes    the literals that begin and end strings, within which only the same literal counts
    escapes   whether a backslash takes the next character's meaning away
    is_json   whether JSON is such a literal as well
    """

    @property
    def quotes(self) -> tuple[str, ...]: ...

    @property
    def has_escapes(self) -> bool: ...

    @property
    def accepts_json(self) -> bool: ...

    def parse(self, text: str) -> Any:
        """The value of a literal; Malformed when it is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralCalls:
    """begin NAME open KEY equals VALUE, ... close.

    comma    as a grammar writes it
    ends     what may end a call as well, for models that forget `close`
    listed   several calls stand between brackets, separated by commas; in_lines: one after the other
    """

    begin: str = ""
    open: str
    equals: str
    comma: str = ", "
    close: str
    ends: tuple[str, ...] = ()
    literals: Literals
    is_list: bool = False
    is_one_per_line: bool = False

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        if not self.is_list or (yield from buffer.accept("[")) is None:
            yield from self._parse_call(buffer, calls)
            while self.is_one_per_line and (yield from buffer.peek()).isidentifier():
                yield from self._parse_call(buffer, calls)
            return
        more = ","
        while more == ",":
            yield from self._parse_call(buffer, calls)
            more = yield from buffer.expect(",", "]")

    def _parse_call(self, buffer: TextBuffer, calls: ToolCallSink) -> Parser[None]:
        """A call is told when it is whole, as it can be content until then."""
        name = yield from buffer.read_name()
        yield from buffer.expect(self.open)
        members: list[str] = []
        while not (yield from self._parse_end(buffer)):
            key = yield from buffer.read_name(PARAMETER_NAME)
            yield from buffer.expect(self.equals)
            pieces: list[str] = []
            yield from self._stream_value(buffer, pieces.append)
            members.append(f"{dump_json(key)}: {dump_json(self.literals.parse(''.join(pieces)))}")
            if (yield from buffer.accept(",")) is None:
                if not (yield from self._parse_end(buffer)):
                    buffer.fail()
                break
        calls.begin_call(name)
        calls.add_arguments("{" + ", ".join(members) + "}")
        calls.end_call()

    def _parse_end(self, buffer: TextBuffer) -> Parser[bool]:
        """Whether the call ends here; takes what closes it."""
        return (yield from buffer.accept(self.close)) is not None or (yield from buffer.is_followed_by(self.ends))

    def _stream_value(self, buffer: TextBuffer, emit: Emit) -> Parser[None]:
        """The text of a value, up to the comma behind it or the end of the call."""
        depth = 0
        stops = tuple(dict.fromkeys((*self.literals.quotes, *_OPENING, *_CLOSING, ",", *self.ends)))
        while True:
            found = yield from buffer.read_through(stops, emit)
            if not depth and found in (",", self.close, *self.ends):
                buffer.unread(found)
                return
            emit(found)
            if found in self.literals.quotes:
                yield from self._stream_string(buffer, found, emit)
            depth += (found in _OPENING) - (found in _CLOSING)
            if not 0 <= depth <= _MAX_DEPTH:
                raise Malformed

    def _stream_string(self, buffer: TextBuffer, quote: str, emit: Emit) -> Parser[None]:
        stops = (quote, "\\") if self.literals.has_escapes else (quote,)
        while True:
            found = yield from buffer.read_through(stops, emit)
            emit(found)
            if found == quote:
                return
            while buffer.pos == len(buffer.text):
                yield from buffer.wait_for_text()
            emit(buffer.text[buffer.pos])
            buffer.pos += 1

    def is_readable_name(self, name: str) -> bool:
        return is_plain_name(name) and (name[0].isidentifier() or not self.is_one_per_line)

    def build_shape(self, function: FunctionSpec) -> GrammarExpr:
        literals = self.literals
        quote = None if literals.accepts_json else literals.quotes[0]
        arguments = KeywordArguments(function.schema, self.equals, self.comma, quote, _NAMES)
        return concat(self.begin + function.name + self.open, arguments, self.close)
