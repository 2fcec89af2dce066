"""Gemma's literals: JSON without quotes around keys, and strings between markers of their own."""

import re
from dataclasses import dataclass
from typing import Any

from jaxserve.structured.shapes import Choice, Repeat, Shape, Text
from jaxserve.text.call_formats.format import Function, in_order
from jaxserve.text.json_tape import parsed, written

_MAX_DEPTH = 8
_BARE = re.compile(r"[^{}\[\],:]+")
_SCALAR = re.compile(r"true|false|null|-?\d+(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class GemmaLiterals:
    """quotes: the one marker before and after a string; a JSON string is understood as well."""

    quotes: tuple[str, ...]
    escapes: bool = False

    def json(self, text: str) -> Any:
        tokens: list[str] = []
        pieces = text.split(self.quotes[0])
        for index, piece in enumerate(pieces):
            if index % 2:
                tokens.append(written(piece))
            else:
                tokens.append(_BARE.sub(_quoted, piece))
        return parsed("".join(tokens))

    def shape(self, schema: Any, function: Function) -> Shape:
        return self._shape(schema if isinstance(schema, dict) and function.enforced else {}, function, _MAX_DEPTH)

    def _shape(self, schema: dict[str, Any], function: Function, depth: int) -> Shape:
        types = function.types_of_schema(schema)
        quote = self.quotes[0]
        if schema.get("enum") and all(isinstance(each, str) for each in schema["enum"]):
            return in_order(quote, Choice(tuple(schema["enum"])), quote)
        if "string" in types or not depth:
            return in_order(quote, Text((quote,)), quote)
        if "object" in types:
            return self._object(schema, function, depth)
        if "array" in types:
            items = schema.get("items")
            item = self._shape(items if isinstance(items, dict) else {}, function, depth - 1)
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            return in_order("[", Repeat(item, least, most, in_order(",")), "]")
        return function.schema(schema)

    def _object(self, schema: dict[str, Any], function: Function, depth: int) -> Shape:
        properties = {key: value for key, value in (schema.get("properties") or {}).items() if isinstance(value, dict)}
        members = [in_order(key + ":", self._shape(each, function, depth - 1)) for key, each in properties.items()]
        parts = [part for member in members for part in (",", member)][1:]
        return in_order("{", *parts, "}")


def _quoted(found: re.Match[str]) -> str:
    text = found.group().strip()
    if not text or _SCALAR.fullmatch(text):
        return text
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text
    return written(text)
