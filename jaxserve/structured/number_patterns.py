"""Regular expressions that match exactly the numbers of a range, however many digits its bounds have.

A number is written without an exponent: digits without a leading zero, and a fraction if it is no integer. Each
alternative shares a prefix with a bound and differs from it at one digit, so there are about as many as a bound has
digits.
"""

import re
from decimal import Decimal

ANY_FRACTION = r"(?:\.[0-9]+)?"


def integer_range_pattern(low: int | None, high: int | None) -> str:
    """Return a pattern for the integers from low to high, both included (None: no bound). low <= high."""
    options = []
    if low is None or low <= 0:
        nearest = 0 if high is None or high >= 0 else -high
        options += ["-" + _alternate(_naturals(nearest, None if low is None else -low))]
    if high is None or high >= 0:
        options += _naturals(0 if low is None else max(low, 0), high)
    return _alternate(options)


def decimal_range_pattern(low: Decimal | None, high: Decimal | None) -> str:
    """Return a pattern for the numbers from low to high, both included (None: no bound). low <= high."""
    options, zero = [], Decimal(0)
    if low is None or low <= 0:
        nearest = zero if high is None or high >= 0 else high.copy_abs()
        options += ["-" + _alternate(_positives(nearest, None if low is None else low.copy_abs()))]
    if high is None or high >= 0:
        options += _positives(zero if low is None else max(low, zero), high)
    return _alternate(options)


def _positives(low: Decimal, high: Decimal | None) -> list[str]:
    """Numbers without a sign."""
    integer, fraction = _split(low)
    last, last_fraction = (None, "") if high is None else _split(high)
    if integer == last:
        tails = _alternate(_fractions_between(fraction, last_fraction))
        return [rf"{_run(str(integer))}\.{tails}" if fraction else rf"{_run(str(integer))}(?:\.{tails})?"]
    options = []
    if fraction:
        options.append(rf"{_run(str(integer))}\.{_alternate(_fractions_from(fraction))}")
        integer += 1
    if last is None or integer < last:
        options.append(_alternate(_naturals(integer, None if last is None else last - 1)) + ANY_FRACTION)
    if last is not None:
        options.append(rf"{_run(str(last))}(?:\.{_alternate(_fractions_to(last_fraction))})?")
    return options


def _split(number: Decimal) -> tuple[int, str]:
    """Return the integer and the digits of the fraction, without zeros at the end."""
    integer, _, fraction = format(number, "f").partition(".")
    return int(integer), fraction.rstrip("0")


def _naturals(low: int, high: int | None) -> list[str]:
    """Integers without a sign."""
    first, last = str(low), "" if high is None else str(high)
    if len(first) == len(last):
        return _same_length(first, last)
    options = _same_length(first, "9" * len(first))
    if high is None:
        return [*options, f"[1-9][0-9]{{{len(first)},}}"]
    if len(last) > len(first) + 1:
        options.append(f"[1-9][0-9]{{{len(first)},{len(last) - 2}}}")
    return options + _same_length("1" + "0" * (len(last) - 1), last)


def _same_length(low: str, high: str) -> list[str]:
    """Strings of as many digits as both bounds have."""
    if low == high:
        return [_run(low)]
    place = next(index for index in range(len(low)) if low[index] != high[index])
    common, rest_low, rest_high = _run(low[:place]), low[place + 1 :], high[place + 1 :]
    first, last = int(low[place]), int(high[place])
    options = []
    if rest_low.strip("0"):
        options += [f"{common}{first}{tail}" for tail in _tails_from(rest_low)]
        first += 1
    if rest_high.strip("9"):
        options += [f"{common}{last}{tail}" for tail in _tails_to(rest_high)]
        last -= 1
    return [*options, *(f"{common}{digit}{_any(len(rest_low))}" for digit in _digits(first, last))]


def _tails_from(low: str) -> list[str]:
    """Strings of as many digits, not less than these."""
    end = low.rstrip("0")
    options = [_run(end[:i]) + digit + _any(len(low) - i - 1) for i in range(len(end)) for digit in _above(end[i])]
    return [*options, _run(end) + _any(len(low) - len(end))]


def _tails_to(high: str) -> list[str]:
    """Strings of as many digits, not more than these."""
    end = high.rstrip("9")
    options = [_run(end[:i]) + digit + _any(len(high) - i - 1) for i in range(len(end)) for digit in _below(end[i])]
    return [*options, _run(end) + _any(len(high) - len(end))]


def _fractions_from(low: str) -> list[str]:
    """Digits behind a point that are not less than these, which do not end in a zero."""
    if not low:
        return ["[0-9]+"]
    num_zeros = len(low) - len(low.lstrip("0"))
    options = [f"0{{0,{num_zeros - 1}}}[1-9][0-9]*"] if num_zeros else []
    options += [f"{_run(low[:i])}{digit}[0-9]*" for i in range(num_zeros, len(low)) for digit in _above(low[i])]
    return [*options, f"{_run(low)}[0-9]*"]


def _fractions_to(high: str) -> list[str]:
    """Digits behind a point that are not more than these, which do not end in a zero."""
    if not high:
        return ["0+"]
    num_zeros = len(high) - len(high.lstrip("0"))
    options = [f"0{{1,{num_zeros}}}"] if num_zeros else []
    options += [_run(high[:i]) for i in range(num_zeros + 1, len(high))]
    options += [f"{_run(high[:i])}{digit}[0-9]*" for i in range(num_zeros, len(high)) for digit in _below(high[i])]
    return [*options, f"{_run(high)}0*"]


def _fractions_between(low: str, high: str) -> list[str]:
    """Digits behind a point from low to high, neither of which ends in a zero."""
    same_as_low = f"{_run(low)}0*" if low else "0+"
    if low == high:
        return [same_as_low]
    width = max(len(low), len(high))
    padded_low, padded_high = low.ljust(width, "0"), high.ljust(width, "0")
    place = next(index for index in range(width) if padded_low[index] != padded_high[index])
    common, first, last = _run(padded_low[:place]), padded_low[place], padded_high[place]
    rest_low, rest_high = low[place + 1 :], high[place + 1 :]
    options = [same_as_low, f"{common}{last}" + ("" if rest_high else "0*")]
    options += [f"{common}{first}{tail}" for tail in (_fractions_from(rest_low) if rest_low else ["[0-9]*"])]
    options += [f"{common}{last}{tail}" for tail in (_fractions_to(rest_high) if rest_high else [])]
    return [*options, *(f"{common}{digit}[0-9]*" for digit in _digits(int(first) + 1, int(last) - 1))]


def _above(digit: str) -> list[str]:
    return _digits(int(digit) + 1, 9)


def _below(digit: str) -> list[str]:
    return _digits(0, int(digit) - 1)


def _digits(first: int, last: int) -> list[str]:
    """One class of digits, or none."""
    return [f"[{first}-{last}]"] if first <= last else []


def _any(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""


def _run(digits: str) -> str:
    """The digits; many equal ones as one of them with its count."""
    return re.sub(r"(\d)\1{7,}", lambda run: f"{run[1]}{{{len(run[0])}}}", digits)


def _alternate(patterns: list[str]) -> str:
    return f"(?:{'|'.join(patterns)})"
