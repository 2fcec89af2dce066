"""LiteralCalls: calls like NAME(KEY=VALUE, ...), as in a programming language, with values as its literals."""

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
    """The literals of a language: the form of its values."""

    @property
    def quotes(self) -> tuple[str, ...]:
        """The markers of strings; each string ends with the marker that began it."""
        ...

    @property
    def has_escapes(self) -> bool:
        """Whether a backslash escapes the next character."""
        ...

    @property
    def accepts_json(self) -> bool:
        """Whether JSON is such a literal, too."""
        ...

    def parse(self, text: str) -> Any:
        """Return the value of a literal. Raises Malformed if it is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralCalls:
    """Calls of the form: begin NAME open KEY equals VALUE, ... close.

    begin             The literal that begins a call.
    open, close       The literals around the arguments.
    equals            The literal between a parameter's name and its value.
    comma             The separator of arguments, as a grammar writes it.
    ends              Literals that may end a call as well, for models that leave `close` out.
    literals          The form of the values.
    is_list           Several calls stand in brackets, separated by commas.
    is_one_per_line   Several calls follow one another without brackets.
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
        """Parse one call, or several. Raises Malformed if there is none."""
        if not self.is_list or (yield from buffer.accept("[")) is None:
            yield from self._parse_call(buffer, calls)
            while self.is_one_per_line and (yield from buffer.peek()).isidentifier():
                yield from self._parse_call(buffer, calls)
            return
        separator = ","
        while separator == ",":
            yield from self._parse_call(buffer, calls)
            separator = yield from buffer.expect(",", "]")

    def _parse_call(self, buffer: TextBuffer, calls: ToolCallSink) -> Parser[None]:
        """Parse one call, and report it when it is complete: until then it may be content."""
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
        """Read the end of the call; return whether there is one."""
        return (yield from buffer.accept(self.close)) is not None or (yield from buffer.is_followed_by(self.ends))

    def _stream_value(self, buffer: TextBuffer, emit: Emit) -> Parser[None]:
        """Emit the text of a value, up to the comma after it or the end of the call."""
        depth = 0
        stops = tuple(dict.fromkeys((*self.literals.quotes, *_OPENING, *_CLOSING, ",", *self.ends)))
        while True:
            stop = yield from buffer.read_through(stops, emit)
            if not depth and stop in (",", self.close, *self.ends):
                buffer.unread(stop)
                return
            emit(stop)
            if stop in self.literals.quotes:
                yield from self._stream_string(buffer, stop, emit)
            depth += (stop in _OPENING) - (stop in _CLOSING)
            if not 0 <= depth <= _MAX_DEPTH:
                raise Malformed

    def _stream_string(self, buffer: TextBuffer, quote: str, emit: Emit) -> Parser[None]:
        stops = (quote, "\\") if self.literals.has_escapes else (quote,)
        while True:
            stop = yield from buffer.read_through(stops, emit)
            emit(stop)
            if stop == quote:
                return
            while buffer.pos == len(buffer.text):
                yield from buffer.wait_for_text()
            emit(buffer.text[buffer.pos])
            buffer.pos += 1

    def is_readable_name(self, name: str) -> bool:
        """Whether `parse` gives this function name back as it was written."""
        return is_plain_name(name) and (name[0].isidentifier() or not self.is_one_per_line)

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        """Return a grammar for a call of this function."""
        literals = self.literals
        quote = None if literals.accepts_json else literals.quotes[0]
        arguments = KeywordArguments(function.schema, self.equals, self.comma, quote, _NAMES)
        return concat(self.begin + function.name + self.open, arguments, self.close)
