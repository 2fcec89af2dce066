"""Calls in the manner of a programming language: NAME(KEY=VALUE, ...), values as literals of that language."""

from dataclasses import dataclass
from typing import Any, Protocol

from jaxserve.structured.grammar_expr import GrammarExpr, KeywordArguments
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.json_tape import written
from jaxserve.text.markers import KEY, Emit, Malformed, Reading, Tape

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
    def escapes(self) -> bool: ...

    @property
    def is_json(self) -> bool: ...

    def json(self, text: str) -> Any:
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
    listed: bool = False
    in_lines: bool = False

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        if not self.listed or (yield from tape.accept("[")) is None:
            yield from self._call(tape, calls)
            while self.in_lines and (yield from tape.peek()).isidentifier():
                yield from self._call(tape, calls)
            return
        more = ","
        while more == ",":
            yield from self._call(tape, calls)
            more = yield from tape.expect(",", "]")

    def _call(self, tape: Tape, calls: Calls) -> Reading[None]:
        """A call is told when it is whole, as it can be content until then."""
        name = yield from tape.name()
        yield from tape.expect(self.open)
        members: list[str] = []
        while not (yield from self._closes(tape)):
            key = yield from tape.name(KEY)
            yield from tape.expect(self.equals)
            pieces: list[str] = []
            yield from self._value(tape, pieces.append)
            members.append(f"{written(key)}: {written(self.literals.json(''.join(pieces)))}")
            if (yield from tape.accept(",")) is None:
                if not (yield from self._closes(tape)):
                    tape.fail()
                break
        calls.begin(name)
        calls.write("{" + ", ".join(members) + "}")
        calls.end()

    def _closes(self, tape: Tape) -> Reading[bool]:
        """Whether the call ends here; takes what closes it."""
        return (yield from tape.accept(self.close)) is not None or (yield from tape.followed_by(self.ends))

    def _value(self, tape: Tape, emit: Emit) -> Reading[None]:
        """The text of a value, up to the comma behind it or the end of the call."""
        depth = 0
        stops = tuple(dict.fromkeys((*self.literals.quotes, *_OPENING, *_CLOSING, ",", *self.ends)))
        while True:
            found = yield from tape.through(stops, emit)
            if not depth and found in (",", self.close, *self.ends):
                tape.back(found)
                return
            emit(found)
            if found in self.literals.quotes:
                yield from self._string(tape, found, emit)
            depth += (found in _OPENING) - (found in _CLOSING)
            if not 0 <= depth <= _MAX_DEPTH:
                raise Malformed

    def _string(self, tape: Tape, quote: str, emit: Emit) -> Reading[None]:
        stops = (quote, "\\") if self.literals.escapes else (quote,)
        while True:
            found = yield from tape.through(stops, emit)
            emit(found)
            if found == quote:
                return
            while tape.pos == len(tape.text):
                yield from tape.wait()
            emit(tape.text[tape.pos])
            tape.pos += 1

    def reads_name(self, name: str) -> bool:
        return is_plain_name(name) and (name[0].isidentifier() or not self.in_lines)

    def shape(self, function: Function) -> GrammarExpr:
        literals = self.literals
        quote = None if literals.is_json else literals.quotes[0]
        arguments = KeywordArguments(function.schema, self.equals, self.comma, quote, _NAMES)
        return in_order(self.begin + function.name + self.open, arguments, self.close)
