"""What a family of models writes around its thoughts and its tool calls. dialects/ has the families."""

import secrets
import string
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OptionalExpr, OrExpr, RepeatExpr, TextLiteral
from jaxserve.text.call_formats.format import CallFormat, Calls, Function, Functions, in_order
from jaxserve.text.markers import Reading, Tape


def random_id(name: str, number: int) -> str:
    return f"chatcmpl-tool-{secrets.token_hex(8)}"


def short_id(name: str, number: int) -> str:
    """Nine letters and digits, which is all that Mistral's templates accept."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def numbered_id(name: str, number: int) -> str:
    return f"functions.{name}:{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDialect:
    """Where calls stand in an answer, and how they are written there.

    Literals are as a template writes them; white space at their ends is free when an answer is read.

    format      of one call, or of a list
    open        any of these literals begins calls; a grammar writes the first, which may be empty
    close       what ends them, in a grammar: a reader takes anything behind a complete call for no part of the answer
    between     stands between two calls that are opened and closed each on its own; None: one pair holds them all
    separator   stands between two calls within one pair
    listed      the calls are a list in brackets, of JSON or of Python
    unmarked    "{" or "[": an answer that begins so may be a call without any marker
    anywhere    unmarked calls may also come later in an answer: where they do, they begin so
    new_id      a call's id, from its name and its number in the conversation
    without     a special token, and how models are asked for calls whose tokenizer lacks it
    """

    format: CallFormat
    open: tuple[str, ...] = ()
    close: str = ""
    between: str | None = None
    separator: str = ""
    listed: bool = False
    unmarked: str = ""
    anywhere: str = ""
    new_id: Callable[[str, int], str] = random_id
    without: "tuple[str, ToolDialect] | None" = None

    @property
    def openers(self) -> tuple[str, ...]:
        """The literals with which calls may begin in the midst of an answer."""
        found = [*self.open, self.format.begin, self.unmarked if self.anywhere else ""]
        return tuple(dict.fromkeys(filter(None, map(str.strip, found))))

    def of(self, special_tokens: Collection[str]) -> "ToolDialect":
        """The dialect of a model whose tokenizer has these special tokens."""
        return self.without[1] if self.without and self.without[0] not in special_tokens else self

    def read(self, tape: Tape, opener: str, calls: Calls, functions: Functions) -> Reading[None]:
        """Takes the calls after an opener, at least one. Malformed when there is none."""
        if opener == self.unmarked:
            tape.back(opener)
        begin = self.format.begin.strip()
        while begin and opener not in (begin, self.unmarked):
            opener = yield from tape.expect(begin, *(literal.strip() for literal in self.open if literal))
        yield from self.format.read(tape, calls, functions)

    def reads_name(self, name: str) -> bool:
        """Tell whether a call of a function of this name is read as one."""
        return self.format.reads_name(name)

    def calls(self, functions: Functions, choice: ToolChoice, parallel: bool) -> GrammarExpr:
        """The shape of an answer: nothing but calls, of the one function or of any, with valid arguments.

        With `auto`: any text, in which calls are of declared functions, and of strict ones with valid arguments.
        """
        if isinstance(choice, NamedTool):
            return self._section([functions[choice.name]], 1)
        if choice == "required":
            return self._section(functions.values(), None if parallel else 1)
        loose = [replace(each, enforced=each.strict) for each in functions.values()]
        if self.unmarked and not self.anywhere:
            no_call = FreeText(self.openers, rf"\s*[^\s\{self.unmarked}](?s:.*)")
            return OrExpr((self._section(loose, None if parallel else 1), OptionalExpr(no_call)))
        text = FreeText(tuple(self.anywhere if opener == self.unmarked else opener for opener in self.openers))
        if self.between is None:
            return in_order(text, OptionalExpr(in_order(self._section(loose, None if parallel else 1), text)))
        return in_order(RepeatExpr(in_order(text, self._section(loose, 1)), 0, None if parallel else 1), text)

    def _section(self, functions: Iterable[Function], most: int | None) -> GrammarExpr:
        shapes = tuple(self.format.shape(function) for function in functions)
        call = shapes[0] if len(shapes) == 1 else OrExpr(shapes)
        separator = self.between if self.between is not None else ", " if self.listed else self.separator
        open = self.open[0] if self.open else ""
        if self.between is not None:
            return _several(in_order(open, call, self.close), most, separator)
        brackets = ("[", "]") if self.listed else ("", "")
        return in_order(open + brackets[0], _several(call, most, separator), brackets[1] + self.close)


def _several(item: GrammarExpr, most: int | None, separator: str) -> GrammarExpr:
    """At least one."""
    return item if most == 1 else RepeatExpr(item, 1, most, in_order(separator) if separator else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDialect:
    """How a model marks its reasoning.

    open, close   any of these literals begins and ends a section; a model may leave the first one out if it begins so
    inside        an answer begins inside the section unless its prompt says otherwise; else the model opens it
    switched      told not to think, it has no section
    asked         it has a section only if told to think
    ends_before   literals of tool calls that end a section as well, unless a mark that closes it follows
    repeats       sections may come later in an answer, too
    hidden        literals around the content that nobody should see
    """

    open: tuple[str, ...] = ("<think>",)
    close: tuple[str, ...] = ("</think>",)
    inside: bool = True
    switched: bool = False
    asked: bool = False
    ends_before: tuple[str, ...] = ()
    repeats: bool = False
    hidden: tuple[str, ...] = ()

    def is_on(self, format: ChatOutputSpec) -> bool:
        """Whether an answer may have a section at all, by what the template was told."""
        if self.asked:
            return format.enable_thinking is True
        return not (self.switched and format.enable_thinking is False)

    def section(self) -> GrammarExpr:
        """The shape of one section, or of none."""
        return OptionalExpr(in_order(self.open[0], FreeText(self.close), OrExpr(tuple(map(TextLiteral, self.close)))))
