"""A time limit for rendering in this thread, checked by every iteration of a loop and every call of a template."""

import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import TemplateError

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class TemplateTimeout(TemplateError):
    """The rendering has exceeded its time limit."""


@contextmanager
def limit_time(timeout_s: float) -> Iterator[None]:
    """Limit the time of a `with` block, as far as it calls `check_deadline`; a limit around it holds, too."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + timeout_s))
    try:
        yield
    finally:
        _deadline.reset(token)


def check_deadline() -> None:
    """Raise TemplateTimeout if the deadline has passed."""
    if time.monotonic() > _deadline.get():
        raise TemplateTimeout("the template takes too long")


class TimedIterator:
    """Iterable of a loop that checks the deadline at every iteration."""

    __slots__ = ("_items",)

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            check_deadline()
            yield item

    def __len__(self) -> int:
        if isinstance(self._items, Sized):
            return len(self._items)
        raise TypeError("this has no length")
