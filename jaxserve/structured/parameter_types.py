"""The type of a parameter whose value is written without quotes, and how the text of a value is parsed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

BLANKS = " \t\r\n"
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,15})?")
WORDS = {"null": None, "true": True, "false": False}
TYPES = ("null", "boolean", "number", "string", "array", "object")
_STRING_KEYWORDS = ("minLength", "maxLength", "pattern", "format", "allOf")
_MAX_EXPONENT = 400  # beyond the range of a double
_BRACKETS = {"{": ("object", dict), "[": ("array", list)}


@dataclass(frozen=True, slots=True)
class ParameterType:
    """The values that a parameter may have, as plain schemas: without `$ref` and `anyOf`.

    listed    (strings of an enum, the schema that lists them)
    strings   schemas of strings that are not listed
    others    schemas of other types, each with `type` or `enum`; a value that is parsed is valid under one of them
    """

    listed: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...] = ()
    strings: tuple[Mapping[str, Any], ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_options(cls, options: Iterable[Mapping[str, Any]]) -> "ParameterType":
        """Make the type of values that are valid under one of some plain schemas."""
        listed, strings, others = [], [], []
        for option in options:
            types = types_of(option)
            keywords = {key: option[key] for key in option if key not in _STRING_KEYWORDS}
            if "enum" in option:
                if texts := tuple(value for value in listed_values(option) if isinstance(value, str)):
                    listed.append((texts, option))
                if rest := [value for value in listed_values(option) if not isinstance(value, str)]:
                    others.append({**keywords, "enum": rest})
                continue
            if "string" in types:
                strings.append(option)
            if rest := [name for name in types if name != "string"]:
                others.append({**keywords, "type": rest})
        return cls(tuple(listed), tuple(strings), tuple(others))

    @classmethod
    def from_types(cls, types: Iterable["ParameterType"]) -> "ParameterType":
        """Make the union of some types: any value of the JSON types that one of them has."""
        types = list(types)
        names = sorted({name for member in types for name in member.types})
        has_strings = any(member.can_be_string for member in types)
        return cls(strings=({"type": "string"},) * has_strings, others=({"type": names},) if names else ())

    @property
    def can_be_string(self) -> bool:
        """Whether some string is valid."""
        return bool(self.listed or self.strings)

    @property
    def is_always_string(self) -> bool:
        """Whether every text is parsed as a string."""
        return self.can_be_string and not self.others

    @property
    def types(self) -> frozenset[str]:
        """The JSON types of its values, except string."""
        return frozenset(name for option in self.others for name in _get_types(option))

    def parse(self, text: str) -> str:
        """Parse the text of a value and return it as JSON text.

        Listed strings come first, then null, booleans, numbers, objects and arrays that are valid. Any other text is a
        string.
        """
        if any(text in texts for texts, _ in self.listed):
            return _dump(text)
        value = _parse_scalar(text.strip(BLANKS), self.others) or self._parse_container(text)
        if value is None and not self.strings:  # no grammar allows such a text, but an unconstrained model may write it
            value = _parse_scalar(text.strip(BLANKS), [{"type": [*sorted(self.types), "null"]}])
        return _dump(text) if value is None else value

    def _parse_container(self, text: str) -> str | None:
        text = text.strip(BLANKS)
        name, kind = _BRACKETS.get(text[:1], ("", None))
        if kind is None or name not in self.types:
            return None
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None
        return _normalize(value, text) if isinstance(value, kind) else None


STRING_TYPE = ParameterType(strings=({"type": "string"},))
NON_STRING_TYPE = ParameterType(others=({"type": [name for name in TYPES if name != "string"]},))


def types_of(option: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the types that a plain schema allows."""
    value = option.get("type", TYPES)
    return (value,) if isinstance(value, str) else tuple(value)


def listed_values(option: Mapping[str, Any]) -> list[Any]:
    """Return the values of a plain schema's `enum` that are of a type which it allows."""
    types = {*types_of(option)} | ({"integer"} if "number" in types_of(option) else set())
    return [value for value in option["enum"] if _type_name(value) in types]


def is_allowed(option: Mapping[str, Any], value: Decimal | bool | None) -> bool:
    """Whether a number, a boolean or null is valid under a plain schema."""
    if "enum" in option:
        return any(_is_equal(value, listed) for listed in option["enum"])
    types = types_of(option)
    if isinstance(value, Decimal):
        is_whole = value == value.to_integral_value()
        return ("number" in types or ("integer" in types and is_whole)) and _is_within(value, option)
    return ("null" if value is None else "boolean") in types


def _get_types(option: Mapping[str, Any]) -> Iterable[str]:
    if "enum" not in option:
        return types_of(option)
    return {_type_name(value) for value in option["enum"]}


def _type_name(value: Any) -> str:
    if isinstance(value, float | Decimal) and value == int(value):
        return "integer"
    names = (
        (bool, "boolean"),
        (int, "integer"),
        (str, "string"),
        (dict, "object"),
        (list, "array"),
        (type(None), "null"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "number")


def _is_equal(value: Decimal | bool | None, listed: Any) -> bool:
    if isinstance(value, Decimal):
        return isinstance(listed, int | float | Decimal) and not isinstance(listed, bool) and _exact(listed) == value
    return value is listed


def _is_within(value: Decimal, option: Mapping[str, Any]) -> bool:
    bounds = {key: _exact(option[key]) for key in option if key.lower().endswith(("minimum", "maximum"))}
    return (
        bounds.get("minimum", value) <= value <= bounds.get("maximum", value)
        and not ("exclusiveMinimum" in bounds and value <= bounds["exclusiveMinimum"])
        and not ("exclusiveMaximum" in bounds and value >= bounds["exclusiveMaximum"])
    )


def _exact(number: float | Decimal) -> Decimal:
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def _parse_scalar(text: str, options: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the null, boolean or number that a text is, as JSON text, if one of the schemas allows it.

    Integers are written without a fraction if an allowing schema asks for integers.
    """
    word = text.lower()
    if word in WORDS:
        return word if any(is_allowed(option, WORDS[word]) for option in options) else None
    if not NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    allowing = [option for option in options if is_allowed(option, number)]
    if not allowing:
        return None
    wants_integer = any("integer" in _get_types(option) for option in allowing)
    if wants_integer and number == number.to_integral_value() and number.adjusted() <= _MAX_EXPONENT:
        return f"{number.to_integral_value():f}"
    return text


def _normalize(value: Any, text: str) -> str:
    """Write a parsed value as JSON again; unchanged if it has a number beyond the range of a double."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return text


def _dump(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
