"""ASGI middleware that the operator names: classes, or functions, that take the app and return one."""

import inspect
from collections.abc import Callable, Iterable
from functools import reduce
from importlib import import_module
from typing import Any

from jaxserve import BadConfig

Middleware = Callable[[Any], Any]


def wrap_app(app: Any, paths: Iterable[str]) -> Any:
    """Put the middleware of these import paths around an ASGI app, the first innermost. Raises BadConfig."""
    return reduce(lambda inner, path: load_middleware(path)(inner), paths, app)


def load_middleware(path: str) -> Middleware:
    """Import `package.module.Name`. Raises BadConfig for what is not there, or cannot be called with an app alone."""
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
