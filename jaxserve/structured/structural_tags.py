"""Structural tags → shapes: free text in which regions follow a schema, in the language that xgrammar and vLLM read.

The current form is {"type": "structural_tag", "format": {…}}, the legacy one has `structures` and `triggers`. What text
cannot contain is found as there: an enclosing tag's end, triggers, and `excludes`. Markers may be special tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.exact_json import dump_exact_json
from jaxserve.structured.documents import read_json
from jaxserve.structured.shapes import (
    Either,
    Lark,
    Literal,
    Optional,
    Parameters,
    Regex,
    Repeat,
    Schema,
    Sequence,
    Shape,
    Text,
    Token,
    Whitespace,
)
from jaxserve.structured.tag_fields import filled_list, get_field, refuse_field, text_list

MAX_DEPTH = 80
MAX_REPETITIONS = 10_000


def structural_tag(
    text: str,
    special_tokens: Mapping[str, int],
    grammar: Callable[[str], Lark],
    whitespace: Whitespace,
    closed: bool = False,
) -> Shape:
    """The shape that a structural tag describes.

    grammar              reads the text of a `grammar` format
    whitespace, closed   of its schemas, as in Schema

    Raises InvalidParameter, which names the format that is wrong or not supported.
    """
    tag = read_json(text, "the structural tag", MAX_DEPTH)
    if not isinstance(tag, dict) or tag.get("type", "structural_tag") != "structural_tag":
        raise InvalidParameter("a structural tag must be an object of type 'structural_tag'.")
    reader = _Reader({token_id: name for name, token_id in special_tokens.items()}, grammar, whitespace, closed)
    if "format" in tag:
        return reader.shape(tag["format"], ())
    if "structures" in tag:
        return reader.legacy(tag)
    raise InvalidParameter("a structural tag must have a 'format', or 'structures' and 'triggers'.")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads formats. text_of: id → text of special tokens."""

    text_of: Mapping[int, str]
    grammar: Callable[[str], Lark]
    whitespace: Whitespace
    closed: bool

    def shape(self, format: Any, ends: tuple[str, ...]) -> Shape:
        """What one format describes. ends: how the nearest enclosing tag may end."""
        if not isinstance(format, dict) or not isinstance(format.get("type"), str):
            raise InvalidParameter("a format of a structural tag must be an object with a 'type'.")
        kind = format["type"]
        match kind:
            case "const_string":
                return Literal(get_field(format, "value", str))
            case "json_schema" | "qwen_xml_parameter":
                return self._schema(format)
            case "grammar":
                return self.grammar(get_field(format, "grammar", str))
            case "regex":
                return Regex(get_field(format, "pattern", str))
            case "any_text" | "any_tokens":
                refuse_field(format, "max_tokens", None)
                return Text((*ends, *self._excludes(format)))
            case "sequence":
                return Sequence(tuple(self.shape(element, ends) for element in filled_list(format, "elements")))
            case "or":
                return Either(tuple(self.shape(element, ends) for element in filled_list(format, "elements")))
            case "optional":
                return Optional(self.shape(format.get("content"), ends))
            case "plus":
                return Repeat(self.shape(format.get("content"), ends), 1)
            case "star":
                return Repeat(self.shape(format.get("content"), ends))
            case "repeat":
                return self._repeat(format, ends)
            case "tag":
                return self._tag(format)
            case "triggered_tags" | "token_triggered_tags":
                return self._triggered(format, ends)
            case "tags_with_separator":
                return self._separated(format)
            case "dispatch" | "token_dispatch":
                return self._dispatch(format, ends)
            case "token":
                return self._token(format.get("token"))
        raise InvalidParameter(f"the structural tag format {kind[:100]!r} is not supported here.")

    def legacy(self, tag: dict[str, Any]) -> Shape:
        tags = []
        for structure in filled_list(tag, "structures"):
            if not isinstance(structure, dict):
                raise InvalidParameter("each of 'structures' must be an object with 'begin', 'schema' and 'end'.")
            schema = structure.get("schema", {})
            content = self._json(schema if isinstance(schema, str) else dump_exact_json(schema))
            tags.append(_Tag(get_field(structure, "begin", str), content, (get_field(structure, "end", str),)))
        return _among_text(tags, text_list(tag, "triggers"), ())

    def _schema(self, format: dict[str, Any]) -> Shape:
        refuse_field(format, "any_order", False)
        if not isinstance(format.get("json_schema"), dict | bool):
            raise InvalidParameter(f"'json_schema' of the format {format['type']!r} must be a schema.")
        schema = self._json(dump_exact_json(format["json_schema"]))
        style = "qwen_xml" if format["type"] == "qwen_xml_parameter" else format.get("style", "json")
        if style == "qwen_xml":
            return Parameters(schema, "<parameter=", ">", "</parameter>", has_blanks=True)
        refuse_field(format, "style", "json")
        return schema

    def _json(self, schema: str) -> Schema:
        return Schema(schema, self.whitespace, self.closed)

    def _repeat(self, format: dict[str, Any], ends: tuple[str, ...]) -> Shape:
        least, most = get_field(format, "min", int), get_field(format, "max", int)
        if least < 0 or (most != -1 and most < least):
            raise InvalidParameter(
                f"the format 'repeat' must have 0 <= min <= max, or max -1, got {str(least)[:20]} and {str(most)[:20]}."
            )
        if max(least, most) > MAX_REPETITIONS:
            said = f"{str(max(least, most))[:20]} times, which is more than {MAX_REPETITIONS}"
            raise InvalidParameter(f"the format 'repeat' repeats {said}.")
        return Repeat(self.shape(format.get("content"), ends), least, None if most == -1 else most)

    def _tag(self, format: Any) -> "Shape":
        return self._read_tag(format).shape

    def _read_tag(self, format: Any) -> "_Tag":
        if not isinstance(format, dict) or format.get("type", "tag") != "tag":
            raise InvalidParameter("'tags' must hold formats of type 'tag'.")
        said = format.get("end")
        ends = tuple(self._marker(end) for end in (said if isinstance(said, list) and said else [said]))
        closing = tuple(filter(None, ends))
        return _Tag(self._marker(format.get("begin")), self.shape(format.get("content"), closing), ends)

    def _triggered(self, format: dict[str, Any], ends: tuple[str, ...]) -> Shape:
        tags = [self._read_tag(tag) for tag in filled_list(format, "tags")]
        key = "triggers" if format["type"] == "triggered_tags" else "trigger_tokens"
        triggers = tuple(self._marker(trigger) for trigger in filled_list(format, key))
        excludes = (*ends, *self._excludes(format))
        at_least_one, only_one = (
            get_field(format, "at_least_one", bool, False),
            get_field(format, "stop_after_first", bool, False),
        )
        return _among_text(tags, triggers, excludes, at_least_one=at_least_one, only_one=only_one)

    def _separated(self, format: dict[str, Any]) -> Shape:
        tags = Either(tuple(self._tag(tag) for tag in filled_list(format, "tags")))
        separator = get_field(format, "separator", str)
        least = int(get_field(format, "at_least_one", bool, False))
        only_one = get_field(format, "stop_after_first", bool, False)
        return Repeat(tags, least, 1 if only_one else None, Literal(separator) if separator else None)

    def _dispatch(self, format: dict[str, Any], ends: tuple[str, ...]) -> Shape:
        tags = []
        for rule in filled_list(format, "rules"):
            if not isinstance(rule, list) or len(rule) != 2:
                raise InvalidParameter(f"each of 'rules' of the format {format['type']!r} must be [pattern, format].")
            tags.append(_Tag(self._marker(rule[0]), self.shape(rule[1], ends), ("",)))
        only_one = not get_field(format, "loop", bool, True)
        return _among_text(tags, tuple(tag.begin for tag in tags), (*ends, *self._excludes(format)), only_one=only_one)

    def _excludes(self, format: dict[str, Any]) -> tuple[str, ...]:
        said = [marker for key in ("excludes", "exclude_tokens") for marker in get_field(format, key, list, [])]
        return tuple(filter(None, map(self._marker, said)))

    def _marker(self, marker: Any) -> str:
        """The text of a marker, which is a text or a token."""
        if isinstance(marker, dict) and marker.get("type") == "token":
            marker = marker.get("token")
        if isinstance(marker, int) and marker in self.text_of:
            return self.text_of[marker]
        if isinstance(marker, str):
            return marker
        raise InvalidParameter(f"{str(marker)[:100]} is no marker: neither a text nor a special token.")

    def _token(self, token: Any) -> Shape:
        if isinstance(token, int) and not isinstance(token, bool) and token not in self.text_of:
            return Token(token)
        return Literal(self._marker(token))


@dataclass(frozen=True, slots=True)
class _Tag:
    """A region between markers; one of `ends` closes it."""

    begin: str
    content: Shape
    ends: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        end = Literal(self.ends[0]) if len(self.ends) == 1 else Either(tuple(map(Literal, self.ends)))
        return Sequence((Literal(self.begin), self.content, end))


def _among_text(
    tags: list[_Tag],
    triggers: tuple[str, ...],
    excludes: tuple[str, ...],
    *,
    at_least_one: bool = False,
    only_one: bool = False,
) -> Shape:
    """Tags with free text around them. A text that has said a trigger must go on with one of the trigger's tags."""
    for tag in tags:
        if not tag.begin or not any(trigger and tag.begin.startswith(trigger) for trigger in triggers):
            raise InvalidParameter(f"the tag {tag.begin[:100]!r} begins with none of the triggers.")
    text = Text((*triggers, *excludes))
    one = Either(tuple(tag.shape for tag in tags))
    after_text = Sequence((text, one))
    if only_one:
        return one if at_least_one else Either((after_text, text))
    more = (Repeat(after_text), text)
    return Sequence((one, *more)) if at_least_one else Sequence(more)
