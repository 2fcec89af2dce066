"""Dialects: what a family of models writes around its reasoning and its tool calls. The families are in dialects/."""

import secrets
import string
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OptionalExpr, OrExpr, RepeatExpr, TextLiteral
from jaxserve.text.call_formats.format import CallFormat, Functions, FunctionSpec, ToolCallSink, concat
from jaxserve.text.text_buffer import Parser, TextBuffer


def random_id(name: str, number: int) -> str:
    """Return a random id for a call, as vLLM forms it."""
    return f"chatcmpl-tool-{secrets.token_hex(8)}"


def short_id(name: str, number: int) -> str:
    """Return nine random letters and digits: Mistral's templates accept no other ids."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def numbered_id(name: str, number: int) -> str:
    """Return the id that Kimi K2 expects: the function's name and the number of the call in the conversation."""
    return f"functions.{name}:{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDialect:
    """The places of tool calls in an output, and their form.

    Literals are as a template writes them; whitespace at their ends is free when an output is parsed.

    format                The form of one call, or of a list.
    open                  Each of these literals begins calls. A grammar writes the first, which may be empty.
    close                 What ends calls in a grammar. A parser ignores whatever follows a complete call.
    section_separator     Stands between two calls that each have an opener and an end; None: one pair holds them all.
    call_separator        Stands between two calls within one pair.
    is_list               The calls are a list in brackets, of JSON or of Python.
    unmarked_start        "{" or "[": an output that begins so may be a call without any marker.
    unmarked_inner_start  Unmarked calls may also come later in an output; there they begin so.
    new_id                Makes the id of a call from its name and its number in the conversation.
    fallback_without      A special token, and the dialect of models whose tokenizer lacks it.
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
        """The literals with which calls may begin in the middle of an output."""
        literals = [*self.open, self.format.begin, self.unmarked_start if self.unmarked_inner_start else ""]
        return tuple(dict.fromkeys(filter(None, map(str.strip, literals))))

    def adapt_to(self, special_tokens: Collection[str]) -> "ToolDialect":
        """Return the dialect of a model whose tokenizer has these special tokens."""
        if self.fallback_without and self.fallback_without[0] not in special_tokens:
            return self.fallback_without[1]
        return self

    def parse_calls(self, buffer: TextBuffer, opener: str, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Parse the calls after an opener, at least one. Raises Malformed if there is none."""
        if opener == self.unmarked_start:
            buffer.unread(opener)
        begin = self.format.begin.strip()
        while begin and opener not in (begin, self.unmarked_start):
            opener = yield from buffer.expect(begin, *(literal.strip() for literal in self.open if literal))
        yield from self.format.parse(buffer, calls, functions)

    def is_readable_name(self, name: str) -> bool:
        """Whether a call of a function with this name is parsed as one."""
        return self.format.is_readable_name(name)

    def build_expr(self, functions: Functions, choice: ToolChoice, is_parallel: bool) -> GrammarExpr:
        """Return a grammar for an output: nothing but calls, of the named or any function, with valid arguments.

        With the choice "auto": any text in which calls are of declared functions, and of strict ones with valid
        arguments.
        """
        if isinstance(choice, NamedTool):
            return self._section_expr([functions[choice.name]], 1)
        max_calls = None if is_parallel else 1
        if choice == "required":
            return self._section_expr(functions.values(), max_calls)
        functions_as_declared = [replace(function, is_enforced=function.is_strict) for function in functions.values()]
        if self.unmarked_start and not self.unmarked_inner_start:
            no_call = FreeText(self.openers, rf"\s*[^\s\{self.unmarked_start}](?s:.*)")
            return OrExpr((self._section_expr(functions_as_declared, max_calls), OptionalExpr(no_call)))
        text = FreeText(
            tuple(self.unmarked_inner_start if opener == self.unmarked_start else opener for opener in self.openers)
        )
        if self.section_separator is None:
            return concat(text, OptionalExpr(concat(self._section_expr(functions_as_declared, max_calls), text)))
        return concat(RepeatExpr(concat(text, self._section_expr(functions_as_declared, 1)), 0, max_calls), text)

    def _section_expr(self, functions: Iterable[FunctionSpec], max_calls: int | None) -> GrammarExpr:
        options = tuple(self.format.build_expr(function) for function in functions)
        call = options[0] if len(options) == 1 else OrExpr(options)
        open = self.open[0] if self.open else ""
        if self.section_separator is not None:
            return _repeat(concat(open, call, self.close), max_calls, self.section_separator)
        brackets, separator = (("[", "]"), ", ") if self.is_list else (("", ""), self.call_separator)
        return concat(open + brackets[0], _repeat(call, max_calls, separator), brackets[1] + self.close)


def _repeat(item: GrammarExpr, max_items: int | None, separator: str) -> GrammarExpr:
    """Return one or more items; max_items None: any number."""
    return item if max_items == 1 else RepeatExpr(item, 1, max_items, concat(separator) if separator else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDialect:
    """The markers of reasoning sections, and when an output has them.

    open, close         Each of these literals begins or ends a section. Where an output begins inside one, the model
                        may leave the opener out.
    starts_inside       An output begins inside the section unless its prompt says otherwise; else the model opens it.
    is_switchable       There is no section if the template was told to disable thinking.
    is_off_by_default   There is a section only if the template was told to enable thinking.
    call_starts         Literals of tool calls that end a section as well, unless a closing marker follows.
    may_repeat          Sections may come later in an output, too.
    hidden_markers      Literals around the content that are not shown.
    """

    open: tuple[str, ...] = ("<think>",)
    close: tuple[str, ...] = ("</think>",)
    starts_inside: bool = True
    is_switchable: bool = False
    is_off_by_default: bool = False
    call_starts: tuple[str, ...] = ()
    may_repeat: bool = False
    hidden_markers: tuple[str, ...] = ()

    def is_enabled(self, spec: ChatOutputSpec) -> bool:
        """Whether an output may have a section at all, by what the template was told."""
        if self.is_off_by_default:
            return spec.enable_thinking is True
        return not (self.is_switchable and spec.enable_thinking is False)

    def section_expr(self) -> GrammarExpr:
        """Return a grammar for one section or none."""
        return OptionalExpr(concat(self.open[0], FreeText(self.close), OrExpr(tuple(map(TextLiteral, self.close)))))
