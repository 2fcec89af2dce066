"""Merged schemas with numbers that llguidance would change → a Lark grammar in which they are written out.

Only the objects, arrays and options that contain such a number are written as rules. Everything else in them is a
`%json` of its own, with the same whitespace.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from llguidance import regex_to_lark

from jaxserve.structured.exact_numbers import format_number, has_decimal, to_decimal
from jaxserve.structured.number_patterns import decimal_range_pattern, integer_range_pattern
from jaxserve.structured.patterns import escape_pattern
from jaxserve.structured.schema_keywords import unenforceable_error
from jaxserve.structured.uninhabited import no_valid_value

MAX_NAME_CHARS = 100
_EMPTY = '""'
_RANGE = ("minimum", "maximum")
_PYTHON_TYPES = (("string", str), ("array", list), ("object", dict))
_KEYWORDS_OF_TYPE = {
    "null": (),
    "boolean": (),
    "number": _RANGE,
    "integer": _RANGE,
    "string": ("minLength", "maxLength", "pattern", "format", "allOf"),
    "array": ("prefixItems", "items", "minItems", "maxItems"),
    "object": ("properties", "required", "patternProperties", "additionalProperties", "minProperties", "maxProperties"),
}


def find_inexact_definitions(definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that contain a number which llguidance would change, or refer to such a definition."""
    inexact = {name for name, schema in definitions.items() if has_decimal(schema)}
    while True:
        more = {name for name, schema in definitions.items() if name not in inexact and collect_refs(schema) & inexact}
        if not more:
            return inexact
        inexact |= more


def collect_refs(schema: Any) -> set[str]:
    """Return the names of the definitions that a merged schema refers to. Listed values are not searched."""
    if isinstance(schema, list):
        return set().union(*map(collect_refs, schema))
    if not isinstance(schema, dict):
        return set()
    if "$ref" in schema:
        return {ref_name(schema)}
    named = [*schema.get("properties", {}).values(), *schema.get("patternProperties", {}).values()]
    keywords = ("anyOf", "prefixItems", "items", "additionalProperties")
    return collect_refs([*named, *(schema[keyword] for keyword in keywords if keyword in schema)])


def ref_name(schema: Mapping[str, Any]) -> str:
    """Return the name of the definition that the `$ref` of a merged schema points at."""
    return schema["$ref"].removeprefix("#/$defs/")


