"""Check whether a JSON object can be the arguments of an unmarked call, which no grammar constrains."""

from collections.abc import Mapping
from typing import Any

from jaxserve.text.call_formats.format import FunctionSpec
from jaxserve.text.incremental_json import parse_json

_IGNORED = {"title", "description", "default", "examples", "$defs", "definitions", "$schema", "$comment", "deprecated"}
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": (int, float),
    "number": (int, float),
}
_MAX_DEPTH = 64


def accepts_arguments(text: str, function: FunctionSpec) -> bool:
    """Return whether a JSON object is meant as arguments; of a strict function, whether they are certainly valid.

    A model that is asked for its tools may show a function's schema, which is no call. No arguments are valid for a
    strict function whose schema has keywords that are not checked here: such calls are enforced only by a grammar.
    """
    value = parse_json(text)
    properties = function.parameters.get("properties")
    declared = properties if isinstance(properties, Mapping) else {}
    if value.get("type") == "object" and isinstance(value.get("properties"), dict) and "properties" not in declared:
        return False
    return not function.is_strict or _is_valid(value, function.parameters, function.parameters, 0)


def _is_valid(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    if isinstance(schema, bool) or depth > _MAX_DEPTH:
        return schema is True
    keywords = {key: operand for key, operand in schema.items() if key not in _IGNORED}
    return all(
        key in _CHECKS and _CHECKS[key](value, operand, schema, root, depth) for key, operand in keywords.items()
    )


def _has_type(value: Any, names: Any, *_: Any) -> bool:
    return any(_is_instance(value, name) for name in (names if isinstance(names, list) else [names]))


def _is_instance(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES.get(name, ())) and (name != "integer" or value == int(value))


def _properties_are_valid(value: Any, properties: Any, schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    return not isinstance(value, dict) or all(
        _is_valid(value[key], subschema, root, depth + 1) for key, subschema in properties.items() if key in value
    )


def _others_are_valid(value: Any, subschema: Any, schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    others = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ()
    return all(_is_valid(value[key], subschema, root, depth + 1) for key in others)


def _target(ref: str, root: Mapping[str, Any]) -> Any:
    parent, _, name = ref.rpartition("/")
    return root.get(parent[2:], {}).get(name, False) if parent in ("#/$defs", "#/definitions") else False


_CHECKS: Mapping[str, Any] = {
    "type": _has_type,
    "properties": _properties_are_valid,
    "additionalProperties": _others_are_valid,
    "required": lambda value, keys, *_: not isinstance(value, dict) or value.keys() >= set(keys),
    "enum": lambda value, options, *_: any(type(value) is type(option) and value == option for option in options),
    "const": lambda value, const, *_: type(value) is type(const) and value == const,
    "items": lambda value, subschema, _, root, depth: (
        not isinstance(value, list) or all(_is_valid(item, subschema, root, depth + 1) for item in value)
    ),
    "anyOf": lambda value, options, _, root, depth: any(
        _is_valid(value, option, root, depth + 1) for option in options
    ),
    "$ref": lambda value, ref, _, root, depth: _is_valid(value, _target(ref, root), root, depth + 1),
    "minimum": lambda value, minimum, *_: not _has_type(value, "number") or value >= minimum,
    "maximum": lambda value, maximum, *_: not _has_type(value, "number") or value <= maximum,
}
