"""Numeric parameters: the range that each declares beside its default, and conversion to the declared type."""

import math
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any

from jaxserve.errors import InvalidParameter

_RANGE = "range"
_TYPES = {int: (int, False), float: (float, False), bool: (bool, False), int | None: (int, True)}
_TYPE_TEXTS = {int: "a whole number", float: "a number", bool: "True or False"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRange:
    """The values that a numeric parameter may have. Infinite numbers and NaN are never among them.

    minimum   The least value; None: there is none.
    above     Every value is greater than this; None: see minimum.
    maximum   The greatest value; None: there is none.
    allowed   The range in words, for the error text; "" derives it from the bounds.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    allowed: str = ""

    def check(self, name: str, value: float) -> None:
        """Check a value. Raises InvalidParameter, which names the parameter, if it is out of range."""
        is_valid = (
            (not isinstance(value, float) or math.isfinite(value))
            and (self.minimum is None or self.minimum <= value)
            and (self.above is None or self.above < value)
            and (self.maximum is None or value <= self.maximum)
        )
        require(is_valid, name, self.allowed or self._describe(), value)

    def _describe(self) -> str:
        if self.maximum is None:
            return f"at least {self.minimum}" if self.above is None else f"above {self.above}"
        return f"in [{self.minimum}, {self.maximum}]" if self.above is None else f"in ({self.above}, {self.maximum}]"


@dataclass(frozen=True, slots=True)
class NumericParameter:
    """A field of a dataclass that holds a number or a bool.

    name          Its name.
    default       Its default, which is valid.
    number_type   int, float or bool.
    is_optional   It may be None.
    range         The values that it may have; None: any.
    """

    name: str
    default: Any
    number_type: type
    is_optional: bool
    range: ParameterRange | None

    def read(self, value: Any) -> int | float | bool | None:
        """Convert a number, which may be numpy's, to the declared type, and check its range.

        Raises InvalidParameter if it is no such number or out of range.
        """
        if value is None and self.is_optional:
            return None
        number: Any = value if type(value) is self.number_type else self._convert(value)
        if self.range is not None:
            self.range.check(self.name, number)
        return number

    def _convert(self, value: Any) -> Any:
        try:
            if self.number_type is bool and value in (0, 1):
                return bool(value)
            if self.number_type is int:
                return index(value)
            if self.number_type is float and not isinstance(value, str | bytes | bool):
                return float(value)
        except (TypeError, ValueError):
            pass
        raise InvalidParameter(f"{self.name} must be {_TYPE_TEXTS[self.number_type]}, got {value!r}.", self.name)


def number(
    default: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    allowed: str = "",
) -> Any:
    """Declare a dataclass field with a range; see ParameterRange."""
    return field(
        default=default,
        metadata={_RANGE: ParameterRange(minimum=minimum, above=above, maximum=maximum, allowed=allowed)},
    )


def list_numeric_parameters(cls: type) -> tuple[NumericParameter, ...]:
    """List the fields of a dataclass that are annotated as a number, as a bool, or as an optional integer."""
    return tuple(
        NumericParameter(parameter.name, parameter.default, *_TYPES[parameter.type], parameter.metadata.get(_RANGE))  # type: ignore[index]
        for parameter in fields(cls)
        if parameter.type in _TYPES
    )


def require(is_valid: bool, name: str, allowed: str, value: object) -> None:
    """Raise InvalidParameter with the allowed values in words unless the value is valid."""
    if not is_valid:
        raise InvalidParameter(f"{name} must be {allowed}, got {value}.", name)
