"""Whether a JSON object can be the arguments of a function that was called in a form which no grammar holds."""

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


def may_be_arguments(text: str, function: FunctionSpec) -> bool:
    """Tell whether this object is meant as arguments; of a strict function, whether they are certainly valid.

    A model that is asked for its tools may show a function's schema, which is no call. A strict function's schema that
    says more than is understood here makes no arguments valid: such calls are held only by a grammar.
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
    checks = {key: wanted for key, wanted in schema.items() if key not in _IGNORED}
    return all(key in _CHECKS and _CHECKS[key](value, wanted, schema, root, depth) for key, wanted in checks.items())


def _has_type(value: Any, names: Any, *_: Any) -> bool:
    return any(_is_of(value, name) for name in (names if isinstance(names, list) else [names]))


def _is_of(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES.get(name, ())) and (name != "integer" or value == int(value))


def _properties_are_valid(value: Any, wanted: Any, schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    return not isinstance(value, dict) or all(
        _is_valid(value[key], each, root, depth + 1) for key, each in wanted.items() if key in value
    )


def _others_are_valid(value: Any, wanted: Any, schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    others = value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ()
    return all(_is_valid(value[key], wanted, root, depth + 1) for key in others)


def _target(ref: str, root: Mapping[str, Any]) -> Any:
    where, _, name = ref.rpartition("/")
    return root.get(where[2:], {}).get(name, False) if where in ("#/$defs", "#/definitions") else False


_CHECKS: Mapping[str, Any] = {
    "type": _has_type,
    "properties": _properties_are_valid,
    "additionalProperties": _others_are_valid,
    "required": lambda value, keys, *_: not isinstance(value, dict) or value.keys() >= set(keys),
    "enum": lambda value, options, *_: any(type(value) is type(each) and value == each for each in options),
    "const": lambda value, wanted, *_: type(value) is type(wanted) and value == wanted,
    "items": lambda value, each, _, root, depth: (
        not isinstance(value, list) or all(_is_valid(item, each, root, depth + 1) for item in value)
    ),
    "anyOf": lambda value, options, _, root, depth: any(_is_valid(value, each, root, depth + 1) for each in options),
    "$ref": lambda value, ref, _, root, depth: _is_valid(value, _target(ref, root), root, depth + 1),
    "minimum": lambda value, least, *_: not _has_type(value, "number") or value >= least,
    "maximum": lambda value, most, *_: not _has_type(value, "number") or value <= most,
}
