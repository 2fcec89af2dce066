"""Whether a merged schema lets every value come to an end, however it refers to itself."""

from collections.abc import Collection, Mapping
from typing import Any


def find_uninhabited(definitions: Mapping[str, Any]) -> set[str]:
    """Definitions under which no value is finite, as where an object must hold another of its kind."""
    ending: set[str] = set()
    while True:
        found = {name for name, schema in definitions.items() if name not in ending and _ends(schema, ending)}
        if not found:
            return definitions.keys() - ending
        ending |= found


def _ends(schema: Any, ending: Collection[str]) -> bool:
    """Whether some value is finite, given the definitions under which one is."""
    if schema is False:
        return False
    if "$ref" in schema:
        return schema["$ref"].removeprefix("#/$defs/") in ending
    if "anyOf" in schema:
        return any(_ends(option, ending) for option in schema["anyOf"])
    if "enum" in schema:
        return True
    types = schema.get("type", ["null"])
    return any(_type_ends(name, schema, ending) for name in ([types] if isinstance(types, str) else types))


def _type_ends(name: str, schema: Any, ending: Collection[str]) -> bool:
    if name == "object":
        properties = schema.get("properties", {})
        return all(_ends(properties[required], ending) for required in schema.get("required", ()))
    if name == "array":
        first = schema.get("prefixItems", [])[: schema.get("minItems", 0)]
        more = [schema.get("items", {})] if schema.get("minItems", 0) > len(first) else []
        return all(_ends(item, ending) for item in [*first, *more])
    return True
