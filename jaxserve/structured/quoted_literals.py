"""Values as literals: like JSON, but strings stand between quotes of their own and keys have none."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llguidance import regex_to_lark

from jaxserve.structured.exact_numbers import has_decimal
from jaxserve.structured.lark_builder import ANY_TEXT, EMPTY, LarkBuilder, quantifier, quote_text
from jaxserve.structured.object_members import undeclared_names, write_members
from jaxserve.structured.parameter_schema import to_members, with_type
from jaxserve.structured.parameter_types import listed_values, types_of
from jaxserve.structured.patterns import can_match, is_valid_json
from jaxserve.structured.schema_keywords import unenforceable_error
from jaxserve.structured.text_patterns import to_text_patterns

_BARE_KEY = re.compile(r"[A-Za-z_$][\w.$-]*")
_OTHER_KEYS = "[A-Za-z_][0-9A-Za-z_.-]{0,63}"
_WORDS = frozenset(("true", "false", "null"))
MAX_ITEMS = 10_000


class QuotedLiteralWriter:
    """Writes values.

    definitions   what `$ref` points at
    quote         stands before and after a string, which cannot hold it
    json          writes what is a number
    """

    def __init__(
        self, lark: LarkBuilder, definitions: Mapping[str, Any], quote: str, json: Callable[[Any, str], str]
    ) -> None:
        self._lark, self._definitions, self._quote, self._json = lark, definitions, quote, json
        self._names: dict[str, str] = {}  # definition → rule

    def write(self, schema: Any, path: str) -> str | None:
        """An expression for what is valid under a merged schema; None: nothing is."""
        if schema is False:
            return None
        if "$ref" in schema:
            return self._definition(schema["$ref"].removeprefix("#/$defs/"), path)
        if "anyOf" in schema:
            options = [self.write(option, path) for option in schema["anyOf"]]
        else:
            options = self._plain(with_type(schema), path)
        return self._either([option for option in options if option is not None])

    def _definition(self, name: str, path: str) -> str:
        if name not in self._names:
            self._names[name] = self._lark.reserve_rule()
            expression = self.write(self._definitions[name], path)
            if expression is None:
                raise unenforceable_error("$ref", path, "nothing is valid under what it points at")
            self._lark.define_rule(self._names[name], expression)
        return self._names[name]

    def _plain(self, schema: dict[str, Any], path: str) -> list[str | None]:
        if "enum" in schema:
            return [self._listed(value, schema, path) for value in listed_values(schema)]
        return [self._of_type(name, schema, path) for name in types_of(schema)]

    def _of_type(self, name: str, schema: dict[str, Any], path: str) -> str | None:
        if name == "null":
            return '"null"'
        if name == "boolean":
            return self._lark.rule('"true" | "false"')
        if name == "string":
            return self._string(ANY_TEXT, schema, path)
        if name == "array":
            return self._array(schema, path)
        if name == "object":
            return self._object(schema, path)
        bounds = {key: schema[key] for key in schema if key.lower().endswith(("minimum", "maximum"))}
        return self._json({"type": name, **bounds}, path)

    def _string(self, text: str, schema: Mapping[str, Any], path: str) -> str | None:
        conditions = "".join(f" & /{regex_to_lark(pattern)}/" for pattern in to_text_patterns(schema, path))
        if conditions and not can_match(f"({text}){conditions}"):
            return None
        end = self._lark.text_until(self._quote, (self._quote,), f"({text}){conditions}")
        return f"{self._lark.literal(self._quote)} {end}"

    def _listed(self, value: Any, schema: Mapping[str, Any], path: str) -> str | None:
        if isinstance(value, str):
            is_written = self._quote not in value or self._lark.has_special_token(self._quote)
            return self._string(quote_text(value) or "/(?:)/", schema, path) if is_written else None
        if isinstance(value, dict | list):
            whole = {**schema, "$defs": self._definitions}
            return self.write(_exactly(value), path) if not has_decimal(whole) and is_valid_json(whole, value) else None
        return self._json({"enum": [value]}, path)

    def _array(self, schema: Mapping[str, Any], path: str) -> str | None:
        first, rest = list(schema.get("prefixItems", ())), schema.get("items", {})
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        for keyword, count in (("minItems", least), ("maxItems", most or 0)):
            if count > MAX_ITEMS:
                raise unenforceable_error(keyword, path, f"it can be up to {MAX_ITEMS} here")
        items = [self.write(item, f"{path}/prefixItems") for item in first[:most]]
        if None in items:
            items, rest = items[: items.index(None)], False
        other = None if most is not None and most <= len(items) else self.write(rest, f"{path}/items")
        if least > len(items) and other is None:
            return None
        return f'"[" {self._items(items, other, least, most)} "]"'

    def _items(self, items: Sequence[str | None], other: str | None, least: int, most: int | None) -> str:
        """Each needs those before it."""
        num = len(items)
        after, first = EMPTY, EMPTY
        if other is not None:
            fewest, limit = max(least - num, 0), None if most is None else most - num
            more = self._lark.rule(f'"," {other}')
            after = more + quantifier(fewest, limit)
            if not items:
                rest = (
                    EMPTY if limit == 1 else more + quantifier(max(fewest - 1, 0), None if limit is None else limit - 1)
                )
                first = self._lark.rule(f"{other} {rest}") + ("" if fewest else "?")
        for index in reversed(range(num)):
            comma = '"," ' if index else ""
            after = self._lark.rule(f"{comma}{items[index]} {after}") + ("" if index < least else "?")
            first = after
        return first

    def _object(self, schema: Mapping[str, Any], path: str) -> str | None:
        members = to_members(schema)
        written = []
        for name, each in members.declared.items():
            expression = self.write(each, f"{path}/properties/{name}")
            if expression is None and name in members.required:
                return None
            if expression is not None:
                written.append((f'{self._key(name)} ":" {expression}', name in members.required))
        others = [
            f'{self._lark.terminal(f"{names} & ~({_words()})")} ":" {expression}'
            for names, each in undeclared_names([members], members, _OTHER_KEYS)
            if (expression := self.write(each, f"{path}/additionalProperties")) is not None
        ]
        other = self._either(others)
        return f'"{{" {write_members(self._lark, written, other, members.num_undeclared, quote_text(","))} "}}"'

    def _key(self, name: str) -> str:
        if _BARE_KEY.fullmatch(name) and name not in _WORDS:
            return self._lark.literal(name)
        if self._quote in name:
            raise unenforceable_error("properties", "#", f"the name {name[:100]!r} cannot be written here")
        return f"{self._lark.literal(self._quote)} {self._lark.choice((name,))} {self._lark.literal(self._quote)}"

    def _either(self, options: list[str]) -> str | None:
        if len(options) < 2:
            return options[0] if options else None
        return self._lark.rule(" | ".join(options))


def _exactly(value: Any) -> dict[str, Any]:
    """A merged schema of this object or array alone."""
    if isinstance(value, dict):
        properties = {key: {"enum": [item]} for key, item in value.items()}
        return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}
    items = [{"enum": [item]} for item in value]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _words() -> str:
    return " | ".join(map(quote_text, sorted(_WORDS)))
