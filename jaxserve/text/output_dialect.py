"""A model's dialects, bound to its tokenizer: how its answers are read, and what they must look like if forced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import collect_functions, concat
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.dialect import ReasoningDialect, ToolDialect, random_id
from jaxserve.text.dialect_parser import parse_output
from jaxserve.text.dialects import IDENTITY, REASONING_PARSERS, RESPONSE_TEMPLATE, TOOL_PARSERS
from jaxserve.text.dialects.generic import JSON_ARRAY, bare_arguments
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.escapes import Escapes
from jaxserve.text.output_parser import OutputParser
from jaxserve.text.prompt_reasoning import find_reasoning_section
from jaxserve.text.reasoning import EscapedVocabulary, ReasoningState, create_initial_state
from jaxserve.text.response_template import ResponseTemplateDialect
from jaxserve.text.text_buffer import Parser, TextBuffer
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputDialect:
    """How a model's answers are read.

    tools, reasoning   the dialects in force; None: nothing is looked for, or only the template knows for what
    response_template  the checkpoint's own description, where answers are read by it
    """

    tools: ToolDialect | HarmonyDialect | None
    reasoning: ReasoningDialect | HarmonyDialect | None
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
        """By the parsers' names, which are known; None: none. response_template: the checkpoint's, for `hf`.

        Raises BadConfig when `hf` is named without a template, or beside another parser; BadCheckpoint for a bad one.
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
        tools: ToolDialect | HarmonyDialect | None,
        reasoning: ReasoningDialect | HarmonyDialect | None,
        special_tokens: Mapping[str, int],
    ) -> "OutputDialect":
        """special_tokens: those that are hidden in texts, text → id."""
        tools = tools.adapt_to(special_tokens) if isinstance(tools, ToolDialect) else tools
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
        tells = {"has_calls": tools == RESPONSE_TEMPLATE, "has_reasoning": reasoning == RESPONSE_TEMPLATE}
        written, escapes = (
            ResponseTemplateDialect.load(template, **tells),
            Escapes.from_dialects(special_tokens, template),
        )
        read = ResponseTemplateDialect.load(escapes.escape(template), **tells)
        return cls(written.tools, written.reasoning, escapes, tuple(special_tokens), read)

    @property
    def control_tokens(self) -> Mapping[int, str]:
        """Special tokens that are markers here, by id: the private-use characters that stand for them in a text."""
        return self._escapes.control_tokens

    @property
    def has_reasoning(self) -> bool:
        return self.reasoning is not None or (
            self.response_template is not None and self.response_template.has_reasoning
        )

    def starts_in_reasoning(self, format: ChatOutputSpec, is_constrained: bool = False) -> bool | None:
        """Whether an answer begins within its reasoning; None: it has none, so that a constraint holds from the start.

        is_constrained: a grammar holds for what comes after the reasoning.
        """
        reasoning = self.reasoning
        if reasoning is None or ((is_constrained or format.requires_tool_call) and not format.include_reasoning):
            return None
        if isinstance(reasoning, HarmonyDialect):
            return False
        said = find_reasoning_section(format.prompt_text, reasoning.open, reasoning.close, self._special_tokens)
        if said is None and reasoning.is_enabled(format):
            return reasoning.starts_inside
        return True if said == "open" else None  # a section is open even if the template was told not to open one

    def ends_in_reasoning(self, text: str) -> bool:
        """Whether a text ends within a reasoning section. Harmony's sections have headers, which are read anew."""
        reasoning = self.reasoning
        if reasoning is None or isinstance(reasoning, HarmonyDialect):
            return False
        return find_reasoning_section(text, reasoning.open, reasoning.close, self._special_tokens) == "open"

    def create_parser(
        self, format: ChatOutputSpec, *, is_constrained: bool = False, skip_special_tokens: bool = True
    ) -> OutputParser:
        """A new reader for one choice."""
        shown = {char: "" if skip_special_tokens else text for text, char in self._escapes.chars.items()}
        tools = self._tools(format)
        new_id = tools.new_id if isinstance(tools, ToolDialect) else random_id
        inside = self.starts_in_reasoning(format, is_constrained)
        reads_calls = self.tools is not None or (
            self.response_template is not None and self.response_template.has_calls
        )
        is_free = reads_calls and format.tool_choice == "auto" and not is_constrained
        unmarked = collect_functions(format.tools) if is_free and format.tools else None
        return OutputParser(format, partial(self._parse, format, tools, inside), new_id, shown, unmarked)

    def load_schemas(self, format: ChatOutputSpec) -> None:
        """Read the tools' schemas where texts get their types from them, which may take tenths of a second."""
        tools = self._tools(format)
        is_untyped = isinstance(tools, ToolDialect) and isinstance(tools.format, TaggedCalls)
        for function in collect_functions(format.tools).values() if is_untyped else ():
            function.parameter_type("")

    def _parse(
        self,
        format: ChatOutputSpec,
        tools: ToolDialect | HarmonyDialect | None,
        inside: bool | None,
        buffer: TextBuffer,
        reader: OutputParser,
    ) -> Parser[None]:
        declared = {
            name: each if format.requires_tool_call or each.is_strict else replace(each, is_enforced=False)
            for name, each in collect_functions(format.tools).items()
        }
        if self.response_template is not None and (self.tools is not None or not format.requires_tool_call):
            looks = bool(format.tools) and format.tool_choice != "none"
            return self.response_template.parse_output(buffer, reader, declared, format.prompt_text, looks)
        tools, reasoning = self._escapes.escape(tools), self._escapes.escape(self.reasoning)
        if isinstance(tools, HarmonyDialect):
            return tools.parse_output(buffer, reader, declared, True)
        if isinstance(reasoning, HarmonyDialect):
            return reasoning.parse_output(buffer, reader, declared, False)
        return parse_output(buffer, reader, tools, reasoning, declared, inside)

    def build_shape(self, format: ChatOutputSpec, *, is_constrained: bool = False) -> GrammarExpr | None:
        """The shape of an answer behind its reasoning; None where it is free.

        is_constrained: also where no tool is strict, calls are of declared tools and have JSON objects for arguments
        """
        declared = collect_functions(format.tools)
        if format.requires_tool_call or is_constrained or any(each.is_strict for each in declared.values()):
            tools = self._tools(format)
            return (
                None if tools is None else tools.build_shape(declared, format.tool_choice, format.parallel_tool_calls)
            )
        return None

    def check_function_names(self, format: ChatOutputSpec, parser: str | None) -> None:
        """Check that calls of every declared function can be read. parser: the dialect's name.

        Raises InvalidParameter for a name that would be lost in this dialect, also where the model may choose to call.
        """
        tools = self._tools(format)
        if tools is None:
            return
        for index, name in enumerate(format.tool_names):
            token = next((token for token in self._special_tokens if token and token in name), None)
            if token is None and tools.is_readable_name(name):
                continue
            why = (
                "names there are one to 256 letters, digits and _ . : / $ @ -"
                if token is None
                else f"{token!r} in it is one of the model's special tokens"
            )
            where = f"the tool-call format {parser!r}" if parser else "calls"
            raise InvalidParameter(
                f"the function name {name[:100]!r} cannot be read back from {where}: {why}; rename the function.",
                f"tools.{index}.function.name",
            )

    def wrap_content(self, shape: GrammarExpr) -> GrammarExpr:
        """Content of this shape, with what a model writes before it to say that it is content."""
        harmony = self._harmony
        return shape if harmony is None else harmony.wrap_content(shape)

    def add_optional_reasoning(self, shape: GrammarExpr) -> GrammarExpr:
        """An answer of this shape, or reasoning and then such an answer: where the model may open a section or not."""
        if self.reasoning is None:
            return shape
        return concat(self.reasoning.section_shape(), shape)

    @property
    def _harmony(self) -> HarmonyDialect | None:
        return next((each for each in (self.tools, self.reasoning) if isinstance(each, HarmonyDialect)), None)

    def start_reasoning(self, tokenizer: Tokenizer, *, inside: bool, is_constrained: bool) -> ReasoningState:
        """Where the reasoning of an answer begins; see `create_initial_state`. Only for a model that has reasoning."""
        assert self.reasoning is not None
        spelled = EscapedVocabulary(tokenizer, self.control_tokens)
        dialect = self._escapes.escape(self.reasoning)
        return create_initial_state(dialect, spelled, inside=inside, is_constrained=is_constrained)

    def _tools(self, format: ChatOutputSpec) -> ToolDialect | HarmonyDialect | None:
        """The dialect in which this answer makes calls. Where it must make one, there always is one."""
        if not format.tools or format.tool_choice == "none":
            return None
        if self.tools is not None or not format.requires_tool_call:
            return self.tools
        return bare_arguments(format.tool_choice.name) if isinstance(format.tool_choice, NamedTool) else JSON_ARRAY
