"""ResponseTemplateDialect: outputs parsed by the checkpoint's own response_template (transformers, schema version 1).

A template names regions of an output, and the literals or regexes that open and close them. Text is emitted as it
comes, and so are the arguments of calls in plain JSON; calls in other notations are reported when their region ends, as
the content parsers of transformers parse them. These are imported only for a checkpoint with a template, since that
takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve.errors import BadCheckpoint
from jaxserve.text.call_formats.format import Functions, FunctionSpec
from jaxserve.text.call_formats.json_calls import JsonCalls, stream_arguments
from jaxserve.text.dialect import OutputSink
from jaxserve.text.dialect_parser import parse_calls_or_content
from jaxserve.text.incremental_json import dump_json, parse_json
from jaxserve.text.marked_dialect import MarkedReasoning, MarkedTools
from jaxserve.text.response_regions import Region, RegionParser, StrippedEmitter
from jaxserve.text.text_buffer import Malformed, Parser, TextBuffer, discard

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

_REASONING = ("thinking", "reasoning", "reasoning_content")
_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, eq=False)
class ResponseTemplateDialect:
    """A loaded response template.

    template        The template, as transformers has it.
    has_calls       Tool calls are parsed; otherwise they are content.
    has_reasoning   Reasoning is parsed; otherwise it is content.
    """

    template: "ResponseTemplate"
    has_calls: bool = True
    has_reasoning: bool = True

    @classmethod
    def load(cls, spec: Mapping[str, Any], **parts: bool) -> "ResponseTemplateDialect":
        """Load a template. Raises BadCheckpoint with the reason that transformers gives if it is none."""
        from transformers.utils.chat_parsing.response_templates import load_response_template

        try:
            return cls(load_response_template(dict(spec)), **parts)
        except (ValueError, TypeError) as error:
            raise BadCheckpoint(f"The checkpoint's response_template cannot be used: {error}") from error

    @property
    def tools(self) -> MarkedTools | None:
        """A dialect for grammars of its calls, if they are JSON between literals; None otherwise."""
        field = self.template.fields.get(_CALLS)
        format = None if field is None else _json_calls(field)
        if not self.has_calls or field is None or format is None or not field.open_literals or not field.close_literals:
            return None
        return MarkedTools(
            format=format,
            open=(field.open_literals[0],),
            close=field.close_literals[0],
            section_separator="\n",
            is_list=field.transform_each,
        )

    @property
    def reasoning(self) -> MarkedReasoning | None:
        """A dialect of its reasoning, if that stands between literals; None otherwise."""
        for name in _REASONING if self.has_reasoning else ():
            field = self.template.fields.get(name)
            if field and field.open_literals and field.close_literals:
                return MarkedReasoning(
                    open=tuple(field.open_literals), close=tuple(field.close_literals), starts_inside=False
                )
        return None

    def parse_output(
        self, buffer: TextBuffer, sink: OutputSink, functions: Functions, prompt: str, has_tools: bool
    ) -> Parser[None]:
        """Parse a whole output, whose beginning the end of the prompt may hold."""
        parses_calls = has_tools and self.has_calls
        prefix = self.template.truncate_past_last_anchor(prompt) if prompt else ""
        regions = RegionParser(self.template, buffer, is_start=not prefix)
        region = self._region_after(prefix) if prefix else regions.outer
        seen_fields: set[str] = set()
        while True:
            field = region.field
            if field is not None and field.name == _CALLS and parses_calls:
                yield from _parse_calls_or_content(buffer, sink, functions, regions, region)
                region = regions.outer
                continue
            name = "" if field is None else field.name
            emit = sink.add_reasoning if name in _REASONING and self.has_reasoning else sink.add_content
            text = StrippedEmitter(
                discard if field is None else emit, field.join if field and name in seen_fields else None
            )
            next_region = yield from regions.parse_region(region, text.emit)
            if next_region is None:
                return
            seen_fields |= {name} if text.has_text else set()
            region = next_region

    def _region_after(self, prefix: str) -> Region:
        """Return the region in which an output with this beginning goes on."""
        buffer = TextBuffer()
        buffer.feed(prefix)
        regions = RegionParser(self.template, buffer, is_start=True)
        region = regions.outer
        while True:
            parsing = regions.parse_region(region, discard)
            try:
                next(parsing)
                return region
            except StopIteration as end:
                region = end.value


def _json_calls(field: "ResponseTemplateField") -> JsonCalls | None:
    """Return the form of calls whose JSON holds the name and the arguments; None if the region has another form."""
    if field.content != "json" or field.content_args or not isinstance(field.transform, Mapping | None):
        return None
    function = (field.transform or {"function": "{content}"}).get("function", field.transform)
    if function == "{content}":
        return JsonCalls(name_keys=("name",), arguments_keys=("arguments",))
    if not isinstance(function, Mapping):
        return None
    before = "{" if field.transform_each else "{content."
    keys = [str(function.get(key, "")) for key in ("name", "arguments")]
    if not all(key.startswith(before) and key[len(before) : -1].isidentifier() for key in keys):
        return None
    return JsonCalls(name_keys=(keys[0][len(before) : -1],), arguments_keys=(keys[1][len(before) : -1],))


def _captured_name(field: "ResponseTemplateField", captures: Mapping[str, str]) -> str | None:
    """Return the name that the opening regex has captured, if all of the region's JSON is the arguments."""
    function = field.transform.get("function", field.transform) if isinstance(field.transform, Mapping) else None
    if field.content != "json" or field.content_args or not isinstance(function, Mapping):
        return None
    return captures.get(str(function.get("name"))[1:-1]) if function.get("arguments") == "{content}" else None


