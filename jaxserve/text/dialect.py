"""What a family of models writes around its thoughts and its tool calls. dialects/ has the families."""

import secrets
import string
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OptionalExpr, OrExpr, RepeatExpr, TextLiteral
from jaxserve.text.call_formats.format import CallFormat, Functions, FunctionSpec, ToolCallSink, concat
from jaxserve.text.text_buffer import Parser, TextBuffer


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

    format                of one call, or of a list
    open                  any of these literals begins calls; a grammar writes the first, which may be empty
    close                 what ends them, in a grammar; a parser discards anything behind a complete call
    section_separator     between two calls, each opened and closed on its own; None: one pair holds them all
    call_separator        stands between two calls within one pair
    is_list               the calls are a list in brackets, of JSON or of Python
    unmarked_start        "{" or "[": an answer that begins so may be a call without any marker
    unmarked_inner_start  unmarked calls may also come later in an answer: where they do, they begin so
    new_id                a call's id, from its name and its number in the conversation
    fallback_without      a special token, and how models are asked for calls whose tokenizer lacks it
    """

    format: CallFormat
    open: tuple[str, ...] = ()
    close: str = ""
    section_separator: str | None = None
    call_separator: str = ""
    is_list: bool = False
    unmarked_start: str = ""
    unmarked_inner_start: str = ""
    new_id: Callable[[str, int], str] = random_id
    fallback_without: "tuple[str, ToolDialect] | None" = None

    @property
    def openers(self) -> tuple[str, ...]:
        """The literals with which calls may begin in the midst of an answer."""
        found = [*self.open, self.format.begin, self.unmarked_start if self.unmarked_inner_start else ""]
        return tuple(dict.fromkeys(filter(None, map(str.strip, found))))

    def adapt_to(self, special_tokens: Collection[str]) -> "ToolDialect":
        """The dialect of a model whose tokenizer has these special tokens."""
        return (
            self.fallback_without[1]
            if self.fallback_without and self.fallback_without[0] not in special_tokens
            else self
        )

    def parse_calls(self, buffer: TextBuffer, opener: str, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Takes the calls after an opener, at least one. Malformed when there is none."""
        if opener == self.unmarked_start:
            buffer.unread(opener)
        begin = self.format.begin.strip()
        while begin and opener not in (begin, self.unmarked_start):
            opener = yield from buffer.expect(begin, *(literal.strip() for literal in self.open if literal))
        yield from self.format.parse(buffer, calls, functions)

    def is_readable_name(self, name: str) -> bool:
        """Tell whether a call of a function of this name is read as one."""
        return self.format.is_readable_name(name)

    def build_shape(self, functions: Functions, choice: ToolChoice, parallel: bool) -> GrammarExpr:
        """The shape of an answer: nothing but calls, of the one function or of any, with valid arguments.

        With `auto`: any text, in which calls are of declared functions, and of strict ones with valid arguments.
        """
        if isinstance(choice, NamedTool):
            return self._section_shape([functions[choice.name]], 1)
        if choice == "required":
            return self._section_shape(functions.values(), None if parallel else 1)
        loose = [replace(each, is_enforced=each.is_strict) for each in functions.values()]
        if self.unmarked_start and not self.unmarked_inner_start:
            no_call = FreeText(self.openers, rf"\s*[^\s\{self.unmarked_start}](?s:.*)")
            return OrExpr((self._section_shape(loose, None if parallel else 1), OptionalExpr(no_call)))
        text = FreeText(
            tuple(self.unmarked_inner_start if opener == self.unmarked_start else opener for opener in self.openers)
        )
        if self.section_separator is None:
            return concat(text, OptionalExpr(concat(self._section_shape(loose, None if parallel else 1), text)))
        return concat(RepeatExpr(concat(text, self._section_shape(loose, 1)), 0, None if parallel else 1), text)

    def _section_shape(self, functions: Iterable[FunctionSpec], most: int | None) -> GrammarExpr:
        shapes = tuple(self.format.build_shape(function) for function in functions)
        call = shapes[0] if len(shapes) == 1 else OrExpr(shapes)
        separator = (
            self.section_separator
            if self.section_separator is not None
            else ", "
            if self.is_list
            else self.call_separator
        )
        open = self.open[0] if self.open else ""
        if self.section_separator is not None:
            return _several(concat(open, call, self.close), most, separator)
        brackets = ("[", "]") if self.is_list else ("", "")
        return concat(open + brackets[0], _several(call, most, separator), brackets[1] + self.close)


def _several(item: GrammarExpr, most: int | None, separator: str) -> GrammarExpr:
    """At least one."""
    return item if most == 1 else RepeatExpr(item, 1, most, concat(separator) if separator else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDialect:
    """How a model marks its reasoning.

    open, close   any of these literals begins and ends a section; a model may leave the first one out if it begins so
    starts_inside      an answer begins inside the section unless its prompt says otherwise; else the model opens it
    is_switchable      told not to think, it has no section
    is_off_by_default  it has a section only if told to think
    call_starts        literals of tool calls that end a section as well, unless a mark that closes it follows
    may_repeat         sections may come later in an answer, too
    hidden_markers     literals around the content that nobody should see
    """

    open: tuple[str, ...] = ("<think>",)
    close: tuple[str, ...] = ("</think>",)
    starts_inside: bool = True
    is_switchable: bool = False
    is_off_by_default: bool = False
    call_starts: tuple[str, ...] = ()
    may_repeat: bool = False
    hidden_markers: tuple[str, ...] = ()

    def is_enabled(self, format: ChatOutputSpec) -> bool:
        """Whether an answer may have a section at all, by what the template was told."""
        if self.is_off_by_default:
            return format.enable_thinking is True
        return not (self.is_switchable and format.enable_thinking is False)

    def section_shape(self) -> GrammarExpr:
        """The shape of one section, or of none."""
        return OptionalExpr(concat(self.open[0], FreeText(self.close), OrExpr(tuple(map(TextLiteral, self.close)))))
