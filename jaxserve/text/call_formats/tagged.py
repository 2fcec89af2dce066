"""TaggedCalls: a name in tags, then parameters whose values are plain text, with types from the function's schema.

In a grammar, parameters come in the order of the schema, which structured/parameter_schema.py reads for both sides.
"""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, TaggedArguments
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.call_formats.tagged_parser import TaggedCallParser, TagMarkers
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCalls:
    """Calls of the form: begin NAME name_end (key KEY key_end VALUE value_end)* end. Whitespace between parts is free.

    begin           The literal that begins a call.
    name_end        The literal after the function's name.
    end             The literal that ends a call.
    key             The literal before a parameter's name.
    key_end         One literal after the name, or two: between these stands whitespace or, with `has_types`, "true" or
                    "false" for whether the value is a string.
    value_end       The literal that ends a value.
    other_ends      Literals that may end a call as well, for models that leave `end` out.
    outer_openers   Literals that may stand before `begin`: where one follows a value, another call begins.
    has_types       Every parameter says whether its value is a string.
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
        """Parse one call. Raises Malformed if it is none."""
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
        """Whether `parse` gives this function name back as it was written."""
        return is_plain_name(name)

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        """Return a grammar for a call of this function."""
        begin = self.begin + function.name + self.name_end
        return concat(begin, self._parameters(function), self.end)

    def _parameters(self, function: FunctionSpec) -> TaggedArguments:
        type_texts = ("true", "false") if self.has_types else ("", "")
        after_name, after_name_json = (text.join(self.key_end) for text in type_texts)
        stops = (self.value_end, self.key, self.end, *self.other_ends)
        return TaggedArguments(
            function.schema,
            self.key,
            after_name,
            self.value_end,
            after_name_json if self.has_types else None,
            stops=tuple(dict.fromkeys(map(str.strip, stops))),
            name_end=self.key_end[0].strip(),
        )
