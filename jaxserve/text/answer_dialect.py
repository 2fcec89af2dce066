"""A model's dialects, bound to its tokenizer: how its answers are read, and what they must look like if forced."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from jaxserve.answer_format import AnswerFormat, NamedTool
from jaxserve.structured.shapes import Shape
from jaxserve.text.answer_reading import read_answer
from jaxserve.text.call_formats.format import functions, in_order
from jaxserve.text.dialect import ReasoningDialect, ToolDialect, random_id
from jaxserve.text.dialects.generic import ARRAY, bare_arguments
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.markers import Reading, Tape
from jaxserve.text.reader import Reader
from jaxserve.text.thinking import Place, Spelled, beginning
from jaxserve.text.tokenizer import Tokenizer

_FIRST_CONTROL = 0xF0000


@dataclass(frozen=True, slots=True)
class AnswerDialect:
    """How a model's answers are read.

    tools, reasoning   the dialects in force; None: nothing is looked for
    controls           special tokens that are markers here, by id: the private-use characters that stand for them in
                       the text that a reader is fed
    """

    tools: ToolDialect | HarmonyDialect | None
    reasoning: ReasoningDialect | HarmonyDialect | None
    controls: Mapping[int, str]
    _spelling: Mapping[str, str]
    _special_tokens: tuple[str, ...]

    @classmethod
    def bind(
        cls,
        tools: ToolDialect | HarmonyDialect | None,
        reasoning: ReasoningDialect | HarmonyDialect | None,
        special_tokens: Mapping[str, int],
    ) -> "AnswerDialect":
        """special_tokens: those that are hidden in texts, text → id."""
        tools = tools.of(special_tokens) if isinstance(tools, ToolDialect) else tools
        literals = "\n".join([*_strings(tools), *_strings(reasoning)])
        used = sorted((text for text in special_tokens if text and text in literals), key=len, reverse=True)
        spelling = {text: chr(_FIRST_CONTROL + index) for index, text in enumerate(used)}
        controls = {special_tokens[text]: spelling[text] for text in used}
        return cls(tools, reasoning, controls, spelling, tuple(special_tokens))

    def starts_inside(self, format: AnswerFormat, is_constrained: bool = False) -> bool | None:
        """Whether an answer begins within its reasoning; None: it has none, so that a constraint holds from the start.

        is_constrained: a grammar holds for what comes after the reasoning.
        """
        reasoning = self.reasoning
        if reasoning is None or ((is_constrained or format.must_call) and not format.include_reasoning):
            return None
        if isinstance(reasoning, HarmonyDialect):
            return False
        if not reasoning.is_on(format):
            return None
        said = section_at_end(format.prompt_text, reasoning.open, reasoning.close, self._special_tokens)
        return {"open": True, "closed": None, None: reasoning.inside}[said]

    def reader(self, format: AnswerFormat, *, is_constrained: bool = False, skip_special_tokens: bool = True) -> Reader:
        """A new reader for one choice."""
        shown = {char: "" if skip_special_tokens else text for text, char in self._spelling.items()}
        tools = self._tools(format)
        new_id = tools.new_id if isinstance(tools, ToolDialect) else random_id
        reasoning = _spelled(self.reasoning, self._spelling)
        tools = _spelled(tools, self._spelling)
        inside = self.starts_inside(format, is_constrained)
        declared = functions(format.tools)

        def read(tape: Tape, reader: Reader) -> Reading[None]:
            harmony = next((each for each in (tools, reasoning) if isinstance(each, HarmonyDialect)), None)
            if harmony is not None:
                return harmony.read_answer(tape, reader, declared, tools is harmony)
            return read_answer(tape, reader, tools, reasoning, declared, inside)

        return Reader(format, read, new_id, shown)

    def shape(self, format: AnswerFormat, *, holds_calls: bool = False) -> Shape | None:
        """The shape of an answer behind its reasoning; None where it is free.

        holds_calls: also where no tool is strict, calls are of declared tools and have JSON objects for arguments
        """
        declared = functions(format.tools)
        if format.must_call or holds_calls or any(each.strict for each in declared.values()):
            tools = self._tools(format)
            return None if tools is None else tools.calls(declared, format.tool_choice, format.parallel_tool_calls)
        return None

    def thinking(self, tokenizer: Tokenizer, *, inside: bool, is_constrained: bool) -> Place:
        """Where the reasoning of an answer begins; see `beginning`. Only for a model that has reasoning."""
        assert self.reasoning is not None
        spelled = Spelled(tokenizer, self.controls)
        dialect = _spelled(self.reasoning, self._spelling)
        return beginning(dialect, spelled, inside=inside, is_constrained=is_constrained)

    def _tools(self, format: AnswerFormat) -> ToolDialect | HarmonyDialect | None:
        """The dialect in which this answer makes calls. Where it must make one, there always is one."""
        if not format.tools or format.tool_choice == "none":
            return None
        if self.tools is not None or not format.must_call:
            return self.tools
        return bare_arguments(format.tool_choice.name) if isinstance(format.tool_choice, NamedTool) else ARRAY


def _strings(value: Any) -> Iterator[str]:
    """All texts in a value made of dataclasses and tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _strings(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _strings(getattr(value, each.name))


def _spelled(value: Any, spelling: Mapping[str, str]) -> Any:
    """The same value with other texts in it: special tokens as the characters that stand for them."""
    if isinstance(value, str):
        for text, char in spelling.items():
            value = value.replace(text, char)
        return value
    if isinstance(value, tuple):
        return tuple(_spelled(item, spelling) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _spelled(getattr(value, each.name), spelling) for each in fields(value)})
    return value
