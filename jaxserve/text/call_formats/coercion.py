"""Untyped text from tags → the value that a parameter's schema asks for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxserve.text.json_tape import parsed
from jaxserve.text.markers import Malformed

_ORDER = ("null", "integer", "number", "boolean", "object", "array", "string")
_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def types_of(schema: Any, root: Mapping[str, Any]) -> tuple[str, ...]:
    """The JSON types that a schema allows, in the order in which they are tried. Nothing said means string.

    root   the schema that holds this one, for its $defs
    """
    found: set[str] = set()
    waiting, seen = [schema], set()
    while waiting:  # each part is looked at once, so neither loops nor many references take long
        part = waiting.pop()
        if isinstance(part, Mapping) and id(part) not in seen:
            seen.add(id(part))
            found.update(_own_types(part))
            waiting += [option for key in ("anyOf", "oneOf", "allOf") for option in _list(part.get(key))]
            if isinstance(part.get("$ref"), str):
                waiting.append(_target(part["$ref"], root))
    return tuple(name for name in _ORDER if name in found) or ("string",)


def _own_types(schema: Mapping[str, Any]) -> Iterator[str]:
    declared = schema.get("type")
    yield from (name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str))
    for value in [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]:
        yield _TYPE_OF.get(type(value), "null")
    if declared is None and "properties" in schema:
        yield "object"
    if declared is None and "items" in schema:
        yield "array"
    if schema.get("nullable") is True:
        yield "null"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _target(ref: str, root: Mapping[str, Any]) -> Any:
    """What a reference to a place in `root` points at; None when there is nothing."""
    if not ref.startswith("#"):
        return None
    place: Any = root
    for step in filter(None, ref[1:].split("/")):
        place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    return place


def coerced(text: str, types: tuple[str, ...]) -> Any:
    """The value of `text` as the first of `types` that it can be; the text itself when it can be none."""
    for name in types:
        try:
            return _READ[name](text)
        except (ValueError, KeyError, Malformed):
            continue
    return text


def _integer(text: str) -> int:
    """Whole numbers count, however they are written."""
    number = _number(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def _number(text: str) -> int | float:
    value = parsed(text.strip())
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) == float("inf"):
        raise ValueError(text)
    return value


def _json(text: str, kind: type) -> Any:
    value = parsed(text)
    if not isinstance(value, kind):
        raise ValueError(text)
    return value


_READ: dict[str, Callable[[str], Any]] = {
    "null": lambda text: {"null": None}[text.strip().lower()],
    "integer": _integer,
    "number": _number,
    "boolean": lambda text: {"true": True, "false": False}[text.strip().lower()],
    "object": lambda text: _json(text, dict),
    "array": lambda text: _json(text, list),
    "string": lambda text: text,
}
