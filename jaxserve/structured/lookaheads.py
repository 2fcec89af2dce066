"""Patterns with look-ahead → patterns without, which together say the same; llguidance has none.

A look-ahead right behind `^` is a condition of its own on the same text, so it becomes a pattern of its own. Those that
forbid something have no such form; the ones that well-known libraries write are recognised as they stand.
"""

import re

from jaxserve.structured.patterns import has_alternatives, iter_operators

# Written by zod 3 (through zod-to-json-schema) and by zod 4, each spelled in its own way.
_EMAIL_NAMES = {"a-zA-Z": "[a-zA-Z0-9_'+-]", "A-Za-z": "[A-Za-z0-9_'+-]", "A-Z": "[A-Z0-9_'+-]"}
_DURATION_DATE = r"(?:\d+Y(?:\d+M)?(?:\d+D)?|\d+M(?:\d+D)?|\d+D)"
_SECONDS = r"\d+(?:[.,]\d+)?S"
_DURATION_TIME = rf"T(?:\d+H(?:\d+M)?(?:{_SECONDS})?|\d+M(?:{_SECONDS})?|{_SECONDS})"
_KNOWN = {
    rf"^(?!\.)(?!.*\.\.)([{a}0-9_'+\-\.]*)[{a}0-9_+-]@([{a}0-9][{a}0-9\-]*\.)+[{a}]{{2,}}$": (
        rf"^(?:{name}+\.)*{name}*[{a}0-9_+-]@(?:[{a}0-9][{a}0-9-]*\.)+[{a}]{{2,}}$",
    )
    for a, name in _EMAIL_NAMES.items()
} | {
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$": (
        rf"^P(?:\d+W|{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME})$",
    )
}
# pydantic begins its patterns of decimal numbers so: there must be more than signs and points.
_DECIMAL = "^(?!^[-+.]*$)"
_DIGITS_AND_PLACES = re.compile(
    r"\[\+-\]\?0\*\(\?:\\d\{0,(\d{1,3})\}\|\(\?=\[\\d\.\]\{1,(\d{1,3})\}0\*\$\)"
    r"(?:\\d\{0,\d{1,3}\}|\\d\*)\\\.(?:\\d\{0,(\d{1,3})\}|\\d\*)0\*\$\)"
)


def remove_lookahead(pattern: str) -> tuple[str, ...]:
    """Patterns that are found in a text, all of them, where this one is; itself if there is nothing to replace.

    pydantic's pattern of decimals with a number of digits is found in what begins like one; here the whole text is one.
    """
    if "(?=" not in pattern and "(?!" not in pattern:
        return (pattern,)
    if pattern in _KNOWN:
        return _KNOWN[pattern]
    if pattern.startswith(_DECIMAL):
        rest = pattern.removeprefix(_DECIMAL)
        digits = _DIGITS_AND_PLACES.fullmatch(rest)
        return (f"^{rest}" if digits is None else _decimal(*digits.groups()), "[^-+.]")
    return _split(pattern)


def _decimal(num_whole: str, num_chars: str, num_places: str | None) -> str:
    """Of so many digits, and so many before and behind the point, zeros at both ends left out."""
    whole, digits = int(num_whole), int(num_chars) - 1
    places = digits if num_places is None else int(num_places)
    options = [rf"\d{{{before}}}\.\d{{0,{min(places, digits - before)}}}0*" for before in range(min(whole, digits) + 1)]
    return rf"^[+-]?0*(?:\d{{0,{whole}}}|{'|'.join(options)})$"


def _split(pattern: str) -> tuple[str, ...]:
    """Conditions at the beginning as patterns of their own."""
    found: list[str] = []
    rest = pattern
    while (end := _end_of_condition(rest)) is not None:
        found.append(f"^(?:{rest[len('^(?=') : end]})")
        rest = "^" + rest[end + 1 :]
    return (*found, rest) if found and not has_alternatives(rest) else (pattern,)


def _end_of_condition(pattern: str) -> int | None:
    """Where the look-ahead ends that the pattern begins with."""
    if not pattern.startswith("^(?="):
        return None
    depth = 0
    for index, char in iter_operators(pattern):
        depth += (char == "(") - (char == ")")
        if char == ")" and depth == 0:
            return index
    return None
