"""Definitions of a merged schema under which no finite value is valid."""

from collections.abc import Collection, Mapping
from typing import Any

from jaxserve.errors import InvalidParameter


def no_valid_value() -> InvalidParameter:
    """Return the error for a schema under which nothing is valid."""
    return InvalidParameter("no JSON value is valid under the schema.")


def find_uninhabited(definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions under which no finite value is valid.

    An example is an object with a required property that must be an object of the same definition.

    definitions   name → merged schema, with `$ref`s of the form "#/$defs/name"
    """
    inhabited: set[str] = set()
    while True:
        new = {name for name in definitions.keys() - inhabited if _is_inhabited(definitions[name], inhabited)}
        if not new:
            return definitions.keys() - inhabited
        inhabited |= new


def _is_inhabited(schema: Any, inhabited: Collection[str]) -> bool:
    """Whether some finite value is valid, given the definitions that are known to be inhabited."""
    if schema is False:
        return False
    if "$ref" in schema:
        return schema["$ref"].removeprefix("#/$defs/") in inhabited
    if "anyOf" in schema:
        return any(_is_inhabited(option, inhabited) for option in schema["anyOf"])
    if "enum" in schema:
        return True
    types = schema.get("type", ["null"])
    return any(_has_value(name, schema, inhabited) for name in ([types] if isinstance(types, str) else types))


def _has_value(type_name: str, schema: Any, inhabited: Collection[str]) -> bool:
    """Whether some finite value of one type is valid."""
    if type_name == "object":
        properties = schema.get("properties", {})
        return all(_is_inhabited(properties[name], inhabited) for name in schema.get("required", ()))
    if type_name == "array":
        first = schema.get("prefixItems", [])[: schema.get("minItems", 0)]
        more = [schema.get("items", {})] if schema.get("minItems", 0) > len(first) else []
        return all(_is_inhabited(item, inhabited) for item in [*first, *more])
    return True
