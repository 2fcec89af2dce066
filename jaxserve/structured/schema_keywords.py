"""The keywords of JSON Schema: the values that each may have, and which of them cannot be enforced.

Drafts 4 to 2020-12 are read alike: `items` may be a list with `additionalItems`, `exclusiveMinimum` a boolean. All
other keys are annotations, as in JSON Schema 2020-12, and are ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxserve.errors import InvalidParameter

JSON_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
DRAFTS_WHERE_REF_STANDS_ALONE = ("draft-03/", "draft-04/", "draft-06/", "draft-07/")


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_schema_or_schemas(value: Any) -> bool:
    return _is_schema(value) or (isinstance(value, list) and all(map(_is_schema, value)))


def _is_named_schemas(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_bool(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer() and type(value) is float)
    return is_whole and not isinstance(value, bool) and value >= 0


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _is_types(value: Any) -> bool:
    if isinstance(value, str):
        return value in JSON_TYPES
    return _is_strings(value) and bool(value) and set(value) <= set(JSON_TYPES)


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_anything(value: Any) -> bool:
    return True


# keyword → (whether a value is allowed, the allowed values in words)
ENFORCED_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "$ref": (_is_string, "a string"),
    "$defs": (_is_named_schemas, "an object of schemas"),
    "definitions": (_is_named_schemas, "an object of schemas"),
    "allOf": (_is_schemas, "a list of schemas"),
    "anyOf": (_is_schemas, "a list of schemas"),
    "oneOf": (_is_schemas, "a list of schemas"),
    "type": (_is_types, f"one of {', '.join(JSON_TYPES)}, or a list of them"),
    "enum": (_is_filled_list, "a list that is not empty"),
    "const": (_is_anything, "any value"),
    "properties": (_is_named_schemas, "an object of schemas"),
    "required": (_is_strings, "a list of strings"),
    "additionalProperties": (_is_schema, "a schema"),
    "patternProperties": (_is_named_schemas, "an object of schemas"),
    "propertyNames": (_is_schema, "a schema"),
    "minProperties": (_is_count, "a whole number"),
    "maxProperties": (_is_count, "a whole number"),
    "items": (_is_schema_or_schemas, "a schema, or a list of them"),
    "additionalItems": (_is_schema, "a schema"),
    "prefixItems": (_is_schemas, "a list of schemas"),
    "minItems": (_is_count, "a whole number"),
    "maxItems": (_is_count, "a whole number"),
    "minLength": (_is_count, "a whole number"),
    "maxLength": (_is_count, "a whole number"),
    "pattern": (_is_string, "a string"),
    "format": (_is_string, "a string"),
    "minimum": (_is_number, "a number"),
    "maximum": (_is_number, "a number"),
    "exclusiveMinimum": (_is_number_or_bool, "a number"),
    "exclusiveMaximum": (_is_number_or_bool, "a number"),
}

MAX_CHOICES = 20_000  # of an enum, and texts of a `choice`
# Far above what an output can hold, and far below what would take long to compile.
MAX_COUNTS = {
    **dict.fromkeys(("minLength", "maxLength"), 1_000_000),
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties"), 100_000),
}

# A keyword that cannot be enforced is accepted where its value makes it void, such as `uniqueItems: false`:
# keyword → whether its (value, schema) are of that kind.
HAS_NO_EFFECT: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "not": lambda value, schema: isinstance(value, bool) or value == {},  # false allows all, true and {} nothing
    "if": lambda value, schema: "then" not in schema and "else" not in schema,
    "then": lambda value, schema: "if" not in schema,
    "else": lambda value, schema: "if" not in schema,
    "uniqueItems": lambda value, schema: value is False or schema.get("maxItems", 2) <= 1,
    "contains": lambda value, schema: False,
    "minContains": lambda value, schema: "contains" not in schema,
    "maxContains": lambda value, schema: "contains" not in schema,
    "dependentRequired": lambda value, schema: value == {},
    "dependentSchemas": lambda value, schema: value == {},
    "dependencies": lambda value, schema: value == {},
    "unevaluatedItems": lambda value, schema: value in (True, {}),
    "unevaluatedProperties": lambda value, schema: value in (True, {}),
    "$dynamicRef": lambda value, schema: False,
    "$recursiveRef": lambda value, schema: False,
    "multipleOf": lambda value, schema: False,
    "divisibleBy": lambda value, schema: False,
    "disallow": lambda value, schema: value == [],
    "extends": lambda value, schema: value in ({}, []),
}


_TYPE_KEYWORDS = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const", "properties", "additionalProperties")


def keep_type_keywords(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that determine the types of values, without those that have a value which is not allowed."""
    keywords = {key: schema[key] for key in _TYPE_KEYWORDS if key in schema and ENFORCED_KEYWORDS[key][0](schema[key])}
    if isinstance(schema.get("properties"), dict):
        keywords["properties"] = {name: value for name, value in schema["properties"].items() if _is_schema(value)}
    value = schema.get("type")
    types = [name for name in (value if isinstance(value, list) else [value]) if name in JSON_TYPES]
    if not types and not keywords.keys() - {"properties", "additionalProperties"} and (inferred := infer_type(schema)):
        types = [inferred]
    return keywords | ({"type": types} if types else {})


_KEYWORDS_OF_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format", "allOf"),
    "object": ("properties", "patternProperties", "additionalProperties", "required", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def infer_type(schema: Mapping[str, Any]) -> str | None:
    """Return the type that the keywords of a schema without `type` apply to, if they apply to one."""
    return next((name for name, keys in _KEYWORDS_OF_TYPE.items() if any(key in schema for key in keys)), None)


def check_keywords(schema: dict[str, Any], path: str) -> None:
    """Check all keywords of a schema, but not those of the schemas inside it.

    path   where it stands in its document

    Raises InvalidParameter if a keyword has a value that is not allowed, or cannot be enforced.
    """
    for keyword, value in schema.items():
        if keyword in ENFORCED_KEYWORDS:
            is_allowed, expected = ENFORCED_KEYWORDS[keyword]
            if not is_allowed(value):
                raise InvalidParameter(f"{keyword!r} at {path} must be {expected}.")
            if keyword in MAX_COUNTS and value > MAX_COUNTS[keyword]:
                raise unenforceable_error(keyword, path, f"{str(value)[:30]} is more than {MAX_COUNTS[keyword]}")
            if keyword == "enum" and len(value) > MAX_CHOICES:
                raise unenforceable_error(keyword, path, f"it has {len(value)} values, more than {MAX_CHOICES}")
        elif keyword in HAS_NO_EFFECT and not HAS_NO_EFFECT[keyword](value, schema):
            raise unenforceable_error(keyword, path)


def unenforceable_error(keyword: str, path: str, why: str = "") -> InvalidParameter:
    """Make the error for a keyword that cannot be enforced, with the path of its schema and the reason."""
    return InvalidParameter(f"the JSON schema keyword {keyword!r} at {path} cannot be enforced{why and f': {why}'}.")
