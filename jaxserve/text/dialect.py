"""The protocols of dialects: what a family of models writes around its reasoning and its tool calls.

Most dialects are tables of markers (marked_dialect.py). One whose outputs have another structure is a class of its own
that parses whole outputs. The families are in dialects/.
"""

import secrets
import string
from collections.abc import Callable, Collection
from typing import Protocol

from jaxserve.chat_output_spec import ChatOutputSpec, ToolChoice
from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Functions, ToolCallSink
from jaxserve.text.reasoning import EscapedVocabulary, ReasoningState
from jaxserve.text.text_buffer import Parser, TextBuffer


class OutputSink(ToolCallSink, Protocol):
    """Receiver of the parts of an output, in their order."""

    @property
    def num_calls(self) -> int:
        """The number of calls that have begun."""
        ...

    def add_reasoning(self, text: str) -> None:
        """Receive a piece of the reasoning."""
        ...

    def add_content(self, text: str) -> None:
        """Receive a piece of the content."""
        ...

    def trim_whitespace(self) -> None:
        """Leave out the whitespace around this place: it is not content."""
        ...


class WholeOutputParser(Protocol):
    """A parser of outputs whose reasoning, content and calls cannot be parsed independently of each other."""

    def parse_output(
        self, buffer: TextBuffer, sink: OutputSink, functions: Functions, prompt: str, has_tools: bool
    ) -> Parser[None]:
        """Parse a whole output.

        prompt      The text before it.
        has_tools   Calls are parsed; otherwise they are content.
        """
        ...


class ToolDialect(Protocol):
    """The form of tool calls, and their places in an output."""

    @property
    def new_id(self) -> Callable[[str, int], str]:
        """The function that makes the id of a call from its name and its number in the conversation."""
        ...

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """Tokens without which no output can be parsed."""
        ...

    @property
    def content_header(self) -> str:
        """The text that the model writes before its content; "" where content needs no header."""
        ...

    @property
    def has_typed_arguments(self) -> bool:
        """Whether arguments get their types from the schemas of the functions, which must be parsed for that."""
        ...

    @property
    def output_parser(self) -> WholeOutputParser | None:
        """The parser of whole outputs; None: calls are parsed by their markers (dialect_parser.py)."""
        ...

    def adapt_to(self, special_tokens: Collection[str]) -> "ToolDialect":
        """Return the dialect of a model whose tokenizer has these special tokens."""
        ...

    def is_readable_name(self, name: str) -> bool:
        """Whether a call of a function with this name is parsed as one."""
        ...

    def build_expr(self, functions: Functions, choice: ToolChoice, is_parallel: bool) -> GrammarExpr:
        """Return a grammar for an output: nothing but calls, of the named or any function, with valid arguments.

        With the choice "auto": any text in which calls are of declared functions, and of strict ones with valid
        arguments.
        """
        ...


class ReasoningDialect(Protocol):
    """The form of reasoning, and its places in an output."""

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """Tokens without which no output can be parsed."""
        ...

    @property
    def content_header(self) -> str:
        """The text that the model writes before its content; "" where content needs no header."""
        ...

    @property
    def end_marker(self) -> str:
        """The text that ends the reasoning; it is forced when a thinking budget is used up."""
        ...

    @property
    def efforts(self) -> tuple[str, ...] | None:
        """The reasoning efforts that the model knows; None: its template decides."""
        ...

    @property
    def output_parser(self) -> WholeOutputParser | None:
        """The parser of whole outputs; None: reasoning is parsed by its markers (dialect_parser.py)."""
        ...

    def begins_inside(self, spec: ChatOutputSpec, special_tokens: Collection[str]) -> bool | None:
        """Whether an output begins within its reasoning, after the prompt of `spec`; None: it has no reasoning."""
        ...

    def ends_inside(self, text: str, special_tokens: Collection[str]) -> bool:
        """Whether a text ends within its reasoning."""
        ...

    def section_expr(self) -> GrammarExpr:
        """Return a grammar for the reasoning, which the model may leave out."""
        ...

    def create_state(self, vocabulary: EscapedVocabulary, *, inside: bool, is_constrained: bool) -> ReasoningState:
        """Return the state before the first token of an output.

        The dialect must have the characters of `vocabulary` for its special tokens.

        vocabulary       The tokens' bytes.
        inside           The output begins within its reasoning, which the prompt has opened or the model need not open.
        is_constrained   A grammar holds after the reasoning.
        """
        ...


def random_id(name: str, number: int) -> str:
    """Return a random id for a call, as vLLM forms it."""
    return f"chatcmpl-tool-{secrets.token_hex(8)}"


def short_id(name: str, number: int) -> str:
    """Return nine random letters and digits: Mistral's templates accept no other ids."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def numbered_id(name: str, number: int) -> str:
    """Return the id that Kimi K2 expects: the function's name and the number of the call in the conversation."""
    return f"functions.{name}:{number}"
