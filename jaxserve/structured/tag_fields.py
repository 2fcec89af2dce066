"""Access to the fields of the objects that a structural tag consists of. Errors name the field."""

from typing import Any

from jaxserve.errors import InvalidParameter

_MISSING: Any = object()


def get_field(format: dict[str, Any], key: str, kind: type, default: Any = _MISSING) -> Any:
    """Return a field.

    Raises InvalidParameter if it is missing and has no default, or is of another type.
    """
    value = format.get(key, default)
    if isinstance(value, kind) and (kind is not int or not isinstance(value, bool)):
        return value
    raise InvalidParameter(f"{key!r} in the structural tag must be of type {kind.__name__}.")


def get_nonempty_list(format: dict[str, Any], key: str) -> list[Any]:
    """Return a field that is a list with at least one item.

    Raises InvalidParameter if it is anything else.
    """
    value = format.get(key)
    if isinstance(value, list) and value:
        return value
    raise InvalidParameter(f"{key!r} in the structural tag must be a list that is not empty.")


def get_string_list(format: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return a field that is a list of strings with at least one item.

    Raises InvalidParameter if it is anything else.
    """
    if all(isinstance(text, str) for text in get_nonempty_list(format, key)):
        return tuple(format[key])
    raise InvalidParameter(f"{key!r} in the structural tag must be a list of strings.")


def reject_field(format: dict[str, Any], key: str, neutral: Any) -> None:
    """Check that a field which is not supported is absent or has a value without effect.

    Raises InvalidParameter if it has another value.
    """
    if format.get(key, neutral) != neutral:
        raise InvalidParameter(f"{key!r} of the structural tag format {format['type']!r} is not supported here.")