def _parse_calls_or_content(
    buffer: TextBuffer, sink: OutputSink, functions: Functions, regions: RegionParser, region: Region
) -> Parser[None]:
    """Parse the calls of one region, up to its end; its text is content if there are none."""
    assert region.field is not None
    calls = _parse_calls(buffer, sink, functions, regions, region)
    yield from parse_calls_or_content(buffer, sink, calls, before=region.opening)


def _parse_calls(
    buffer: TextBuffer, sink: OutputSink, functions: Functions, regions: RegionParser, region: Region
) -> Parser[None]:
    field = region.field
    assert field is not None
    name, format = _captured_name(field, region.captures), _json_calls(field)
    if name is not None or format is not None:
        if name is not None:
            if (yield from buffer.peek()) != "{":
                buffer.fail()
            sink.begin_call(name)
            yield from stream_arguments(buffer, sink.add_arguments)
            sink.end_call()
        elif format is not None:
            yield from format.parse(buffer, sink, functions)
        yield from regions.parse_region(region, discard)
        return
    pieces: list[str] = []
    yield from regions.parse_region(region, pieces.append)
    for name, arguments in _process_field("".join(pieces), field, region.captures):
        function = functions.get(name, FunctionSpec(name, {}))
        sink.begin_call(name)
        sink.add_arguments(dump_json({key: _apply_type(value, key, function) for key, value in arguments.items()}))
        sink.end_call()


def _process_field(
    body: str, field: "ResponseTemplateField", captures: Mapping[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls that transformers finds in a region. Raises Malformed if it finds none."""
    from transformers.utils.chat_parsing.content_parsers import process_field

    try:
        value = process_field(body, field, dict(captures))
        functions = [call.get("function", call) for call in (value if isinstance(value, list) else [value])]
        calls = [(call["name"], call.get("arguments") or {}) for call in functions]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed from error
    if not calls or not all(isinstance(name, str) and isinstance(arguments, dict) for name, arguments in calls):
        raise Malformed
    return calls


def _apply_type(value: Any, key: str, function: FunctionSpec) -> Any:
    """Return the value; one that is untyped text is parsed by the parameter's schema."""
    return parse_json(function.parameter_type(key).parse(value)) if isinstance(value, str) else value
