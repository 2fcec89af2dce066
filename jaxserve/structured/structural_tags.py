"""Structural tags of xgrammar and vLLM → grammar expressions: free text in which regions follow a schema.

The current form is {"type": "structural_tag", "format": {…}}, the legacy one has `structures` and `triggers`. As in
xgrammar, free text cannot contain the end of an enclosing tag, triggers, and `excludes`. Markers may be special tokens.
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
    parse_grammar: Callable[[str], LarkGrammar],
    whitespace: JsonWhitespace,
    is_closed: bool = False,
) -> GrammarExpr:
    """Parse a structural tag.

    text                    the tag, as JSON text
    special_tokens          text → id
    parse_grammar           parses the text of a `grammar` format
    whitespace, is_closed   of its schemas, as in JsonSchema

    Raises InvalidParameter, which names the format, if the tag is invalid or not supported.
    """
    tag = parse_bounded_json(text, "the structural tag", MAX_DEPTH)
    if not isinstance(tag, dict) or tag.get("type", "structural_tag") != "structural_tag":
        raise InvalidParameter("a structural tag must be an object of type 'structural_tag'.")
    token_texts = {token_id: name for name, token_id in special_tokens.items()}
    parser = _StructuralTagParser(token_texts, parse_grammar, whitespace, is_closed)
    if "format" in tag:
        return parser.parse(tag["format"], ())
    if "structures" in tag:
        return parser.parse_legacy(tag)
    raise InvalidParameter("a structural tag must have a 'format', or 'structures' and 'triggers'.")


@dataclass(frozen=True, slots=True)
class _StructuralTagParser:
    """Parses formats.

    token_texts   id → text of special tokens
    """

    token_texts: Mapping[int, str]
    parse_grammar: Callable[[str], LarkGrammar]
    whitespace: JsonWhitespace
    is_closed: bool

    def parse(self, format: Any, ends: tuple[str, ...]) -> GrammarExpr:
        """Parse one format. ends: the markers that may end the nearest enclosing tag."""
        if not isinstance(format, dict) or not isinstance(format.get("type"), str):
            raise InvalidParameter("a format of a structural tag must be an object with a 'type'.")
        kind = format["type"]
        match kind:
            case "const_string":
                return TextLiteral(get_field(format, "value", str))
            case "json_schema" | "qwen_xml_parameter":
                return self._schema(format)
            case "grammar":
                return self.parse_grammar(get_field(format, "grammar", str))
            case "regex":
                return Regex(get_field(format, "pattern", str))
            case "any_text" | "any_tokens":
                reject_field(format, "max_tokens", None)
                return FreeText((*ends, *self._excludes(format)))
            case "sequence":
                return SequenceExpr(self._elements(format, ends))
            case "or":
                return OrExpr(self._elements(format, ends))
            case "optional":
                return OptionalExpr(self.parse(format.get("content"), ends))
            case "plus":
                return RepeatExpr(self.parse(format.get("content"), ends), 1)
            case "star":
                return RepeatExpr(self.parse(format.get("content"), ends))
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

    def parse_legacy(self, tag: dict[str, Any]) -> GrammarExpr:
        """Parse a tag in the legacy form, with `structures` and `triggers`."""
        tags = []
        for structure in get_nonempty_list(tag, "structures"):
            if not isinstance(structure, dict):
                raise InvalidParameter("each of 'structures' must be an object with 'begin', 'schema' and 'end'.")
            schema = structure.get("schema", {})
            content = self._json(schema if isinstance(schema, str) else dump_exact_json(schema))
            tags.append(_Tag(get_field(structure, "begin", str), content, (get_field(structure, "end", str),)))
        return _tags_in_text(tags, get_string_list(tag, "triggers"), ())

    def _elements(self, format: dict[str, Any], ends: tuple[str, ...]) -> tuple[GrammarExpr, ...]:
        return tuple(self.parse(element, ends) for element in get_nonempty_list(format, "elements"))

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
        return JsonSchema(schema, self.whitespace, self.is_closed)

    def _repeat(self, format: dict[str, Any], ends: tuple[str, ...]) -> GrammarExpr:
        least, most = get_field(format, "min", int), get_field(format, "max", int)
        if least < 0 or (most != -1 and most < least):
            raise InvalidParameter(
                f"the format 'repeat' must have 0 <= min <= max, or max -1, got {str(least)[:20]} and {str(most)[:20]}."
            )
        if max(least, most) > MAX_REPETITIONS:
            times = f"{str(max(least, most))[:20]} times, which is more than {MAX_REPETITIONS}"
            raise InvalidParameter(f"the format 'repeat' repeats {times}.")
        return RepeatExpr(self.parse(format.get("content"), ends), least, None if most == -1 else most)

    def _tag(self, format: Any) -> GrammarExpr:
        return self._parse_tag(format).expr

    def _parse_tag(self, format: Any) -> "_Tag":
        if not isinstance(format, dict) or format.get("type", "tag") != "tag":
            raise InvalidParameter("'tags' must hold formats of type 'tag'.")
        end = format.get("end")
        ends = tuple(self._marker(marker) for marker in (end if isinstance(end, list) and end else [end]))
        begin = self._marker(format.get("begin"))
        return _Tag(begin, self.parse(format.get("content"), tuple(filter(None, ends))), ends)

    def _triggered(self, format: dict[str, Any], ends: tuple[str, ...]) -> GrammarExpr:
        tags = [self._parse_tag(tag) for tag in get_nonempty_list(format, "tags")]
        key = "triggers" if format["type"] == "triggered_tags" else "trigger_tokens"
        triggers = tuple(self._marker(trigger) for trigger in get_nonempty_list(format, key))
        excludes = (*ends, *self._excludes(format))
        at_least_one = get_field(format, "at_least_one", bool, False)
        only_one = get_field(format, "stop_after_first", bool, False)
        return _tags_in_text(tags, triggers, excludes, at_least_one=at_least_one, only_one=only_one)

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
            tags.append(_Tag(self._marker(rule[0]), self.parse(rule[1], ends), ("",)))
        only_one = not get_field(format, "loop", bool, True)
        triggers = tuple(tag.begin for tag in tags)
        return _tags_in_text(tags, triggers, (*ends, *self._excludes(format)), only_one=only_one)

    def _excludes(self, format: dict[str, Any]) -> tuple[str, ...]:
        markers = [marker for key in ("excludes", "exclude_tokens") for marker in get_field(format, key, list, [])]
        return tuple(filter(None, map(self._marker, markers)))

    def _marker(self, marker: Any) -> str:
        """Return the text of a marker, which is given as a text or as a token."""
        if isinstance(marker, dict) and marker.get("type") == "token":
            marker = marker.get("token")
        if isinstance(marker, int) and marker in self.token_texts:
            return self.token_texts[marker]
        if isinstance(marker, str):
            return marker
        raise InvalidParameter(f"{str(marker)[:100]} is no marker: neither a text nor a special token.")

    def _token(self, token: Any) -> GrammarExpr:
        if isinstance(token, int) and not isinstance(token, bool) and token not in self.token_texts:
            return TokenLiteral(token)
        return TextLiteral(self._marker(token))


@dataclass(frozen=True, slots=True)
class _Tag:
    """A region that begins with a marker and ends with one of several."""

    begin: str
    content: GrammarExpr
    ends: tuple[str, ...]

    @property
    def expr(self) -> GrammarExpr:
        """The begin, the content and one of the ends."""
        end = TextLiteral(self.ends[0]) if len(self.ends) == 1 else OrExpr(tuple(map(TextLiteral, self.ends)))
        return SequenceExpr((TextLiteral(self.begin), self.content, end))


def _tags_in_text(
    tags: list[_Tag],
    triggers: tuple[str, ...],
    excludes: tuple[str, ...],
    *,
    at_least_one: bool = False,
    only_one: bool = False,
) -> GrammarExpr:
    """Return an expression for free text with tags in it.

    triggers       prefixes of the tags' begins: where one is written, a tag that begins with it must follow
    excludes       texts that the free text cannot contain
    at_least_one   the text begins with a tag
    only_one       nothing follows the first tag
    """
    for tag in tags:
        if not tag.begin or not any(trigger and tag.begin.startswith(trigger) for trigger in triggers):
            raise InvalidParameter(f"the tag {tag.begin[:100]!r} begins with none of the triggers.")
    text = FreeText((*triggers, *excludes))
    any_tag = OrExpr(tuple(tag.expr for tag in tags))
    text_and_tag = SequenceExpr((text, any_tag))
    if only_one:
        return any_tag if at_least_one else OrExpr((text_and_tag, text))
    more = (RepeatExpr(text_and_tag), text)
    return SequenceExpr((any_tag, *more)) if at_least_one else SequenceExpr(more)
