"""How long a template may render: a time limit for this thread, looked at by every turn of a loop and every call."""

import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import TemplateError

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class TemplateTimeout(TemplateError):
    """The rendering takes longer than it may."""


@contextmanager
def limit_time(timeout_s: float) -> Iterator[None]:
    """What happens inside may take so long."""
    before = _deadline.set(time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _deadline.reset(before)


def check_deadline() -> None:
    """Raises TooSlow past the deadline."""
    if time.monotonic() > _deadline.get():
        raise TemplateTimeout("the template takes too long")


class TimedIterator:
    """What a loop goes through, with a look at the clock at each turn."""

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
