"""A model's dialects, bound to its tokenizer: how its answers are read, and what they must look like if forced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.answer_reading import read_answer
from jaxserve.text.call_formats.format import functions, in_order
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.dialect import ReasoningDialect, ToolDialect, random_id
from jaxserve.text.dialects import IDENTITY, REASONING_PARSERS, RESPONSE_TEMPLATE, TOOL_PARSERS
from jaxserve.text.dialects.generic import ARRAY, bare_arguments
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.markers import Reading, Tape
from jaxserve.text.prompt_section import section_at_end
from jaxserve.text.reader import Reader
from jaxserve.text.response_template import TemplateDialect
from jaxserve.text.spelling import Spelling
from jaxserve.text.thinking import Place, Spelled, beginning
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class AnswerDialect:
    """How a model's answers are read.

    tools, reasoning   the dialects in force; None: nothing is looked for, or only the template knows for what
    template           the checkpoint's own description, where answers are read by it
    """

    tools: ToolDialect | HarmonyDialect | None
    reasoning: ReasoningDialect | HarmonyDialect | None
    _spelling: Spelling
    _special_tokens: tuple[str, ...]
    template: TemplateDialect | None = None

    @classmethod
    def named(
        cls,
        tools: str | None,
        reasoning: str | None,
        special_tokens: Mapping[str, int],
        response_template: Mapping[str, Any] | None = None,
    ) -> "AnswerDialect":
        """By the parsers' names, which are known; None: none. response_template: the checkpoint's, for `hf`.

        Raises BadConfig when `hf` is named without a template, or beside another parser; BadCheckpoint for a bad one.
        """
        if RESPONSE_TEMPLATE in (tools, reasoning):
            return cls._by_template(tools, reasoning, special_tokens, response_template)
        return cls.bind(
            None if tools is None else TOOL_PARSERS[tools],
            None if reasoning is None else REASONING_PARSERS[reasoning],
            special_tokens,
        )

    @classmethod
    def bind(
        cls,
        tools: ToolDialect | HarmonyDialect | None,
        reasoning: ReasoningDialect | HarmonyDialect | None,
        special_tokens: Mapping[str, int],
    ) -> "AnswerDialect":
        """special_tokens: those that are hidden in texts, text → id."""
        tools = tools.of(special_tokens) if isinstance(tools, ToolDialect) else tools
        return cls(tools, reasoning, Spelling.of(special_tokens, tools, reasoning), tuple(special_tokens))

    @classmethod
    def _by_template(
        cls,
        tools: str | None,
        reasoning: str | None,
        special_tokens: Mapping[str, int],
        template: Mapping[str, Any] | None,
    ) -> "AnswerDialect":
        if template is None:
            raise BadConfig(f"The parser {RESPONSE_TEMPLATE} needs a checkpoint that has a response_template.")
        if {tools, reasoning} - {RESPONSE_TEMPLATE, IDENTITY, None}:
            raise BadConfig(
                f"The parser {RESPONSE_TEMPLATE} reads whole answers and cannot be mixed with another: tool_call_parser"
                f" is {tools}, reasoning_parser is {reasoning}. Name it for both, or none for the other."
            )
        tells = {"tells_calls": tools == RESPONSE_TEMPLATE, "tells_reasoning": reasoning == RESPONSE_TEMPLATE}
        written, spelling = TemplateDialect.load(template, **tells), Spelling.of(special_tokens, template)
        read = TemplateDialect.load(spelling.spelled(template), **tells)
        return cls(written.tools, written.reasoning, spelling, tuple(special_tokens), read)

    @property
    def controls(self) -> Mapping[int, str]:
        """Special tokens that are markers here, by id: the private-use characters that stand for them in a text."""
        return self._spelling.controls

    @property
    def reads_reasoning(self) -> bool:
        return self.reasoning is not None or (self.template is not None and self.template.tells_reasoning)

    def starts_inside(self, format: ChatOutputSpec, is_constrained: bool = False) -> bool | None:
        """Whether an answer begins within its reasoning; None: it has none, so that a constraint holds from the start.

        is_constrained: a grammar holds for what comes after the reasoning.
        """
        reasoning = self.reasoning
        if reasoning is None or ((is_constrained or format.requires_tool_call) and not format.include_reasoning):
            return None
        if isinstance(reasoning, HarmonyDialect):
            return False
        said = section_at_end(format.prompt_text, reasoning.open, reasoning.close, self._special_tokens)
        if said is None and reasoning.is_on(format):
            return reasoning.inside
        return True if said == "open" else None  # a section is open even if the template was told not to open one

    def is_open(self, text: str) -> bool:
        """Whether a text ends within a reasoning section. Harmony's sections have headers, which are read anew."""
        reasoning = self.reasoning
        if reasoning is None or isinstance(reasoning, HarmonyDialect):
            return False
        return section_at_end(text, reasoning.open, reasoning.close, self._special_tokens) == "open"

    def reader(
        self, format: ChatOutputSpec, *, is_constrained: bool = False, skip_special_tokens: bool = True
    ) -> Reader:
        """A new reader for one choice."""
        shown = {char: "" if skip_special_tokens else text for text, char in self._spelling.chars.items()}
        tools = self._tools(format)
        new_id = tools.new_id if isinstance(tools, ToolDialect) else random_id
        inside = self.starts_inside(format, is_constrained)
        reads_calls = self.tools is not None or (self.template is not None and self.template.tells_calls)
        is_free = reads_calls and format.tool_choice == "auto" and not is_constrained
        unmarked = functions(format.tools) if is_free and format.tools else None
        return Reader(format, partial(self._read, format, tools, inside), new_id, shown, unmarked)

    def read_schemas(self, format: ChatOutputSpec) -> None:
        """Read the tools' schemas where texts get their types from them, which may take tenths of a second."""
        tools = self._tools(format)
        is_untyped = isinstance(tools, ToolDialect) and isinstance(tools.format, TaggedCalls)
        for function in functions(format.tools).values() if is_untyped else ():
            function.value("")

    def _read(
        self,
        format: ChatOutputSpec,
        tools: ToolDialect | HarmonyDialect | None,
        inside: bool | None,
        tape: Tape,
        reader: Reader,
    ) -> Reading[None]:
        declared = {
            name: each if format.requires_tool_call or each.strict else replace(each, enforced=False)
            for name, each in functions(format.tools).items()
        }
        if self.template is not None and (self.tools is not None or not format.requires_tool_call):
            looks = bool(format.tools) and format.tool_choice != "none"
            return self.template.read_answer(tape, reader, declared, format.prompt_text, looks)
        tools, reasoning = self._spelling.spelled(tools), self._spelling.spelled(self.reasoning)
        if isinstance(tools, HarmonyDialect):
            return tools.read_answer(tape, reader, declared, True)
        if isinstance(reasoning, HarmonyDialect):
            return reasoning.read_answer(tape, reader, declared, False)
        return read_answer(tape, reader, tools, reasoning, declared, inside)

    def shape(self, format: ChatOutputSpec, *, holds_calls: bool = False) -> GrammarExpr | None:
        """The shape of an answer behind its reasoning; None where it is free.

        holds_calls: also where no tool is strict, calls are of declared tools and have JSON objects for arguments
        """
        declared = functions(format.tools)
        if format.requires_tool_call or holds_calls or any(each.strict for each in declared.values()):
            tools = self._tools(format)
            return None if tools is None else tools.calls(declared, format.tool_choice, format.parallel_tool_calls)
        return None

    def check_names(self, format: ChatOutputSpec, parser: str | None) -> None:
        """Check that calls of every declared function can be read. parser: the dialect's name.

        Raises InvalidParameter for a name that would be lost in this dialect, also where the model may choose to call.
        """
        tools = self._tools(format)
        if tools is None:
            return
        for index, name in enumerate(format.tool_names):
            token = next((token for token in self._special_tokens if token and token in name), None)
            if token is None and tools.reads_name(name):
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

    def content(self, shape: GrammarExpr) -> GrammarExpr:
        """Content of this shape, with what a model writes before it to say that it is content."""
        harmony = self._harmony
        return shape if harmony is None else harmony.content(shape)

    def behind_reasoning(self, shape: GrammarExpr) -> GrammarExpr:
        """An answer of this shape, or reasoning and then such an answer: where the model may open a section or not."""
        if self.reasoning is None:
            return shape
        return in_order(self.reasoning.section(), shape)

    @property
    def _harmony(self) -> HarmonyDialect | None:
        return next((each for each in (self.tools, self.reasoning) if isinstance(each, HarmonyDialect)), None)

    def thinking(self, tokenizer: Tokenizer, *, inside: bool, is_constrained: bool) -> Place:
        """Where the reasoning of an answer begins; see `beginning`. Only for a model that has reasoning."""
        assert self.reasoning is not None
        spelled = Spelled(tokenizer, self.controls)
        dialect = self._spelling.spelled(self.reasoning)
        return beginning(dialect, spelled, inside=inside, is_constrained=is_constrained)

    def _tools(self, format: ChatOutputSpec) -> ToolDialect | HarmonyDialect | None:
        """The dialect in which this answer makes calls. Where it must make one, there always is one."""
        if not format.tools or format.tool_choice == "none":
            return None
        if self.tools is not None or not format.requires_tool_call:
            return self.tools
        return bare_arguments(format.tool_choice.name) if isinstance(format.tool_choice, NamedTool) else ARRAY
