"""Calls as tags: a name, then parameters whose values are plain text. Their types come from the function's schema.

In a grammar, parameters come in the order of the schema, which structured/parameter_schema.py reads for both sides.
"""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, TaggedArguments
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.call_formats.tagged_parser import TaggedCallParser, TagMarkers
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCalls:
    """begin NAME name_end (key KEY key_end VALUE value_end)* end. White space between the parts is free.

    key_end     one literal, or two: between them stands white space or, if `typed`, whether the value is a string
    other_ends     what may end a call as well, for models that forget `end`
    outer_openers  what may stand before `begin`, too: where that follows a value, another call begins
    """

    begin: str
    name_end: str
    end: str
    key: str
    key_end: tuple[str, ...]
    value_end: str
    other_ends: tuple[str, ...] = ()
    outer_openers: tuple[str, ...] = ()
    has_types: bool = False

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        yield from TaggedCallParser(self._markers, buffer, calls, functions).parse()

    @property
    def _markers(self) -> TagMarkers:
        starts = (*self.outer_openers, self.begin.strip())
        return TagMarkers(
            name_end=self.name_end.strip(),
            key=self.key.strip(),
            key_ends=tuple(map(str.strip, self.key_end)),
            value_end=self.value_end.strip(),
            ends=tuple(dict.fromkeys((self.end.strip(), *self.other_ends))),
            starts=tuple(filter(None, starts)),
            has_types=self.has_types,
        )

    def is_readable_name(self, name: str) -> bool:
        return is_plain_name(name)

    def build_shape(self, function: FunctionSpec) -> GrammarExpr:
        begin = self.begin + function.name + self.name_end
        return concat(begin, self._parameters(function), self.end)

    def _parameters(self, function: FunctionSpec) -> TaggedArguments:
        said = ("true", "false") if self.has_types else ("", "")
        after_name, after_name_json = (each.join(self.key_end) for each in said)
        return TaggedArguments(
            function.schema,
            self.key,
            after_name,
            self.value_end,
            after_name_json if self.has_types else None,
            stops=tuple(dict.fromkeys(each.strip() for each in (self.value_end, self.key, self.end, *self.other_ends))),
            name_end=self.key_end[0].strip(),
        )
