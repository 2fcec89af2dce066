"""JSON with numbers that llguidance would change → a Lark grammar in which they are written out.

Only the way to such numbers is written as rules: objects, arrays and options that hold one. Everything else in them is
a `%json` of its own, with the same whitespace.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from llguidance import regex_to_lark

from jaxserve.errors import InvalidParameter
from jaxserve.structured.exact_numbers import format_number, has_decimal, to_decimal
from jaxserve.structured.number_patterns import decimal_range_pattern, integer_range_pattern
from jaxserve.structured.patterns import escape_pattern
from jaxserve.structured.schema_keywords import unenforceable_error

MAX_NAME_CHARS = 100
_NOTHING = '""'
_RANGE = ("minimum", "maximum")
_KINDS = (("string", str), ("array", list), ("object", dict))
_KEYWORDS_OF = {
    "null": (),
    "boolean": (),
    "number": _RANGE,
    "integer": _RANGE,
    "string": ("minLength", "maxLength", "pattern", "format", "allOf"),
    "array": ("prefixItems", "items", "minItems", "maxItems"),
    "object": ("properties", "required", "patternProperties", "additionalProperties", "minProperties", "maxProperties"),
}


def find_inexact_definitions(definitions: Mapping[str, Any]) -> set[str]:
    """The definitions that hold a number which llguidance would change, or lead to one."""
    found = {name for name, schema in definitions.items() if has_decimal(schema)}
    while True:
        more = {name for name, schema in definitions.items() if name not in found and collect_refs(schema) & found}
        if not more:
            return found
        found |= more


def collect_refs(schema: Any) -> set[str]:
    """The names of the definitions that a merged schema points at, data and names of properties left out."""
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
    """The name of the definition that a `$ref` of ours points at."""
    return schema["$ref"].removeprefix("#/$defs/")


class JsonLarkWriter:
    """Writes one grammar.

    definitions   what `$ref`s point at, merged schemas like the one that is written
    options       llguidance's for JSON
    """

    def __init__(self, definitions: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._options = options
        self._inexact = find_inexact_definitions(definitions)
        self._rules: dict[str, str] = {}  # definition → name
        self._named: dict[str, str] = {}  # of definitions: name there → name here
        self._lines: list[str] = []

    def write(self, schema: Any) -> str:
        """The text of a Lark grammar."""
        start = self._value(schema)
        lines = ['%llguidance {"no_forcing": true, "ignore_once": true}', f"start: {start}"]
        if "whitespace_pattern" in self._options:
            lines.append(f"%ignore /{regex_to_lark(self._options['whitespace_pattern'])}/")
        lines += [f"{name}: {definition}" for definition, name in self._rules.items()]
        return "\n".join([*lines, *self._lines])

    def _value(self, schema: Any) -> str:
        """An expression for what is valid under a merged schema."""
        if self._is_exact(schema):
            return self._json(schema)
        if "$ref" in schema:
            return self._definition(ref_name(schema))
        if "anyOf" in schema:
            plain = [option for option in schema["anyOf"] if self._is_exact(option)]
            others = [self._value(option) for option in schema["anyOf"] if not self._is_exact(option)]
            return self._either([*others, *([self._json({"anyOf": plain})] if plain else [])])
        if "enum" in schema:
            return self._listed(schema)
        return self._types(schema)

    def _types(self, schema: Mapping[str, Any]) -> str:
        """One option a type; those that llguidance takes as they are stay together."""
        types = schema.get("type", [name for name in _KEYWORDS_OF if name != "integer"])
        found: list[str] = []
        plain: dict[str, Any] = {"type": []}
        for name in [types] if isinstance(types, str) else types:
            keywords = {key: schema[key] for key in _KEYWORDS_OF[name] if key in schema}
            if self._is_exact(keywords):
                plain["type"].append(name)
                plain |= keywords
            elif name == "object":
                found.append(self._object(keywords))
            else:
                found.append(self._array(keywords) if name == "array" else self._number(keywords, name))
        return self._either([*found, *([self._json(plain)] if plain["type"] else [])])

    def _is_exact(self, schema: Any) -> bool:
        """Whether llguidance takes all numbers in it as they are."""
        return not has_decimal(schema) and collect_refs(schema).isdisjoint(self._inexact)

    def _definition(self, name: str) -> str:
        if name not in self._named:
            self._named[name] = f"d{len(self._named)}"
            self._lines.append(f"{self._named[name]}: {self._value(self._definitions[name])}")
        return self._named[name]

    def _json(self, schema: Any) -> str:
        """What llguidance takes as it is."""
        needed, new = set(), collect_refs(schema)
        while new:
            needed |= new
            new = set().union(*(collect_refs(self._definitions[name]) for name in new)) - needed
        definitions = {name: self._definitions[name] for name in sorted(needed)}
        whole = schema | {"x-guidance": self._options} | ({"$defs": definitions} if definitions else {})
        return self._rule(f"%json {json.dumps(whole)}")

    def _listed(self, schema: Mapping[str, Any]) -> str:
        numbers = [value for value in schema["enum"] if has_decimal(value)]
        others = [value for value in schema["enum"] if not has_decimal(value)]
        texts = " | ".join(f'"{format_number(number)}"' for number in numbers)
        found = [self._terminal(texts)] if numbers else []
        if not others:
            return self._either(found)
        types = [name for name, kind in _KINDS if any(isinstance(value, kind) for value in others)]
        kept = {key: schema[key] for name in types for key in _KEYWORDS_OF[name] if key in schema}
        if not self._is_exact(kept):
            raise unenforceable_error("enum", "#", "numbers with a fraction bound what is inside a listed value")
        said = {"type": schema["type"]} if "type" in schema else {}
        return self._either([*found, self._json({**said, **kept, "enum": others})])

    def _number(self, schema: Mapping[str, Any], name: str) -> str:
        low, high = (to_decimal(schema[keyword]) if keyword in schema else None for keyword in ("minimum", "maximum"))
        if name == "number":
            return self._terminal(f"/{decimal_range_pattern(low, high)}/")
        first, last = (None if bound is None else int(bound) for bound in (low, high))
        return self._terminal(f"/{integer_range_pattern(first, last)}/")

    def _array(self, schema: Mapping[str, Any]) -> str:
        first, rest = schema.get("prefixItems", []), schema.get("items", {})
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if False in first:  # what nothing is valid for cannot be there
            first, rest = first[: first.index(False)], False
        if most is not None and most <= len(first):
            first, rest = first[:most], False
        items = [self._value(item) for item in first]
        if rest is False:
            after, most = _NOTHING, len(first)
        else:
            items.append(self._value(rest))
            after = self._repeated(items[-1], max(least - len(items), 0), None if most is None else most - len(items))
        if least > len(first) and rest is False:
            raise InvalidParameter("no JSON value is valid under the schema.")
        for index in reversed(range(len(items))):
            comma = '"," ' if index else ""
            after = self._rule(f"{comma}{items[index]} {after}") + ("" if index < least else "?")
        return self._rule(f'"[" {after} "]"')

    def _object(self, schema: Mapping[str, Any]) -> str:
        required = schema.get("required", ())
        members = [
            (self._rule(f'{_quoted(name)} ":" {self._value(value)}'), name in required)
            for name, value in schema.get("properties", {}).items()
            if value is not False
        ]
        other = self._other_member(schema)
        least = max(schema.get("minProperties", 0) - len(required), 0)
        most = schema["maxProperties"] - len(required) if "maxProperties" in schema else None
        if other is None or most == 0:
            after = first = _NOTHING
        else:
            after = self._repeated(other, least, most)
            first = self._rule(
                f"{other} {self._repeated(other, max(least - 1, 0), None if most is None else most - 1)}"
            )
            first += "" if least else "?"
        for member, is_required in reversed(members):  # after: behind another member; first: behind none
            comma = self._rule(f'"," {member}')
            first = self._rule(f"{member} {after}" if is_required else f"{member} {after} | {first}")
            after = self._rule(f"{comma} {after}" if is_required else f"{comma}? {after}")
        return self._rule(f'"{{" {first} "}}"')

    def _other_member(self, schema: Mapping[str, Any]) -> str | None:
        """A member whose name is not declared; None: there is none."""
        others, patterns = schema.get("additionalProperties", {}), schema.get("patternProperties", {})
        if patterns and (len(patterns) > 1 or others is not False or schema.get("properties")):
            raise unenforceable_error(
                "patternProperties", "#", "beside other properties, with numbers of so many digits"
            )
        if not patterns and others is False:
            return None
        [(pattern, value)] = patterns.items() if patterns else [(_other_than(schema.get("properties", ())), others)]
        name = {"type": "string"} | ({"pattern": pattern} if pattern else {})
        return None if value is False else self._rule(f'{self._json(name)} ":" {self._value(value)}')

    def _repeated(self, item: str, least: int, most: int | None) -> str:
        """The item, with a comma before each, so many times."""
        if most == 0:
            return _NOTHING
        return self._rule(f'"," {item}') + f"{{{least},{'' if most is None else most}}}"

    def _either(self, options: list[str]) -> str:
        return options[0] if len(options) == 1 else self._rule(" | ".join(options))

    def _rule(self, definition: str) -> str:
        return self._rules.setdefault(definition, f"r{len(self._rules)}")

    def _terminal(self, definition: str) -> str:
        return self._rules.setdefault(definition, f"T{len(self._rules)}")


def _quoted(name: str) -> str:
    """A JSON string as a text of the grammar."""
    return json.dumps(json.dumps(name, ensure_ascii=False), ensure_ascii=False).replace("\x7f", "\\u007f")


def _other_than(names: Collection[str]) -> str:
    """A pattern for all texts but these; "" where there are none."""
    if any(len(name) > MAX_NAME_CHARS for name in names):
        raise unenforceable_error(
            "additionalProperties", "#", f"beside a name of more than {MAX_NAME_CHARS} characters"
        )
    return f"^{_rest_other_than(names)}$" if names else ""


def _rest_other_than(ends: Collection[str]) -> str:
    """How a text may go on that must not end in one of these ways."""
    heads = dict.fromkeys(end[0] for end in ends if end)
    others = rf"[^{escape_pattern(''.join(heads))}\x{{0}}](?s:.)*" if heads else "(?s:.)+"
    longer = [escape_pattern(head) + _rest_other_than([end[1:] for end in ends if end[:1] == head]) for head in heads]
    return f"(?:{'|'.join([*([] if '' in ends else ['']), others, *longer])})"
