"""A value whose text stands in no quotes: what it may be, and what a text of it says."""

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
_OF_STRINGS = ("minLength", "maxLength", "pattern", "format", "allOf")
_MAX_EXPONENT = 400  # beyond the range of a double
_BRACKETS = {"{": ("object", dict), "[": ("array", list)}


@dataclass(frozen=True, slots=True)
class ParameterType:
    """One of these.

    listed    (texts, the schema that lists them)
    strings   schemas of strings that are not listed
    others    schemas of what is no string, each with a type or an enum; what is read has to be valid under one

    No schema here is a `$ref` or has options.
    """

    listed: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...] = ()
    strings: tuple[Mapping[str, Any], ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_options(cls, options: Iterable[Mapping[str, Any]]) -> "ParameterType":
        """Of schemas of which one holds."""
        listed, strings, others = [], [], []
        for option in options:
            types = types_of(option)
            kept = {key: option[key] for key in option if key not in _OF_STRINGS}
            if "enum" in option:
                if texts := tuple(each for each in listed_values(option) if isinstance(each, str)):
                    listed.append((texts, option))
                if rest := [each for each in listed_values(option) if not isinstance(each, str)]:
                    others.append({**kept, "enum": rest})
                continue
            if "string" in types:
                strings.append(option)
            if rest := [name for name in types if name != "string"]:
                others.append({**kept, "type": rest})
        return cls(tuple(listed), tuple(strings), tuple(others))

    @classmethod
    def from_types(cls, values: Iterable["ParameterType"]) -> "ParameterType":
        """What is of a type that one of these values has; any string if one may be a string."""
        values = list(values)
        types = sorted({name for value in values for name in value.types})
        has_strings = any(value.can_be_string for value in values)
        return cls(strings=({"type": "string"},) * has_strings, others=({"type": types},) if types else ())

    @property
    def can_be_string(self) -> bool:
        return bool(self.listed or self.strings)

    @property
    def is_always_string(self) -> bool:
        """Whether every text is a string, as it stands."""
        return self.can_be_string and not self.others

    @property
    def types(self) -> frozenset[str]:
        """The types that it may have, string left out."""
        return frozenset(name for option in self.others for name in _own_types(option))

    def parse(self, text: str) -> str:
        """JSON of what a text says; of the text itself as a string where it says nothing else that is allowed."""
        if any(text in texts for texts, _ in self.listed):
            return _dumped(text)
        found = _scalar(text.strip(BLANKS), self.others) or self._container(text)
        if found is None and not self.strings:  # no grammar lets such a text through, but a model may write it
            found = _scalar(text.strip(BLANKS), [{"type": [*sorted(self.types), "null"]}])
        return _dumped(text) if found is None else found

    def _container(self, text: str) -> str | None:
        text = text.strip(BLANKS)
        name, kind = _BRACKETS.get(text[:1], ("", None))
        if kind is None or name not in self.types:
            return None
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return _rewritten(value, text) if isinstance(value, kind) else None


STRING_TYPE = ParameterType(strings=({"type": "string"},))
NON_STRING_TYPE = ParameterType(others=({"type": [name for name in TYPES if name != "string"]},))


def types_of(option: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that a plain schema allows."""
    said = option.get("type", TYPES)
    return (said,) if isinstance(said, str) else tuple(said)


def listed_values(option: Mapping[str, Any]) -> list[Any]:
    """The values of an `enum` that are of a type which the schema allows."""
    types = {*types_of(option)} | ({"integer"} if "number" in types_of(option) else set())
    return [value for value in option["enum"] if _type_name(value) in types]


def is_allowed(option: Mapping[str, Any], value: Decimal | bool | None) -> bool:
    """Whether a plain schema allows a number, a boolean or null."""
    if "enum" in option:
        return any(_equal(value, each) for each in option["enum"])
    types = types_of(option)
    if isinstance(value, Decimal):
        is_whole = value == value.to_integral_value()
        return ("number" in types or ("integer" in types and is_whole)) and _is_within(value, option)
    return ("null" if value is None else "boolean") in types


def _own_types(option: Mapping[str, Any]) -> Iterable[str]:
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


def _equal(value: Decimal | bool | None, listed: Any) -> bool:
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


def _scalar(text: str, options: Iterable[Mapping[str, Any]]) -> str | None:
    """JSON of the null, boolean or number that a text says, if one of the schemas allows it; whole numbers without a
    fraction where integers are asked for."""
    word = text.lower()
    if word in WORDS:
        return word if any(is_allowed(option, WORDS[word]) for option in options) else None
    if not NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    allowing = [option for option in options if is_allowed(option, number)]
    if not allowing:
        return None
    wants_integer = any("integer" in _own_types(option) for option in allowing)
    if wants_integer and number == number.to_integral_value() and number.adjusted() <= _MAX_EXPONENT:
        return f"{number.to_integral_value():f}"
    return text


def _rewritten(value: Any, text: str) -> str:
    """The value as this project writes JSON; as it stands where it has a number beyond the range of a double."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return text


def _dumped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
