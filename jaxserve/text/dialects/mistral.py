"""Mistral: [TOOL_CALLS] and a JSON list, or a name and its arguments, as the tokenizer's version has it."""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.call_formats.json_calls import JsonCalls, stream_arguments
from jaxserve.text.dialect import short_id
from jaxserve.text.marked_dialect import MarkedTools
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True)
class _MistralCalls:
    """A CallFormat that parses every form of Mistral's calls.

    is_named: a grammar writes NAME[ARGS]{...}; otherwise it writes JSON objects for a list.
    """

    is_named: bool
    args: str = "[ARGS]"
    call_id: str = "[CALL_ID]"
    json: JsonCalls = JsonCalls()
    begin: str = ""

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        if (yield from buffer.peek()) in ("[", "{"):
            yield from self.json.parse(buffer, calls, functions)
            return
        name = yield from buffer.read_name()
        if (yield from buffer.accept(self.call_id)):
            yield from buffer.read_name()
        yield from buffer.accept(self.args)
        if (yield from buffer.peek()) != "{":
            buffer.fail()
        calls.begin_call(name)
        yield from stream_arguments(buffer, calls.add_arguments)
        calls.end_call()

    def is_readable_name(self, name: str) -> bool:
        return is_plain_name(name) if self.is_named else self.json.is_readable_name(name)

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        if self.is_named:
            return concat(function.name + self.args, function.arguments_expr)
        return self.json.build_expr(function)


_LISTED = MarkedTools(format=_MistralCalls(is_named=False), open=("[TOOL_CALLS]",), is_list=True, new_id=short_id)
MISTRAL = MarkedTools(
    format=_MistralCalls(is_named=True),
    open=("[TOOL_CALLS]",),
    section_separator="",
    new_id=short_id,
    fallback_without=("[ARGS]", _LISTED),
)
