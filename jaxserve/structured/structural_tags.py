"""Structural tags → shapes: free text in which regions follow a schema, in the language that xgrammar and vLLM read.

The current form is {"type": "structural_tag", "format": {…}}, the legacy one has `structures` and `triggers`. What text
cannot contain is found as there: an enclosing tag's end, triggers, and `excludes`. Markers may be special tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.exact_json import dump_exact_json
from jaxserve.structured.bounded_json import parse_bounded_json
from jaxserve.structured.grammar_expr import (
    FreeText,
    GrammarExpr,
    JsonSchema,
    JsonWhitespace,
    LarkGrammar,
    OptionalExpr,
    OrExpr,
    Regex,
    RepeatExpr,
    SequenceExpr,
    TaggedArguments,
    TextLiteral,
    TokenLiteral,
)
from jaxserve.structured.tag_fields import get_field, get_nonempty_list, get_string_list, reject_field

MAX_DEPTH = 80
MAX_REPETITIONS = 10_000


def parse_structural_tag(
    text: str,
    special_tokens: Mapping[str, int],
    grammar: Callable[[str], LarkGrammar],
    whitespace: JsonWhitespace,
    closed: bool = False,
) -> GrammarExpr:
    """The shape that a structural tag describes.

    grammar              reads the text of a `grammar` format
    whitespace, closed   of its schemas, as in Schema

    Raises InvalidParameter, which names the format that is wrong or not supported.
    """
    tag = parse_bounded_json(text, "the structural tag", MAX_DEPTH)
    if not isinstance(tag, dict) or tag.get("type", "structural_tag") != "structural_tag":
        raise InvalidParameter("a structural tag must be an object of type 'structural_tag'.")
    reader = _StructuralTagParser(
        {token_id: name for name, token_id in special_tokens.items()}, grammar, whitespace, closed
    )
    if "format" in tag:
        return reader.shape(tag["format"], ())
    if "structures" in tag:
        return reader.legacy(tag)
    raise InvalidParameter("a structural tag must have a 'format', or 'structures' and 'triggers'.")


@dataclass(frozen=True, slots=True)
class _StructuralTagParser:
    """Reads formats. text_of: id → text of special tokens."""

    text_of: Mapping[int, str]
    grammar: Callable[[str], LarkGrammar]
    whitespace: JsonWhitespace
    closed: bool

    def shape(self, format: Any, ends: tuple[str, ...]) -> GrammarExpr:
        """What one format describes. ends: how the nearest enclosing tag may end."""
        if not isinstance(format, dict) or not isinstance(format.get("type"), str):
            raise InvalidParameter("a format of a structural tag must be an object with a 'type'.")
        kind = format["type"]
        match kind:
            case "const_string":
                return TextLiteral(get_field(format, "value", str))
            case "json_schema" | "qwen_xml_parameter":
                return self._schema(format)
            case "grammar":
                return self.grammar(get_field(format, "grammar", str))
            case "regex":
                return Regex(get_field(format, "pattern", str))
            case "any_text" | "any_tokens":
                reject_field(format, "max_tokens", None)
                return FreeText((*ends, *self._excludes(format)))
            case "sequence":
                return SequenceExpr(
                    tuple(self.shape(element, ends) for element in get_nonempty_list(format, "elements"))
                )
            case "or":
                return OrExpr(tuple(self.shape(element, ends) for element in get_nonempty_list(format, "elements")))
            case "optional":
                return OptionalExpr(self.shape(format.get("content"), ends))
            case "plus":
                return RepeatExpr(self.shape(format.get("content"), ends), 1)
            case "star":
                return RepeatExpr(self.shape(format.get("content"), ends))
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

    def legacy(self, tag: dict[str, Any]) -> GrammarExpr:
        tags = []
        for structure in get_nonempty_list(tag, "structures"):
            if not isinstance(structure, dict):
                raise InvalidParameter("each of 'structures' must be an object with 'begin', 'schema' and 'end'.")
            schema = structure.get("schema", {})
            content = self._json(schema if isinstance(schema, str) else dump_exact_json(schema))
            tags.append(_Tag(get_field(structure, "begin", str), content, (get_field(structure, "end", str),)))
        return _among_text(tags, get_string_list(tag, "triggers"), ())

    def _schema(self, format: dict[str, Any]) -> GrammarExpr:
        reject_field(format, "any_order", False)
        if not isinstance(format.get("json_schema"), dict | bool):
            raise InvalidParameter(f"'json_schema' of the format {format['type']!r} must be a schema.")
        schema = self._json(dump_exact_json(format["json_schema"]))
        style = "qwen_xml" if format["type"] == "qwen_xml_parameter" else format.get("style", "json")
        if style == "qwen_xml":
            return TaggedArguments(schema, "<parameter=", ">", "</parameter>", has_blanks=True)
        reject_field(format, "style", "json")
        return schema

    def _json(self, schema: str) -> JsonSchema:
        return JsonSchema(schema, self.whitespace, self.closed)

    def _repeat(self, format: dict[str, Any], ends: tuple[str, ...]) -> GrammarExpr:
        least, most = get_field(format, "min", int), get_field(format, "max", int)
        if least < 0 or (most != -1 and most < least):
            raise InvalidParameter(
                f"the format 'repeat' must have 0 <= min <= max, or max -1, got {str(least)[:20]} and {str(most)[:20]}."
            )
        if max(least, most) > MAX_REPETITIONS:
            said = f"{str(max(least, most))[:20]} times, which is more than {MAX_REPETITIONS}"
            raise InvalidParameter(f"the format 'repeat' repeats {said}.")
        return RepeatExpr(self.shape(format.get("content"), ends), least, None if most == -1 else most)

    def _tag(self, format: Any) -> "GrammarExpr":
        return self._read_tag(format).shape

    def _read_tag(self, format: Any) -> "_Tag":
        if not isinstance(format, dict) or format.get("type", "tag") != "tag":
            raise InvalidParameter("'tags' must hold formats of type 'tag'.")
        said = format.get("end")
        ends = tuple(self._marker(end) for end in (said if isinstance(said, list) and said else [said]))
        closing = tuple(filter(None, ends))
        return _Tag(self._marker(format.get("begin")), self.shape(format.get("content"), closing), ends)

    def _triggered(self, format: dict[str, Any], ends: tuple[str, ...]) -> GrammarExpr:
        tags = [self._read_tag(tag) for tag in get_nonempty_list(format, "tags")]
        key = "triggers" if format["type"] == "triggered_tags" else "trigger_tokens"
        triggers = tuple(self._marker(trigger) for trigger in get_nonempty_list(format, key))
        excludes = (*ends, *self._excludes(format))
        at_least_one, only_one = (
            get_field(format, "at_least_one", bool, False),
            get_field(format, "stop_after_first", bool, False),
        )
        return _among_text(tags, triggers, excludes, at_least_one=at_least_one, only_one=only_one)

    def _separated(self, format: dict[str, Any]) -> GrammarExpr:
        tags = OrExpr(tuple(self._tag(tag) for tag in get_nonempty_list(format, "tags")))
        separator = get_field(format, "separator", str)
        least = int(get_field(format, "at_least_one", bool, False))
        only_one = get_field(format, "stop_after_first", bool, False)
        return RepeatExpr(tags, least, 1 if only_one else None, TextLiteral(separator) if separator else None)

    def _dispatch(self, format: dict[str, Any], ends: tuple[str, ...]) -> GrammarExpr:
        tags = []
        for rule in get_nonempty_list(format, "rules"):
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

    def _token(self, token: Any) -> GrammarExpr:
        if isinstance(token, int) and not isinstance(token, bool) and token not in self.text_of:
            return TokenLiteral(token)
        return TextLiteral(self._marker(token))


@dataclass(frozen=True, slots=True)
class _Tag:
    """A region between markers; one of `ends` closes it."""

    begin: str
    content: GrammarExpr
    ends: tuple[str, ...]

    @property
    def shape(self) -> GrammarExpr:
        end = TextLiteral(self.ends[0]) if len(self.ends) == 1 else OrExpr(tuple(map(TextLiteral, self.ends)))
        return SequenceExpr((TextLiteral(self.begin), self.content, end))


def _among_text(
    tags: list[_Tag],
    triggers: tuple[str, ...],
    excludes: tuple[str, ...],
    *,
    at_least_one: bool = False,
    only_one: bool = False,
) -> GrammarExpr:
    """Tags with free text around them. A text that has said a trigger must go on with one of the trigger's tags."""
    for tag in tags:
        if not tag.begin or not any(trigger and tag.begin.startswith(trigger) for trigger in triggers):
            raise InvalidParameter(f"the tag {tag.begin[:100]!r} begins with none of the triggers.")
    text = FreeText((*triggers, *excludes))
    one = OrExpr(tuple(tag.shape for tag in tags))
    after_text = SequenceExpr((text, one))
    if only_one:
        return one if at_least_one else OrExpr((after_text, text))
    more = (RepeatExpr(after_text), text)
    return SequenceExpr((one, *more)) if at_least_one else SequenceExpr(more)
