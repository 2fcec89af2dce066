"""Values like JSON, but with another quote around strings and without quotes around keys → expressions in Lark."""

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

    definitions   the targets of `$ref`s, by name
    quote         stands before and after a string, which cannot contain it
    write_json    writes numbers: (merged schema, path for errors) → expression
    """

    def __init__(
        self, lark: LarkBuilder, definitions: Mapping[str, Any], quote: str, write_json: Callable[[Any, str], str]
    ) -> None:
        self._lark, self._definitions, self._quote, self._write_json = lark, definitions, quote, write_json
        self._rule_names: dict[str, str] = {}  # name of a definition → name of its rule

    def write(self, schema: Any, path: str) -> str | None:
        """Return an expression for the values that are valid under a merged schema; None: no value is.

        path   where the schema stands

        Raises InvalidParameter if something in the schema cannot be enforced in this form.
        """
        if schema is False:
            return None
        if "$ref" in schema:
            return self._definition(schema["$ref"].removeprefix("#/$defs/"), path)
        if "anyOf" in schema:
            options = [self.write(option, path) for option in schema["anyOf"]]
        else:
            options = self._options(with_type(schema), path)
        return self._either([option for option in options if option is not None])

    def _definition(self, name: str, path: str) -> str:
        if name not in self._rule_names:
            self._rule_names[name] = self._lark.reserve_rule()
            expression = self.write(self._definitions[name], path)
            if expression is None:
                raise unenforceable_error("$ref", path, "nothing is valid under what it points at")
            self._lark.define_rule(self._rule_names[name], expression)
        return self._rule_names[name]

    def _options(self, schema: dict[str, Any], path: str) -> list[str | None]:
        if "enum" in schema:
            return [self._listed(value, schema, path) for value in listed_values(schema)]
        return [self._type(name, schema, path) for name in types_of(schema)]

    def _type(self, name: str, schema: dict[str, Any], path: str) -> str | None:
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
        return self._write_json({"type": name, **bounds}, path)

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
            complete = {**schema, "$defs": self._definitions}
            is_valid = not has_decimal(complete) and is_valid_json(complete, value)
            return self.write(_only(value), path) if is_valid else None
        return self._write_json({"enum": [value]}, path)

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
        """Write the items of an array, each of which needs those before it. other: expression of further items."""
        num = len(items)
        after, first = EMPTY, EMPTY
        if other is not None:
            least_more, most_more = max(least - num, 0), None if most is None else most - num
            more = self._lark.rule(f'"," {other}')
            after = more + quantifier(least_more, most_more)
            if not items:
                most_after_first = None if most_more is None else most_more - 1
                rest = EMPTY if most_more == 1 else more + quantifier(max(least_more - 1, 0), most_after_first)
                first = self._lark.rule(f"{other} {rest}") + ("" if least_more else "?")
        for index in reversed(range(num)):
            comma = '"," ' if index else ""
            after = self._lark.rule(f"{comma}{items[index]} {after}") + ("" if index < least else "?")
            first = after
        return first

    def _object(self, schema: Mapping[str, Any], path: str) -> str | None:
        members = to_members(schema)
        declared = []
        for name, member in members.declared.items():
            expression = self.write(member, f"{path}/properties/{name}")
            if expression is None and name in members.required:
                return None
            if expression is not None:
                declared.append((f'{self._key(name)} ":" {expression}', name in members.required))
        others = [
            f'{self._lark.terminal(f"{names} & ~({_words()})")} ":" {expression}'
            for names, other_schema in undeclared_names([members], members, _OTHER_KEYS)
            if (expression := self.write(other_schema, f"{path}/additionalProperties")) is not None
        ]
        other = self._either(others)
        return f'"{{" {write_members(self._lark, declared, other, members.num_undeclared, quote_text(","))} "}}"'

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


def _only(value: Any) -> dict[str, Any]:
    """Return a merged schema under which only this object or array is valid."""
    if isinstance(value, dict):
        properties = {key: {"enum": [item]} for key, item in value.items()}
        return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}
    items = [{"enum": [item]} for item in value]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _words() -> str:
    return " | ".join(map(quote_text, sorted(_WORDS)))
