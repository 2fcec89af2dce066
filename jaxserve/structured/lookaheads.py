"""Patterns with look-ahead → equivalent sets of patterns without it, since llguidance has none.

A positive look-ahead directly behind `^` is another condition on the same text, so it becomes a pattern of its own.
Negative ones have no such form; the patterns that well-known libraries write are recognised literally.
"""

import re

from jaxserve.structured.patterns import has_alternatives, iter_operators

# Of zod 3 (through zod-to-json-schema) and zod 4, which write the character classes of e-mail addresses differently.
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
# The beginning of pydantic's patterns of decimal numbers: there must be more than signs and points.
_DECIMAL = "^(?!^[-+.]*$)"
_DIGITS_AND_PLACES = re.compile(
    r"\[\+-\]\?0\*\(\?:\\d\{0,(\d{1,3})\}\|\(\?=\[\\d\.\]\{1,(\d{1,3})\}0\*\$\)"
    r"(?:\\d\{0,\d{1,3}\}|\\d\*)\\\.(?:\\d\{0,(\d{1,3})\}|\\d\*)0\*\$\)"
)


def remove_lookahead(pattern: str) -> tuple[str, ...]:
    """Return patterns without look-ahead, all of which are found in a text if and only if this one is.

    Returns the pattern itself if it has no look-ahead, or one that cannot be removed. pydantic's pattern of decimals
    with a number of digits is found in any text that begins like one; the result matches only complete numbers.
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
    """A pattern for decimals with at most so many digits before the point, in all, and after it.

    num_chars   digits in all and the point. Zeros at both ends do not count.
    """
    max_before, max_digits = int(num_whole), int(num_chars) - 1
    max_after = max_digits if num_places is None else int(num_places)
    options = [
        rf"\d{{{before}}}\.\d{{0,{min(max_after, max_digits - before)}}}0*"
        for before in range(min(max_before, max_digits) + 1)
    ]
    return rf"^[+-]?0*(?:\d{{0,{max_before}}}|{'|'.join(options)})$"


def _split(pattern: str) -> tuple[str, ...]:
    """Split the look-aheads at the beginning off, as patterns of their own."""
    conditions: list[str] = []
    rest = pattern
    while (end := _find_lookahead_end(rest)) is not None:
        conditions.append(f"^(?:{rest[len('^(?=') : end]})")
        rest = "^" + rest[end + 1 :]
    return (*conditions, rest) if conditions and not has_alternatives(rest) else (pattern,)


def _find_lookahead_end(pattern: str) -> int | None:
    """Return the index of the parenthesis that closes the look-ahead at the beginning, if there is one."""
    if not pattern.startswith("^(?="):
        return None
    depth = 0
    for index, char in iter_operators(pattern):
        depth += (char == "(") - (char == ")")
        if char == ")" and depth == 0:
            return index
    return None
