"""ASGI middleware that the operator names with --middleware: classes, or functions, that take an app and return one."""

import inspect
from collections.abc import Callable, Iterable
from functools import reduce
from importlib import import_module
from typing import Any

from jaxserve import BadConfig

Middleware = Callable[[Any], Any]


def wrap_app(app: Any, paths: Iterable[str]) -> Any:
    """Wrap an ASGI app in the middleware of these import paths, the first innermost.

    Raises BadConfig if one of them cannot be loaded.
    """
    return reduce(lambda inner, path: load_middleware(path)(inner), paths, app)


def load_middleware(path: str) -> Middleware:
    """Import `package.module.Name`.

    Raises BadConfig if it is not there, or cannot be called with an app alone.
    """
    module, _, name = path.rpartition(".")
    try:
        middleware = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadConfig(f"middleware {path!r} cannot be imported: {error}; name it as package.module.Class.") from error
    if not callable(middleware) or inspect.iscoroutinefunction(middleware):
        raise BadConfig(
            f"middleware {path!r} is no ASGI class; functions of a request and a next call are not served, only what"
            " takes the app and returns one."
        )
    return middleware
