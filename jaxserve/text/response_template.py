"""Answers read by what a checkpoint itself says of them: the response_template of transformers, schema version 1.

A template names regions of an answer, and the literals or regexes that open and close them. Text goes on as it comes,
and so do the arguments of calls in plain JSON; calls in other notations are told when their region ends, as the
content parsers of transformers read them. Importing those takes seconds, so only a checkpoint with a template pays it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxserve.errors import BadCheckpoint
from jaxserve.text.call_formats.format import Functions, FunctionSpec
from jaxserve.text.call_formats.json_calls import JsonCalls, stream_arguments
from jaxserve.text.dialect import ReasoningDialect, ToolDialect
from jaxserve.text.dialect_parser import OutputSink, parse_calls_or_content
from jaxserve.text.incremental_json import dump_json, parse_json
from jaxserve.text.response_regions import Region, RegionParser, StrippedEmitter
from jaxserve.text.text_buffer import Malformed, Parser, TextBuffer, discard

if TYPE_CHECKING:
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

_REASONING = ("thinking", "reasoning", "reasoning_content")
_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, eq=False)
class ResponseTemplateDialect:
    """A checkpoint's template, loaded. tells_calls, tells_reasoning: otherwise these are content."""

    template: "ResponseTemplate"
    has_calls: bool = True
    has_reasoning: bool = True

    @classmethod
    def load(cls, spec: Mapping[str, Any], **tells: bool) -> "ResponseTemplateDialect":
        """Raises BadCheckpoint, in transformers' words, when it is no template."""
        from transformers.utils.chat_parsing.response_templates import load_response_template

        try:
            return cls(load_response_template(dict(spec)), **tells)
        except (ValueError, TypeError) as error:
            raise BadCheckpoint(f"The checkpoint's response_template cannot be used: {error}") from error

    @property
    def tools(self) -> ToolDialect | None:
        """How a grammar asks for its calls, where they are JSON between literals; None where it cannot."""
        field = self.template.fields.get(_CALLS)
        format = None if field is None else _json_calls(field)
        if not self.has_calls or field is None or format is None or not field.open_literals or not field.close_literals:
            return None
        ends = {"open": (field.open_literals[0],), "close": field.close_literals[0]}
        return ToolDialect(format=format, section_separator="\n", is_list=field.transform_each, **ends)

    @property
    def reasoning(self) -> ReasoningDialect | None:
        """Its reasoning, where that stands between literals; None where it has none or other marks."""
        for name in _REASONING if self.has_reasoning else ():
            field = self.template.fields.get(name)
            if field and field.open_literals and field.close_literals:
                return ReasoningDialect(
                    open=tuple(field.open_literals), close=tuple(field.close_literals), starts_inside=False
                )
        return None

    def parse_output(
        self, buffer: TextBuffer, answer: OutputSink, functions: Functions, prompt: str, looks_for_calls: bool
    ) -> Parser[None]:
        """Takes the whole answer. prompt: may have written its beginning."""
        looks_for_calls = looks_for_calls and self.has_calls
        begun = self.template.truncate_past_last_anchor(prompt) if prompt else ""
        regions = RegionParser(self.template, buffer, is_start=not begun)
        region = self._region_after(begun) if begun else regions.around
        told: set[str] = set()
        while True:
            field = region.field
            if field is not None and field.name == _CALLS and looks_for_calls:
                yield from _parse_calls_or_content(buffer, answer, functions, regions, region)
                region = regions.around
                continue
            name = "" if field is None else field.name
            emit = answer.add_reasoning if name in _REASONING and self.has_reasoning else answer.add_content
            text = StrippedEmitter(discard if field is None else emit, field.join if field and name in told else None)
            found = yield from regions.parse_region(region, text.emit)
            if found is None:
                return
            told |= {name} if text.has_text else set()
            region = found

    def _region_after(self, begun: str) -> Region:
        """Where the answer goes on whose beginning the prompt has written."""
        buffer = TextBuffer()
        buffer.feed(begun)
        regions = RegionParser(self.template, buffer, is_start=True)
        region = regions.around
        while True:
            reading = regions.parse_region(region, discard)
            try:
                next(reading)
                return region
            except StopIteration as end:
                region = end.value


def _json_calls(field: "ResponseTemplateField") -> JsonCalls | None:
    """The calls of a region whose JSON has the name and the arguments in it; None where it is otherwise."""
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
    """The name that the opening regex has found, where all of the region's JSON is the arguments."""
    function = field.transform.get("function", field.transform) if isinstance(field.transform, Mapping) else None
    if field.content != "json" or field.content_args or not isinstance(function, Mapping):
        return None
    return captures.get(str(function.get("name"))[1:-1]) if function.get("arguments") == "{content}" else None


def _parse_calls_or_content(
    buffer: TextBuffer, answer: OutputSink, functions: Functions, regions: RegionParser, region: Region
) -> Parser[None]:
    """The calls of one region, up to its end; content if there are none."""
    assert region.field is not None
    reading = _parse_calls(buffer, answer, functions, regions, region)
    yield from parse_calls_or_content(buffer, answer, reading, before=region.opening)


def _parse_calls(
    buffer: TextBuffer, answer: OutputSink, functions: Functions, regions: RegionParser, region: Region
) -> Parser[None]:
    field = region.field
    assert field is not None
    name, format = _captured_name(field, region.captures), _json_calls(field)
    if name is not None or format is not None:
        if name is not None:
            if (yield from buffer.peek()) != "{":
                buffer.fail()
            answer.begin_call(name)
            yield from stream_arguments(buffer, answer.add_arguments)
            answer.end_call()
        elif format is not None:
            yield from format.parse(buffer, answer, functions)
        yield from regions.parse_region(region, discard)
        return
    pieces: list[str] = []
    yield from regions.parse_region(region, pieces.append)
    for called, given in _process_field("".join(pieces), field, region.captures):
        function = functions.get(called, FunctionSpec(called, {}))
        answer.begin_call(called)
        answer.add_arguments(dump_json({key: _typed(value, key, function) for key, value in given.items()}))
        answer.end_call()


def _process_field(
    body: str, field: "ResponseTemplateField", captures: Mapping[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """The calls that transformers finds in a region. Malformed when it finds none."""
    from transformers.utils.chat_parsing.content_parsers import process_field

    try:
        value = process_field(body, field, dict(captures))
        found = [call.get("function", call) for call in (value if isinstance(value, list) else [value])]
        calls = [(call["name"], call.get("arguments") or {}) for call in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed from error
    if not calls or not all(isinstance(name, str) and isinstance(given, dict) for name, given in calls):
        raise Malformed
    return calls


def _typed(value: Any, key: str, function: FunctionSpec) -> Any:
    """A value that is untyped text, by the parameter's schema."""
    return parse_json(function.parameter_type(key).parse(value)) if isinstance(value, str) else value
