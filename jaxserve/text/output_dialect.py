"""OutputDialect: the dialects of a model, bound to its tokenizer, to parse its outputs and to constrain them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import collect_functions, concat
from jaxserve.text.dialect import ReasoningDialect, ToolDialect, random_id
from jaxserve.text.dialect_parser import parse_output
from jaxserve.text.dialects import IDENTITY, REASONING_PARSERS, RESPONSE_TEMPLATE, TOOL_PARSERS
from jaxserve.text.dialects.generic import JSON_ARRAY, bare_arguments
from jaxserve.text.escapes import Escapes
from jaxserve.text.output_parser import OutputParser
from jaxserve.text.reasoning import EscapedVocabulary, ReasoningState
from jaxserve.text.response_template import ResponseTemplateDialect
from jaxserve.text.text_buffer import Parser, TextBuffer
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputDialect:
    """The form of a model's outputs.

    tools               The dialect of tool calls; None: none are parsed, or only the response template knows how.
    reasoning           The dialect of reasoning; None: none is parsed, or only the response template knows how.
    response_template   The checkpoint's own description, where outputs are parsed by it.
    """

    tools: ToolDialect | None
    reasoning: ReasoningDialect | None
    _escapes: Escapes
    _special_tokens: tuple[str, ...]
    response_template: ResponseTemplateDialect | None = None

    @classmethod
    def from_parser_names(
        cls,
        tools: str | None,
        reasoning: str | None,
        special_tokens: Mapping[str, int],
        response_template: Mapping[str, Any] | None = None,
    ) -> "OutputDialect":
        """Return the dialect with these parsers, each of a known name or None.

        special_tokens      The tokens that skip_special_tokens hides, text → id.
        response_template   That of the checkpoint, for the parser `hf`.

        Raises BadConfig if `hf` is named without a template or beside another parser, and BadCheckpoint if the
        template cannot be used.
        """
        if RESPONSE_TEMPLATE in (tools, reasoning):
            return cls._from_response_template(tools, reasoning, special_tokens, response_template)
        return cls.from_dialects(
            None if tools is None else TOOL_PARSERS[tools],
            None if reasoning is None else REASONING_PARSERS[reasoning],
            special_tokens,
        )

    @classmethod
    def from_dialects(
        cls,
        tools: ToolDialect | None,
        reasoning: ReasoningDialect | None,
        special_tokens: Mapping[str, int],
    ) -> "OutputDialect":
        """Bind dialects to a tokenizer.

        special_tokens: the tokens that skip_special_tokens hides, text → id.
        """
        tools = None if tools is None else tools.adapt_to(special_tokens)
        return cls(tools, reasoning, Escapes.from_dialects(special_tokens, tools, reasoning), tuple(special_tokens))

    @classmethod
    def _from_response_template(
        cls,
        tools: str | None,
        reasoning: str | None,
        special_tokens: Mapping[str, int],
        template: Mapping[str, Any] | None,
    ) -> "OutputDialect":
        if template is None:
            raise BadConfig(f"The parser {RESPONSE_TEMPLATE} needs a checkpoint that has a response_template.")
        if {tools, reasoning} - {RESPONSE_TEMPLATE, IDENTITY, None}:
            raise BadConfig(
                f"The parser {RESPONSE_TEMPLATE} reads whole answers and cannot be mixed with another: tool_call_parser"
                f" is {tools}, reasoning_parser is {reasoning}. Name it for both, or none for the other."
            )
        parts = {"has_calls": tools == RESPONSE_TEMPLATE, "has_reasoning": reasoning == RESPONSE_TEMPLATE}
        written = ResponseTemplateDialect.load(template, **parts)
        escapes = Escapes.from_dialects(special_tokens, template)
        escaped = ResponseTemplateDialect.load(escapes.escape(template), **parts)
        return cls(written.tools, written.reasoning, escapes, tuple(special_tokens), escaped)

    @property
    def control_tokens(self) -> Mapping[int, str]:
        """The private-use characters that stand for special tokens in the parsed text, by token id."""
        return self._escapes.control_tokens

    @property
    def has_reasoning(self) -> bool:
        """Whether reasoning is parsed."""
        return self.reasoning is not None or (
            self.response_template is not None and self.response_template.has_reasoning
        )

    def starts_in_reasoning(self, spec: ChatOutputSpec, is_constrained: bool = False) -> bool | None:
        """Whether an output begins within its reasoning; None: it has none, and a constraint holds from the start.

        is_constrained: a grammar holds for what comes after the reasoning.
        """
        reasoning = self.reasoning
        if reasoning is None or ((is_constrained or spec.requires_tool_call) and not spec.include_reasoning):
            return None
        return reasoning.begins_inside(spec, self._special_tokens)

    def ends_in_reasoning(self, text: str) -> bool:
        """Whether a text ends within its reasoning."""
        return self.reasoning is not None and self.reasoning.ends_inside(text, self._special_tokens)

    def create_parser(
        self, spec: ChatOutputSpec, *, is_constrained: bool = False, skip_special_tokens: bool = True
    ) -> OutputParser:
        """Return a new parser for one choice.

        is_constrained: a grammar holds for what comes after the reasoning.
        """
        unescaped = {char: "" if skip_special_tokens else text for text, char in self._escapes.chars.items()}
        tools = self._tools(spec)
        new_id = random_id if tools is None else tools.new_id
        inside = self.starts_in_reasoning(spec, is_constrained)
        has_calls = self.tools is not None or (self.response_template is not None and self.response_template.has_calls)
        is_free = has_calls and spec.tool_choice == "auto" and not is_constrained
        unmarked = collect_functions(spec.tools) if is_free and spec.tools else None
        return OutputParser(spec, partial(self._parse, spec, tools, inside), new_id, unescaped, unmarked)

    def load_schemas(self, spec: ChatOutputSpec) -> None:
        """Parse the tools' schemas, which may take tenths of a second, where arguments get their types from them."""
        tools = self._tools(spec)
        if tools is None or not tools.has_typed_arguments:
            return
        for function in collect_functions(spec.tools).values():
            function.parameter_type("")

    def _parse(
        self,
        spec: ChatOutputSpec,
        tools: ToolDialect | None,
        inside: bool | None,
        buffer: TextBuffer,
        parser: OutputParser,
    ) -> Parser[None]:
        declared = {
            name: function if spec.requires_tool_call or function.is_strict else replace(function, is_enforced=False)
            for name, function in collect_functions(spec.tools).items()
        }
        if self.response_template is not None and (self.tools is not None or not spec.requires_tool_call):
            has_tools = bool(spec.tools) and spec.tool_choice != "none"
            return self.response_template.parse_output(buffer, parser, declared, spec.prompt_text, has_tools)
        escaped_tools, escaped_reasoning = self._escapes.escape(tools), self._escapes.escape(self.reasoning)
        for dialect, has_tools in ((escaped_tools, True), (escaped_reasoning, False)):
            if dialect is not None and dialect.output_parser is not None:
                return dialect.output_parser.parse_output(buffer, parser, declared, spec.prompt_text, has_tools)
        return parse_output(buffer, parser, escaped_tools, escaped_reasoning, declared, inside)  # both are marked

    def build_expr(self, spec: ChatOutputSpec, *, is_constrained: bool = False) -> GrammarExpr | None:
        """Return a grammar for an output after its reasoning; None where it is free.

        is_constrained: also where no tool is strict, calls must be of declared tools with JSON objects as arguments.
        """
        declared = collect_functions(spec.tools)
        if spec.requires_tool_call or is_constrained or any(function.is_strict for function in declared.values()):
            tools = self._tools(spec)
            return None if tools is None else tools.build_expr(declared, spec.tool_choice, spec.parallel_tool_calls)
        return None

    def check_function_names(self, spec: ChatOutputSpec, parser: str | None) -> None:
        """Check that calls of every declared function can be parsed.

        parser: the name of the dialect for the error text.

        Raises InvalidParameter for a name that would be lost in this dialect, also where the model may choose to call.
        """
        tools = self._tools(spec)
        if tools is None:
            return
        for index, name in enumerate(spec.tool_names):
            token = next((token for token in self._special_tokens if token and token in name), None)
            if token is None and tools.is_readable_name(name):
                continue
            reason = (
                "names there are one to 256 letters, digits and _ . : / $ @ -"
                if token is None
                else f"{token!r} in it is one of the model's special tokens"
            )
            form = f"the tool-call format {parser!r}" if parser else "calls"
            raise InvalidParameter(
                f"the function name {name[:100]!r} cannot be read back from {form}: {reason}; rename the function.",
                f"tools.{index}.function.name",
            )

    def wrap_content(self, expr: GrammarExpr) -> GrammarExpr:
        """Return a grammar for this content and what the model writes before it to mark it as content."""
        headers = (dialect.content_header for dialect in (self.tools, self.reasoning) if dialect is not None)
        header = next(filter(None, headers), "")
        return concat(header, expr) if header else expr

    def add_optional_reasoning(self, expr: GrammarExpr) -> GrammarExpr:
        """Return a grammar for reasoning, which the model may leave out, and then this output."""
        if self.reasoning is None:
            return expr
        return concat(self.reasoning.section_expr(), expr)

    def start_reasoning(self, tokenizer: Tokenizer, *, inside: bool, is_constrained: bool) -> ReasoningState:
        """Return the state before the first token of an output; see ReasoningDialect.create_state.

        The model must have a reasoning dialect.
        """
        assert self.reasoning is not None
        vocabulary = EscapedVocabulary(tokenizer, self.control_tokens)
        dialect: ReasoningDialect = self._escapes.escape(self.reasoning)
        return dialect.create_state(vocabulary, inside=inside, is_constrained=is_constrained)

    def encode_reasoning_end(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the tokens that end the reasoning, which are forced when a thinking budget is used up.

        The model must have a reasoning dialect.
        """
        assert self.reasoning is not None
        return tuple(tokenizer.encode(self.reasoning.end_marker, add_special_tokens=False))

    def _tools(self, spec: ChatOutputSpec) -> ToolDialect | None:
        """Return the dialect of the calls in this output. Where a call is required, there always is one."""
        if not spec.tools or spec.tool_choice == "none":
            return None
        if self.tools is not None or not spec.requires_tool_call:
            return self.tools
        return bare_arguments(spec.tool_choice.name) if isinstance(spec.tool_choice, NamedTool) else JSON_ARRAY
