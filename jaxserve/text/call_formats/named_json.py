"""Calls as a name between markers, then the arguments as a JSON object."""

import re
from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, Regex
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.call_formats.json_calls import stream_arguments
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJson:
    """begin NAME name_end {...} end. White space around the parts is free; a grammar writes it as it stands here.

    prefix     stands before every name and is no part of it
    numbered   the name is followed by a colon and the number of the call
    """

    begin: str
    name_end: str
    end: str = ""
    prefix: str = ""
    is_numbered: bool = False

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        name = yield from buffer.read_name()
        if (yield from buffer.accept(self.name_end.strip())) is None and (yield from buffer.peek()) != "{":
            buffer.fail()
        calls.begin_call(self._bare(name))
        end = self.end.strip()
        if end and (yield from buffer.accept(end)):
            calls.add_arguments("{}")
        else:
            yield from stream_arguments(buffer, calls.add_arguments)
        calls.end_call()

    def _bare(self, name: str) -> str:
        name = name.removeprefix(self.prefix)
        return re.sub(r":\d+$", "", name) if self.is_numbered else name

    def is_readable_name(self, name: str) -> bool:
        return is_plain_name(name)

    def build_shape(self, function: FunctionSpec) -> GrammarExpr:
        number = [":", Regex("[0-9]{1,4}")] if self.is_numbered else []
        name = self.begin + self.prefix + function.name
        return concat(name, *number, self.name_end, function.arguments_shape, self.end)