class JsonLarkWriter:
    """Writer of one grammar.

    definitions   the targets of `$ref`s by name, merged schemas like the one that is written
    options       llguidance's options for JSON
    """

    def __init__(self, definitions: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._options = options
        self._inexact = find_inexact_definitions(definitions)
        self._rules: dict[str, str] = {}  # definition → name of a rule or terminal
        self._rule_names: dict[str, str] = {}  # name of a schema definition → name of its rule
        self._definition_lines: list[str] = []

    def write(self, schema: Any) -> str:
        """Return the text of a Lark grammar for a merged schema.

        Raises InvalidParameter if no value is valid, or numbers cannot be enforced beside other keywords.
        """
        start = self._value(schema)
        lines = ['%llguidance {"no_forcing": true, "ignore_once": true}', f"start: {start}"]
        if "whitespace_pattern" in self._options:
            lines.append(f"%ignore /{regex_to_lark(self._options['whitespace_pattern'])}/")
        lines += [f"{name}: {definition}" for definition, name in self._rules.items()]
        return "\n".join([*lines, *self._definition_lines])

    def _value(self, schema: Any) -> str:
        """Return an expression for what is valid under a merged schema."""
        if self._is_exact(schema):
            return self._json(schema)
        if "$ref" in schema:
            return self._definition(ref_name(schema))
        if "anyOf" in schema:
            exact = [option for option in schema["anyOf"] if self._is_exact(option)]
            others = [self._value(option) for option in schema["anyOf"] if not self._is_exact(option)]
            return self._either([*others, *([self._json({"anyOf": exact})] if exact else [])])
        if "enum" in schema:
            return self._enum(schema)
        return self._types(schema)

    def _types(self, schema: Mapping[str, Any]) -> str:
        """Return one option a type; the types that llguidance enforces exactly are one option."""
        types = schema.get("type", [name for name in _KEYWORDS_OF_TYPE if name != "integer"])
        options: list[str] = []
        exact: dict[str, Any] = {"type": []}
        for name in [types] if isinstance(types, str) else types:
            keywords = {key: schema[key] for key in _KEYWORDS_OF_TYPE[name] if key in schema}
            if self._is_exact(keywords):
                exact["type"].append(name)
                exact |= keywords
            elif name == "object":
                options.append(self._object(keywords))
            else:
                options.append(self._array(keywords) if name == "array" else self._number(keywords, name))
        return self._either([*options, *([self._json(exact)] if exact["type"] else [])])

    def _is_exact(self, schema: Any) -> bool:
        """Whether llguidance keeps all numbers in a schema exactly."""
        return not has_decimal(schema) and collect_refs(schema).isdisjoint(self._inexact)

    def _definition(self, name: str) -> str:
        if name not in self._rule_names:
            self._rule_names[name] = f"d{len(self._rule_names)}"
            self._definition_lines.append(f"{self._rule_names[name]}: {self._value(self._definitions[name])}")
        return self._rule_names[name]

    def _json(self, schema: Any) -> str:
        """Return an expression for a schema that llguidance enforces exactly."""
        needed, new = set(), collect_refs(schema)
        while new:
            needed |= new
            new = set().union(*(collect_refs(self._definitions[name]) for name in new)) - needed
        definitions = {name: self._definitions[name] for name in sorted(needed)}
        complete = schema | {"x-guidance": self._options} | ({"$defs": definitions} if definitions else {})
        return self._rule(f"%json {json.dumps(complete)}")

    def _enum(self, schema: Mapping[str, Any]) -> str:
        numbers = [value for value in schema["enum"] if has_decimal(value)]
        others = [value for value in schema["enum"] if not has_decimal(value)]
        texts = " | ".join(f'"{format_number(number)}"' for number in numbers)
        options = [self._terminal(texts)] if numbers else []
        if not others:
            return self._either(options)
        types = [name for name, kind in _PYTHON_TYPES if any(isinstance(value, kind) for value in others)]
        keywords = {key: schema[key] for name in types for key in _KEYWORDS_OF_TYPE[name] if key in schema}
        if not self._is_exact(keywords):
            raise unenforceable_error("enum", "#", "numbers with a fraction bound what is inside a listed value")
        type_keyword = {"type": schema["type"]} if "type" in schema else {}
        return self._either([*options, self._json({**type_keyword, **keywords, "enum": others})])

    def _number(self, schema: Mapping[str, Any], name: str) -> str:
        low, high = (to_decimal(schema[keyword]) if keyword in schema else None for keyword in ("minimum", "maximum"))
        if name == "number":
            return self._terminal(f"/{decimal_range_pattern(low, high)}/")
        first, last = (None if bound is None else int(bound) for bound in (low, high))
        return self._terminal(f"/{integer_range_pattern(first, last)}/")

    def _array(self, schema: Mapping[str, Any]) -> str:
        first, rest = schema.get("prefixItems", []), schema.get("items", {})
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if False in first:  # nothing is valid there, so the array ends before it
            first, rest = first[: first.index(False)], False
        if most is not None and most <= len(first):
            first, rest = first[:most], False
        items = [self._value(item) for item in first]
        if rest is False:
            after, most = _EMPTY, len(first)
        else:
            items.append(self._value(rest))
            after = self._repeated(items[-1], max(least - len(items), 0), None if most is None else most - len(items))
        if least > len(first) and rest is False:
            raise no_valid_value()
        for index in reversed(range(len(items))):
            comma = '"," ' if index else ""
            after = self._rule(f"{comma}{items[index]} {after}") + ("" if index < least else "?")
        return self._rule(f'"[" {after} "]"')

    def _object(self, schema: Mapping[str, Any]) -> str:
        required = schema.get("required", ())
        members = [
            (self._rule(f'{_quote(name)} ":" {self._value(value)}'), name in required)
            for name, value in schema.get("properties", {}).items()
            if value is not False
        ]
        other = self._other_member(schema)
        least = max(schema.get("minProperties", 0) - len(required), 0)
        most = schema["maxProperties"] - len(required) if "maxProperties" in schema else None
        if other is None or most == 0:
            after = first = _EMPTY
        else:
            after = self._repeated(other, least, most)
            first = self._rule(
                f"{other} {self._repeated(other, max(least - 1, 0), None if most is None else most - 1)}"
            )
            first += "" if least else "?"
        for member, is_required in reversed(members):  # after: what may follow a member; first: what may come first
            comma = self._rule(f'"," {member}')
            first = self._rule(f"{member} {after}" if is_required else f"{member} {after} | {first}")
            after = self._rule(f"{comma} {after}" if is_required else f"{comma}? {after}")
        return self._rule(f'"{{" {first} "}}"')

    def _other_member(self, schema: Mapping[str, Any]) -> str | None:
        """Return an expression for a member whose name is not declared; None: there is none."""
        others, patterns = schema.get("additionalProperties", {}), schema.get("patternProperties", {})
        if patterns and (len(patterns) > 1 or others is not False or schema.get("properties")):
            raise unenforceable_error(
                "patternProperties", "#", "beside other properties, with numbers of so many digits"
            )
        if not patterns and others is False:
            return None
        [(pattern, value)] = patterns.items() if patterns else [(_pattern_except(schema.get("properties", ())), others)]
        name = {"type": "string"} | ({"pattern": pattern} if pattern else {})
        return None if value is False else self._rule(f'{self._json(name)} ":" {self._value(value)}')

    def _repeated(self, item: str, least: int, most: int | None) -> str:
        """Return an expression for `least` to `most` items, each after a comma."""
        if most == 0:
            return _EMPTY
        return self._rule(f'"," {item}') + f"{{{least},{'' if most is None else most}}}"

    def _either(self, options: list[str]) -> str:
        return options[0] if len(options) == 1 else self._rule(" | ".join(options))

    def _rule(self, definition: str) -> str:
        return self._rules.setdefault(definition, f"r{len(self._rules)}")

    def _terminal(self, definition: str) -> str:
        return self._rules.setdefault(definition, f"T{len(self._rules)}")


def _quote(name: str) -> str:
    """Write a name as a JSON string, within a string of Lark."""
    return json.dumps(json.dumps(name, ensure_ascii=False), ensure_ascii=False).replace("\x7f", "\\u007f")


def _pattern_except(names: Collection[str]) -> str:
    """Return a pattern that matches all texts except these; "" where there are none."""
    if any(len(name) > MAX_NAME_CHARS for name in names):
        raise unenforceable_error(
            "additionalProperties", "#", f"beside a name of more than {MAX_NAME_CHARS} characters"
        )
    return f"^{_rest_except(names)}$" if names else ""


def _rest_except(ends: Collection[str]) -> str:
    """Return a pattern for the rest of a text that must not be one of `ends`."""
    heads = dict.fromkeys(end[0] for end in ends if end)
    others = rf"[^{escape_pattern(''.join(heads))}\x{{0}}](?s:.)*" if heads else "(?s:.)+"
    longer = [escape_pattern(head) + _rest_except([end[1:] for end in ends if end[:1] == head]) for head in heads]
    return f"(?:{'|'.join([*([] if '' in ends else ['']), others, *longer])})"
