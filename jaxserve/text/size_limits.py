"""Limits on the size of what an expression in a template makes.

A template can be short and yet need gigabytes (`'x' * 10**10`, `'%9999999d' % 1`, `x|center(10**9)`), so every
operator, method and filter that multiplies is measured before it runs. What has no text of its own (functions,
generators, foreign objects) is refused: its printed form would show an address in memory.
"""

import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any, TypeGuard

from jinja2 import Undefined
from jinja2.exceptions import TemplateRuntimeError

MAX_INT_BITS = 4096
MAX_WIDTH = 4096  # of one formatted field, in characters
MAX_VISITS = 1_000_000  # containers and leaves that are visited while one value is measured
REPR_GROWTH = 4  # characters that repr may need for one of a string

_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.)?", re.DOTALL)
_DIGITS = re.compile(r"\d+")


class TooLarge(TemplateRuntimeError):
    """An expression would make more text, a longer list or a bigger number than is allowed."""


def check_size(size: int, limit: int, what: str) -> None:
    """Check a size. Raises TooLarge, with `what` in its text, if the size is above the limit."""
    if size > limit:
        raise TooLarge(f"{what} would be too large (more than {limit}).")


def estimate_text_size(value: Any, limit: int) -> int:
    """Return about how many characters str(value) has. Raises TooLarge above `limit`, and for values without a text."""
    if isinstance(value, str):
        check_size(len(value), limit, "The text")
        return len(value)
    total, visits, pending = 0, 0, [value]
    while pending:
        item = pending.pop()
        visits += 1
        total += _own_size(item, pending)
        if total > limit or visits > MAX_VISITS:
            raise TooLarge(f"The text of a {type(value).__name__} would be too large (more than {limit}).")
    return total


def _own_size(item: Any, pending: list[Any]) -> int:
    """Return the characters of one value without its members, which are added to `pending`."""
    if isinstance(item, (str, bytes)):
        return REPR_GROWTH * len(item) + 2
    if item is None or isinstance(item, (bool, float, Undefined)):
        return 24
    if isinstance(item, int):
        return item.bit_length() // 3 + 2
    if isinstance(item, (list, tuple, set, frozenset)):
        pending.extend(item)
        return 2 * len(item) + 2
    if isinstance(item, Mapping):
        pending.extend(item.keys())
        pending.extend(item.values())
        return 4 * len(item) + 2
    if isinstance(item, (range, type({}.keys()), type({}.values()), type({}.items()))):
        pending.extend(() if isinstance(item, range) else item)
        return 2 * len(item) + 24 if not isinstance(item, range) else 64
    raise TooLarge(f"A {type(item).__name__} has no text.")


# --- operators -------------------------------------------------------------------------------------------------------


def check_operator(operator: str, left: Any, right: Any, limit: int) -> None:
    """Check the size of an operation's result before it is computed. Raises TooLarge if it is above the limit."""
    if operator == "*":
        _check_product(left, right, limit)
    elif operator == "**":
        _check_power(left, right)
    elif operator == "+" and _is_sequence(left) and _is_sequence(right):
        check_size(len(left) + len(right), limit, "The sum")
    elif operator == "%" and isinstance(left, (str, bytes)):
        check_percent(left if isinstance(left, str) else left.decode("latin-1"), right, limit)


def _is_sequence(value: Any) -> TypeGuard[str | bytes | list[Any] | tuple[Any, ...]]:
    return isinstance(value, (str, bytes, list, tuple))


def _check_product(left: Any, right: Any, limit: int) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_size(left.bit_length() + right.bit_length(), MAX_INT_BITS, "The product in bits")
    elif _is_sequence(left) and isinstance(right, int):
        check_size(len(left) * max(right, 0), limit, "The repetition")
    elif _is_sequence(right) and isinstance(left, int):
        check_size(len(right) * max(left, 0), limit, "The repetition")


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0 and abs(left) > 1:
        check_size(left.bit_length() * right, MAX_INT_BITS, "The power in bits")


def check_percent(pattern: str, values: Any, limit: int) -> None:
    """Check `pattern % values`. Raises TooLarge for a star, a wide field, or too long a result."""
    total, fields = len(pattern), 0
    for width, precision, kind in _PERCENT.findall(pattern):
        if "*" in (width, precision):
            raise TooLarge("A width from an argument (*) is not allowed in a format.")
        for digits in (width, precision):
            check_size(int(digits[:6] or 0), MAX_WIDTH, "The width in a format")
            total += int(digits or 0)
        fields += kind != "%"
    total += fields * _largest(values, limit)
    check_size(total, limit, "The formatted text")


def check_format(pattern: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> None:
    """Check `pattern.format(*args, **kwargs)`. Raises TooLarge for a nested or wide field, or too long a result."""
    fields = 0
    for _, name, spec, _ in Formatter().parse(pattern):
        fields += name is not None
        if "{" in (spec or ""):
            raise TooLarge("A format inside a format field is not allowed.")
        for digits in _DIGITS.findall(spec or ""):
            check_size(int(digits[:6]), MAX_WIDTH, "The width in a format")
    values = [*args, *kwargs.values()]
    check_size(len(pattern) + fields * (MAX_WIDTH + _largest(tuple(values), limit)), limit, "The formatted text")


def _largest(values: Any, limit: int) -> int:
    items = values if isinstance(values, tuple) else values.values() if isinstance(values, Mapping) else (values,)
    return max((estimate_text_size(item, limit) for item in items), default=0)


# --- methods of text and numbers -------------------------------------------------------------------------------------


def check_method(owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> None:
    """Check a call like `text.center(10**9)`. Raises TooLarge if a method that multiplies text makes too much."""
    if isinstance(owner, (str, bytes)) and name in _TEXT_METHODS:
        check_size(_TEXT_METHODS[name](owner, args, kwargs, limit), limit, f"The result of {name}")
    elif isinstance(owner, int) and name == "to_bytes":
        check_size(int(_argument(args, kwargs, 0, "length", 1)), MAX_WIDTH, "The result of to_bytes")


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], index: int, name: str, default: Any) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _padded(text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> int:
    width = _argument(args, kwargs, 0, "width", 0)
    return width if isinstance(width, int) else 0


def _expanded(text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> int:
    size = _argument(args, kwargs, 0, "tabsize", 8)
    return len(text) * max(size if isinstance(size, int) else 0, 1)


def _replaced(text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> int:
    if len(args) < 2 or not all(isinstance(part, (type(text), str)) for part in args[:2]):
        return 0  # not a call that succeeds
    return estimate_replaced_size(text, args[0], args[1])


def estimate_replaced_size(text: Any, old: Any, new: Any) -> int:
    """Return an upper bound on len(text.replace(old, new))."""
    count = len(text) + 1 if not old else text.count(old)
    return len(text) + count * len(new)


def _joined(text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> int:
    items = args[0] if args else ()
    if not isinstance(items, (list, tuple, str, bytes, Mapping, set, frozenset)):
        raise TooLarge("join takes a list here; add |list.")
    return sum(len(item) for item in items if isinstance(item, (str, bytes))) + len(text) * len(items)


def _translated(text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> int:
    table = args[0] if args else {}
    values = table.values() if isinstance(table, Mapping) else ()
    return len(text) * max((len(value) for value in values if isinstance(value, str)), default=1)


_TEXT_METHODS: dict[str, Callable[[Any, tuple[Any, ...], Mapping[str, Any], int], int]] = {
    "center": _padded,
    "ljust": _padded,
    "rjust": _padded,
    "zfill": _padded,
    "expandtabs": _expanded,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
}
