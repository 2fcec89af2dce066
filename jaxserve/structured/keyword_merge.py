"""Plain keywords of several schemas, merged: values, types, strings, arrays."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.allof_merge import LocatedSchema, MergeFunction
from jaxserve.structured.exact_numbers import is_number, to_decimal, to_listed_number
from jaxserve.structured.formats import format_keywords
from jaxserve.structured.lookaheads import remove_lookahead
from jaxserve.structured.patterns import is_satisfiable, translate_pattern
from jaxserve.structured.schema_keywords import unenforceable_error


def merge_types(parts: Iterable[LocatedSchema]) -> list[str] | None:
    """The types that all parts allow; None: any."""
    allowed: list[str] | None = None
    for part in parts:
        if "type" in part.schema:
            said = part.schema["type"]
            new = list(dict.fromkeys([said] if isinstance(said, str) else said))
            allowed = new if allowed is None else _common_types(allowed, new)
    if allowed is not None and "number" in allowed and "integer" in allowed:
        allowed.remove("integer")
    return allowed


def _common_types(first: list[str], second: list[str]) -> list[str]:
    both = [name for name in first if name in second]
    if "number" not in both and {"number", "integer"} <= {*first, *second}:
        return both if "integer" in both else [*both, "integer"]
    return both


def merge_enums(parts: Iterable[LocatedSchema]) -> list[Any] | None:
    """The values that `enum` and `const` of all parts allow, numbers as `to_listed_number` has them; None: any."""
    allowed: dict[Any, Any] | None = None
    for part in parts:
        for keyword in ("const", "enum"):
            if keyword in part.schema:
                said = part.schema["enum"] if keyword == "enum" else [part.schema["const"]]
                values = [_listed(value, keyword, part.path) for value in said]
                new = {_key(value): value for value in values}
                allowed = new if allowed is None else {key: allowed[key] for key in allowed if key in new}
    return None if allowed is None else list(allowed.values())


def _listed(value: Any, keyword: str, path: str) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item, keyword, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_listed(item, keyword, path) for item in value]
    return to_listed_number(value, keyword, path) if is_number(value) else value


def _key(value: Any) -> Any:
    """Equal for equal values: numbers by what they count, whether they are written with a point or without."""
    if isinstance(value, dict):
        return "object", frozenset((key, _key(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", *map(_key, value)
    return ("number", to_decimal(value)) if is_number(value) else (type(value).__name__, value)


def expand_const(value: Any) -> dict[str, Any]:
    """A schema under which only this array or object is valid, in which its members are listed one by one."""
    if isinstance(value, list):
        items = [{"const": item} for item in value]
        return {"type": "array", **({"prefixItems": items} if items else {}), "items": False, "minItems": len(items)}
    properties = {key: {"const": item} for key, item in value.items()}
    return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}


def merge_string_keywords(parts: Iterable[LocatedSchema], unenforced: dict[str, None]) -> dict[str, Any]:
    """Lengths, patterns and formats; what can be said only once in a schema is said again in `allOf`.

    A format is an annotation if nothing that the patterns beside it match is of it: it is added to `unenforced`.
    """
    found: dict[str, Any] = {}
    patterns: list[str] = []
    formats: dict[str, dict[str, Any]] = {}
    for part in parts:
        _tighten(found, part.schema, "minLength", "maxLength")
        if "pattern" in part.schema:
            said = remove_lookahead(part.schema["pattern"])
            patterns += [translate_keyword_pattern(pattern, "pattern", part.path) for pattern in said]
        if keywords := format_keywords(part.schema):
            formats[part.schema["format"]] = keywords
    for name, keywords in formats.items():
        if patterns and not is_satisfiable((*patterns, keywords["pattern"])):
            unenforced[name] = None
            continue
        _tighten(found, keywords, "minLength", "maxLength")
        patterns.append(keywords["pattern"])
    again = [{"pattern": pattern} for pattern in dict.fromkeys(patterns)]
    if len(again) == 1:
        return found | again[0]
    return found | ({"allOf": again} if again else {})


def translate_keyword_pattern(pattern: str, keyword: str, path: str) -> str:
    """The pattern for llguidance; what is wrong with it is said of the keyword."""
    parts = remove_lookahead(pattern)
    try:
        return translate_pattern(parts[0] if len(parts) == 1 else pattern)
    except InvalidParameter as error:
        raise unenforceable_error(keyword, path, str(error).removesuffix(".")) from None


def _tighten(found: dict[str, Any], rule: dict[str, Any], least: str, most: str) -> None:
    if least in rule:
        found[least] = max(int(rule[least]), found.get(least, 0))
    if most in rule:
        found[most] = min(int(rule[most]), found.get(most, int(rule[most])))


def merge_array_keywords(merge: MergeFunction, parts: Sequence[LocatedSchema]) -> dict[str, Any] | None:
    """Counts, and for each place the schema of what may stand there; None: there is no such array."""
    found: dict[str, Any] = {}
    split = [_split_items(part) for part in parts]
    for part in parts:
        _tighten(found, part.schema, "minItems", "maxItems")
    num_first = max((len(first) for first, _ in split), default=0)
    if num_first:
        found["prefixItems"] = [
            merge(*(source for first, rest in split for source in first[index : index + 1] or rest))
            for index in range(num_first)
        ]
    rest = [source for _, sources in split for source in sources]
    if rest:
        found["items"] = merge(*rest)
    places = [*found.get("prefixItems", ()), found.get("items", {})]
    least = found.get("minItems", 0)
    if least > found.get("maxItems", least) or (False in places and places.index(False) < least):
        return None
    return found


def _split_items(part: LocatedSchema) -> tuple[list[LocatedSchema], list[LocatedSchema]]:
    """(the first items' schemas, that of all others if there is one)"""
    schema = part.schema
    if isinstance(schema.get("items"), list):
        first = [part.subschema("items", index) for index in range(len(schema["items"]))]
        return first, [part.subschema("additionalItems")] if "additionalItems" in schema else []
    first = [part.subschema("prefixItems", index) for index in range(len(schema.get("prefixItems", ())))]
    return first, [part.subschema("items")] if "items" in schema else []
