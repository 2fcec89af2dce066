"""Jinja's filters with limits on the size of their results (see size_limits) and on the work of one call.

A call of a filter is not interrupted: the deadline is checked between calls. So the number of items that one call
reads is limited, and the text where a filter works through it slowly; within these limits a call takes under a second.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import wraps
from typing import Any

from jinja2 import filters as jinja
from jinja2.environment import Environment
from jinja2.nodes import EvalContext
from jinja2.utils import pass_environment, pass_eval_context

from jaxserve.text.size_limits import (
    TooLarge,
    check_operator,
    check_percent,
    check_size,
    estimate_replaced_size,
    estimate_text_size,
)

MAX_ITEMS = 100_000  # of one batch, and slices of one list
MAX_FILTERED_ITEMS = 1_000_000  # that one call of a filter reads
MAX_SORTED_ITEMS = 100_000
MAX_SLOW_CHARS = 1_000_000  # of a text that a filter takes apart by regular expressions, or character by character
MAX_INDENT = 64  # of tojson, in characters
MAX_PRECISION = 308

# Filters that convert their input to text first.
_TEXT_FILTERS = frozenset((
    "string", "upper", "lower", "title", "capitalize", "trim", "center", "escape", "e", "forceescape", "safe",
    "striptags", "truncate", "wordcount", "wordwrap", "indent", "replace", "urlencode", "pprint", "xmlattr", "format",
))  # fmt: skip
_SLOW_TEXT_FILTERS = frozenset(("title", "striptags", "wordcount", "wordwrap", "urlencode", "pprint", "xmlattr"))
_MOST_ITEMS = dict.fromkeys(("sort", "groupby", "dictsort"), MAX_SORTED_ITEMS) | dict.fromkeys(
    (
        "list",
        "map",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "unique",
        "min",
        "max",
        "batch",
        "slice",
        "reverse",
    ),
    MAX_FILTERED_ITEMS,
)


def bounded_filters(limit: int) -> dict[str, Callable[..., Any]]:
    """Return Jinja's filters by name with an upper bound of `limit` characters or items; urlize is left out."""
    checks = _checks(limit)
    table = {name: _bounded(name, filter, checks.get(name), limit) for name, filter in jinja.FILTERS.items()}
    del table["urlize"]  # its search is not linear, and prompts need no links
    return table | {"join": _join(limit), "sum": _sum(limit), "attr": _attr, "tojson": _tojson(limit)}


def _bounded(
    name: str, filter: Callable[..., Any], check: Callable[..., None] | None, limit: int
) -> Callable[..., Any]:
    passes = getattr(filter, "jinja_pass_arg", None)  # an eval context or environment comes before the value
    skip = 0 if passes is None else 1

    @wraps(filter)
    def run(*args: Any, **kwargs: Any) -> Any:
        if name in _MOST_ITEMS and len(args) > skip:
            args = (*args[:skip], _limit_items(args[skip], _MOST_ITEMS[name], name), *args[skip + 1 :])
        own = args[skip:]
        if name in _TEXT_FILTERS and own:
            estimate_text_size(own[0], min(limit, MAX_SLOW_CHARS) if name in _SLOW_TEXT_FILTERS else limit)
        if check is not None:
            check(*own, **kwargs)
        result = filter(*args, **kwargs)
        if isinstance(result, (str, list)):
            check_size(len(result), limit, f"The result of {name}")
        return result

    return run


def _limit_items(value: Any, limit: int, name: str) -> Any:
    """Return a value of which a filter can read at most `limit` items. Raises TooLarge, now or then, if it has more."""
    if isinstance(value, Sized) or not isinstance(value, Iterable):
        if isinstance(value, Sized):
            check_size(len(value), limit, f"The input of {name}")
        return value
    return _count_items(value, limit, name)


def _count_items(items: Iterable[Any], limit: int, name: str) -> Iterator[Any]:
    for number, item in enumerate(items, 1):
        check_size(number, limit, f"The input of {name}")
        yield item


def _checks(limit: int) -> dict[str, Callable[..., None]]:
    """Return the checks of the filters' own arguments, by filter; the signatures are those of the filters."""

    def center(value: Any, width: int = 80) -> None:
        check_size(int(width), limit, "The width")

    def indent(s: Any, width: Any = 4, *_: Any, **__: Any) -> None:
        added = len(width) if isinstance(width, str) else int(width)
        check_size((str(s).count("\n") + 1) * max(added, 0), limit, "The indentation")

    def format(value: Any, *args: Any, **kwargs: Any) -> None:
        check_percent(str(value), kwargs or args, limit)

    def replace(s: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
        check_size(estimate_replaced_size(str(s), str(old), str(new)), limit, "The result of replace")

    def wordwrap(s: Any, width: int = 79, _: bool = True, wrapstring: str | None = None, *__: Any, **___: Any) -> None:
        check_size(len(str(s)) * (1 + len(wrapstring or "\n")), limit, "The result of wordwrap")

    def batch(value: Any, linecount: int, *_: Any, **__: Any) -> None:
        check_size(linecount, MAX_ITEMS, "The batch")

    def slice(value: Any, slices: int, *_: Any, **__: Any) -> None:
        check_size(slices, MAX_ITEMS, "The number of slices")

    def round(value: Any, precision: int = 0, *_: Any, **__: Any) -> None:
        check_size(abs(precision), MAX_PRECISION, "The precision")

    checks = (center, indent, format, replace, wordwrap, batch, slice, round)
    return {check.__name__: check for check in checks}


def _join(limit: int) -> Callable[..., Any]:
    @pass_eval_context
    def join(eval_ctx: EvalContext, value: Any, d: Any = "", attribute: Any = None) -> Any:
        items = list(_limit_items(value, MAX_FILTERED_ITEMS, "join"))
        total = sum(estimate_text_size(item, limit) for item in items) if attribute is None else 0
        check_size(total + estimate_text_size(d, limit) * len(items), limit, "The result of join")
        result = jinja.sync_do_join(eval_ctx, items, d, attribute)
        check_size(len(result), limit, "The result of join")
        return result

    return join


def _sum(limit: int) -> Callable[..., Any]:
    @pass_environment
    def sum(environment: Environment, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
        pick = jinja.make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
        total = start
        for item in _limit_items(iterable, MAX_FILTERED_ITEMS, "sum"):
            check_operator("+", total, pick(item), limit)
            total = total + pick(item)
        return total

    return sum


@pass_environment
def _attr(environment: Environment, obj: Any, name: str) -> Any:
    """Return Jinja's attr, but never a method: its text would show an address."""
    value = jinja.do_attr(environment, obj, name)
    if callable(value):
        return environment.undefined(f"attr does not give out the method {name!r}.", obj=obj, name=name)
    return value


def _tojson(limit: int) -> Callable[..., str]:
    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """json.dumps as Hugging Face templates expect it: no HTML escapes, non-ASCII as it is."""
        if indent is not None:
            check_size(len(indent) if isinstance(indent, str) else int(indent), MAX_INDENT, "The indent")
        if indent is None and separators is None:
            estimate_text_size(x, limit)
            return json.dumps(x, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        pieces, total = [], 0
        for piece in encoder.iterencode(x):  # piece by piece: depth times indent may be much
            total += len(piece)
            check_size(total, limit, "The JSON text")
            pieces.append(piece)
        return "".join(pieces)

    return tojson


__all__ = ["TooLarge", "bounded_filters"]
