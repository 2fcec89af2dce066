"""Plain keywords of several schemas that must all be valid, merged: types, enums, strings and arrays."""

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
    """Return the types that all schemas allow; None: any type."""
    allowed: list[str] | None = None
    for part in parts:
        if "type" in part.schema:
            value = part.schema["type"]
            types = list(dict.fromkeys([value] if isinstance(value, str) else value))
            allowed = types if allowed is None else _intersect_types(allowed, types)
    if allowed is not None and "number" in allowed and "integer" in allowed:
        allowed.remove("integer")
    return allowed


def _intersect_types(first: list[str], second: list[str]) -> list[str]:
    both = [name for name in first if name in second]
    if "number" not in both and {"number", "integer"} <= {*first, *second}:
        return both if "integer" in both else [*both, "integer"]
    return both


def merge_enums(parts: Iterable[LocatedSchema]) -> list[Any] | None:
    """Return the values that `enum` and `const` of all schemas allow; None: any value.

    Numbers are as `to_listed_number` returns them. Raises InvalidParameter if one of them cannot be kept exactly.
    """
    allowed: dict[Any, Any] | None = None
    for part in parts:
        for keyword in ("const", "enum"):
            if keyword in part.schema:
                listed = part.schema["enum"] if keyword == "enum" else [part.schema["const"]]
                values = [_convert_numbers(value, keyword, part.path) for value in listed]
                by_key = {_equality_key(value): value for value in values}
                allowed = by_key if allowed is None else {key: allowed[key] for key in allowed if key in by_key}
    return None if allowed is None else list(allowed.values())


def _convert_numbers(value: Any, keyword: str, path: str) -> Any:
    """Return a listed value with all its numbers converted by `to_listed_number`."""
    if isinstance(value, dict):
        return {key: _convert_numbers(item, keyword, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_convert_numbers(item, keyword, path) for item in value]
    return to_listed_number(value, keyword, path) if is_number(value) else value


def _equality_key(value: Any) -> Any:
    """Return a key that is equal for equal JSON values, such as 1 and 1.0."""
    if isinstance(value, dict):
        return "object", frozenset((key, _equality_key(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", *map(_equality_key, value)
    return ("number", to_decimal(value)) if is_number(value) else (type(value).__name__, value)


def expand_const(value: Any) -> dict[str, Any]:
    """Return a schema under which only this array or object is valid, with a schema of its own for each member."""
    if isinstance(value, list):
        items = [{"const": item} for item in value]
        return {"type": "array", **({"prefixItems": items} if items else {}), "items": False, "minItems": len(items)}
    properties = {key: {"const": item} for key, item in value.items()}
    return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}


def merge_string_keywords(parts: Iterable[LocatedSchema], unenforced: dict[str, None]) -> dict[str, Any]:
    """Merge lengths, patterns and formats. Several patterns become an `allOf`.

    unenforced   gets the formats added that no text has which the patterns match: such a format is an annotation

    Raises InvalidParameter if a pattern cannot be enforced.
    """
    merged: dict[str, Any] = {}
    patterns: list[str] = []
    formats: dict[str, dict[str, Any]] = {}
    for part in parts:
        _tighten(merged, part.schema, "minLength", "maxLength")
        if "pattern" in part.schema:
            part_patterns = remove_lookahead(part.schema["pattern"])
            patterns += [translate_keyword_pattern(pattern, "pattern", part.path) for pattern in part_patterns]
        if keywords := format_keywords(part.schema):
            formats[part.schema["format"]] = keywords
    for name, keywords in formats.items():
        if patterns and not is_satisfiable((*patterns, keywords["pattern"])):
            unenforced[name] = None
            continue
        _tighten(merged, keywords, "minLength", "maxLength")
        patterns.append(keywords["pattern"])
    rules = [{"pattern": pattern} for pattern in dict.fromkeys(patterns)]
    if len(rules) == 1:
        return merged | rules[0]
    return merged | ({"allOf": rules} if rules else {})


def translate_keyword_pattern(pattern: str, keyword: str, path: str) -> str:
    """Translate a pattern of a schema for llguidance.

    keyword, path   where it stands

    Raises InvalidParameter, which names them, if the pattern cannot be enforced.
    """
    parts = remove_lookahead(pattern)
    try:
        return translate_pattern(parts[0] if len(parts) == 1 else pattern)
    except InvalidParameter as error:
        raise unenforceable_error(keyword, path, str(error).removesuffix(".")) from None


def _tighten(merged: dict[str, Any], schema: dict[str, Any], least: str, most: str) -> None:
    """Raise the lower limit and lower the upper one in `merged` to those of a schema. least, most: their keywords."""
    if least in schema:
        merged[least] = max(int(schema[least]), merged.get(least, 0))
    if most in schema:
        merged[most] = min(int(schema[most]), merged.get(most, int(schema[most])))


def merge_array_keywords(merge: MergeFunction, parts: Sequence[LocatedSchema]) -> dict[str, Any] | None:
    """Merge the numbers of items, and for each index the schemas of the item there. None: no array is valid.

    Raises InvalidParameter like `merge`.
    """
    merged: dict[str, Any] = {}
    item_schemas = [_split_items(part) for part in parts]
    for part in parts:
        _tighten(merged, part.schema, "minItems", "maxItems")
    num_first = max((len(first) for first, _ in item_schemas), default=0)
    if num_first:
        merged["prefixItems"] = [
            merge(*(source for first, rest in item_schemas for source in first[index : index + 1] or rest))
            for index in range(num_first)
        ]
    rest = [source for _, sources in item_schemas for source in sources]
    if rest:
        merged["items"] = merge(*rest)
    items = [*merged.get("prefixItems", ()), merged.get("items", {})]
    least = merged.get("minItems", 0)
    if least > merged.get("maxItems", least) or (False in items and items.index(False) < least):
        return None
    return merged


def _split_items(part: LocatedSchema) -> tuple[list[LocatedSchema], list[LocatedSchema]]:
    """Return (the schemas of the first items, the schema of all others if there is one)."""
    schema = part.schema
    if isinstance(schema.get("items"), list):
        first = [part.subschema("items", index) for index in range(len(schema["items"]))]
        return first, [part.subschema("additionalItems")] if "additionalItems" in schema else []
    first = [part.subschema("prefixItems", index) for index in range(len(schema.get("prefixItems", ())))]
    return first, [part.subschema("items")] if "items" in schema else []
