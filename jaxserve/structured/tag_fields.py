"""Fields of the objects that a structural tag is made of; an InvalidParameter names the one that is wrong."""

from typing import Any

from jaxserve.errors import InvalidParameter

_MISSING: Any = object()


def get_field(format: dict[str, Any], key: str, kind: type, default: Any = _MISSING) -> Any:
    """A field of this type."""
    value = format.get(key, default)
    if isinstance(value, kind) and (kind is not int or not isinstance(value, bool)):
        return value
    raise InvalidParameter(f"{key!r} in the structural tag must be of type {kind.__name__}.")


def get_nonempty_list(format: dict[str, Any], key: str) -> list[Any]:
    """A list that is not empty."""
    value = format.get(key)
    if isinstance(value, list) and value:
        return value
    raise InvalidParameter(f"{key!r} in the structural tag must be a list that is not empty.")


def get_string_list(format: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of strings that is not empty."""
    if all(isinstance(text, str) for text in get_nonempty_list(format, key)):
        return tuple(format[key])
    raise InvalidParameter(f"{key!r} in the structural tag must be a list of strings.")


def reject_field(format: dict[str, Any], key: str, neutral: Any) -> None:
    """A field that is not supported may stand where it says nothing."""
    if format.get(key, neutral) != neutral:
        raise InvalidParameter(f"{key!r} of the structural tag format {format['type']!r} is not supported here.")
