"""MarkedTools and MarkedReasoning: the dialects that are tables of markers."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.structured.grammar_expr import FreeText, GrammarExpr, OptionalExpr, OrExpr, RepeatExpr, TextLiteral
from jaxserve.text.call_formats.format import CallFormat, Functions, FunctionSpec, ToolCallSink, concat
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.dialect import random_id
from jaxserve.text.prompt_reasoning import find_reasoning_section
from jaxserve.text.reasoning import BeforeReasoning, EscapedVocabulary, InsideReasoning, ReasoningState
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedTools:
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
    fallback_without: "tuple[str, MarkedTools] | None" = None

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """None: a marker may be any text."""
        return ()

    @property
    def content_header(self) -> str:
        """None: what is not marked is content."""
        return ""

    @property
    def has_typed_arguments(self) -> bool:
        """Whether arguments get their types from the schemas of the functions."""
        return isinstance(self.format, TaggedCalls)

    @property
    def output_parser(self) -> None:
        """None: calls are parsed by their markers."""
        return None

    @property
    def openers(self) -> tuple[str, ...]:
        """The literals with which calls may begin in the middle of an output."""
        literals = [*self.open, self.format.begin, self.unmarked_start if self.unmarked_inner_start else ""]
        return tuple(dict.fromkeys(filter(None, map(str.strip, literals))))

    def adapt_to(self, special_tokens: Collection[str]) -> "MarkedTools":
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
class MarkedReasoning:
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

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """None: a marker may be any text."""
        return ()

    @property
    def content_header(self) -> str:
        """None: what is not marked is content."""
        return ""

    @property
    def end_marker(self) -> str:
        """The first of the closing markers."""
        return self.close[0]

    @property
    def efforts(self) -> None:
        """None: the template decides which reasoning efforts there are."""
        return None

    @property
    def output_parser(self) -> None:
        """None: reasoning is parsed by its markers."""
        return None

    def begins_inside(self, spec: ChatOutputSpec, special_tokens: Collection[str]) -> bool | None:
        """Whether an output begins within its reasoning section; None: it has none.

        A section that the prompt has opened is open even if the template was told not to open one.
        """
        section = find_reasoning_section(spec.prompt_text, self.open, self.close, special_tokens)
        if section is None and self.is_enabled(spec):
            return self.starts_inside
        return True if section == "open" else None

    def ends_inside(self, text: str, special_tokens: Collection[str]) -> bool:
        """Whether a text ends within a reasoning section."""
        return find_reasoning_section(text, self.open, self.close, special_tokens) == "open"

    def create_state(self, vocabulary: EscapedVocabulary, *, inside: bool, is_constrained: bool) -> ReasoningState:
        """Return the state before the first token of an output.

        If a grammar holds after the reasoning, calls that the model begins inside a section do not end it, since their
        first marker would be missing where the grammar begins.
        """
        closing = self.close if is_constrained else (*self.close, *self.call_starts)
        section = InsideReasoning(vocabulary, _strip_and_encode(closing))
        return section if inside else BeforeReasoning(section, _strip_and_encode(self.open))

    def is_enabled(self, spec: ChatOutputSpec) -> bool:
        """Whether an output may have a section at all, by what the template was told."""
        if self.is_off_by_default:
            return spec.enable_thinking is True
        return not (self.is_switchable and spec.enable_thinking is False)

    def section_expr(self) -> GrammarExpr:
        """Return a grammar for one section or none."""
        return OptionalExpr(concat(self.open[0], FreeText(self.close), OrExpr(tuple(map(TextLiteral, self.close)))))


def _strip_and_encode(markers: tuple[str, ...]) -> tuple[bytes, ...]:
    """Encode markers without the whitespace at their ends, which is free."""
    return tuple(marker.strip().encode() for marker in markers)
