"""Normalize tools as clients send them: some serializers write null for absent keywords."""

from collections.abc import Mapping, Sequence
from typing import Any

_ABSENT_IF_NULL = ("properties", "required")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("enum", "const", "default", "example", "examples")


def drop_null_keywords(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the tools with `required: null` and `properties: null` left out of their schemas, at every level."""
    return [_tool(tool) for tool in tools]


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("parameters"), Mapping):
        return tool
    return {**tool, "function": {**function, "parameters": _schema(function["parameters"])}}


def _schema(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return [_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {key: value for key, value in schema.items() if value is not None or key not in _ABSENT_IF_NULL}
    return {key: _value(key, value) for key, value in kept.items()}


def _value(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _NAMED_SCHEMAS and isinstance(value, Mapping):
        return {name: _schema(schema) for name, schema in value.items()}
    return _schema(value)
