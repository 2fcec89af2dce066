"""The ASGI middleware directly around Quart.

It checks the size and framing of the request head before anything is dispatched, writes the access log line and the
HTTP metrics afterwards, and answers with an error object whatever happens between. The operator's own middleware
(custom_middleware.py) wraps it.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson

from server import logs
from server.config import ServerConfig, split_commas
from server.errors import INTERNAL_ERROR, PATH_NOT_FOUND, ApiError
from server.messages.errors import render_error
from server.metrics import HttpMetrics

log = logging.getLogger(__name__)

ROUTE_KEY = "jaxserve.route"  # key of the ASGI scope under which the route's pattern is left for the metrics
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]


class OuterMiddleware:
    """An ASGI application that wraps the Quart application.

    app: the wrapped application. http: the metrics to which every request is added.
    """

    def __init__(self, app: App, config: ServerConfig, http: HttpMetrics) -> None:
        self._app = app
        self._config = config
        self._http = http
        self._root = config.root_path.rstrip("/")
        self._unlogged_paths = split_commas(config.disable_access_log_for_endpoints)

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _CountingSender(send)
        started_s = time.monotonic()
        try:
            error = find_head_error(scope["headers"], scope["raw_path"], self._config, scope["query_string"])
            if error is not None:
                await _send_error(error, sender, scope["path"])
            else:
                await self._app(self._strip_root_path(scope), receive, sender)
        except Exception:
            log.exception("a request failed outside its route")
            if sender.status is None:
                await _send_error(ApiError(500, INTERNAL_ERROR), sender, scope["path"])
        finally:
            self._record(scope, sender, time.monotonic() - started_s)

    def _strip_root_path(self, scope: Any) -> Any:
        """Remove the proxy's path prefix from the scope's path, if it is there."""
        path = scope["path"]
        if self._root and (path == self._root or path.startswith(self._root + "/")):
            scope["path"] = path[len(self._root) :] or "/"
        return scope

    def _record(self, scope: Any, sender: "_CountingSender", seconds: float) -> None:
        """Log the request and add it to the metrics; 499 stands for a client that left before there was a reply."""
        headers = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        if not self._config.disable_access_log and path not in self._unlogged_paths:
            client = (scope.get("client") or ("-",))[0]
            request_id = headers.get(b"x-request-id", b"").decode("latin-1")
            logs.log_access(client, method, path, sender.status, sender.sent_bytes, seconds, request_id)
        length = headers.get(b"content-length", b"0")
        request_bytes = int(length) if length.isdigit() and len(length) < 16 else 0
        handler = scope.get(ROUTE_KEY, "none")
        method_label = method if method in _KNOWN_METHODS else "other"
        self._http.observe(handler, method_label, sender.status or 499, seconds, request_bytes, sender.sent_bytes)


_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _CountingSender:
    """An ASGI `send` that counts.

    status: of the reply, None before it has begun. sent_bytes: of its body.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.sent_bytes = 0

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


def find_head_error(
    headers: list[tuple[bytes, bytes]], raw_path: bytes, config: ServerConfig, query: bytes
) -> ApiError | None:
    """Return what is wrong with a request's head, or None.

    raw_path: the path as it was sent, percent-encoded. query: what follows its question mark.

    The head may be too large (431), give the length of the body in two ways (400), or have a target that is no path
    (404).
    """
    close = {"Connection": "close"}
    size = len(raw_path) + len(query) + sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > config.max_headers or size > config.max_header_bytes:
        message = f"The request head is larger than {config.max_headers} headers or {config.max_header_bytes} bytes."
        return ApiError(431, message, headers=close)
    names = {name.lower() for name, _ in headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        message = "Content-Length and Transfer-Encoding must not be sent together."
        return ApiError(400, message, type="Bad Request", headers=close)
    if not raw_path.startswith(b"/") and not _is_absolute_url(raw_path.decode("latin-1")):
        return ApiError(404, PATH_NOT_FOUND, headers=close)
    return None


def _is_absolute_url(target: str) -> bool:
    """Tell whether the request target is a whole URL, as clients send it to proxies."""
    try:
        return urlsplit(target).scheme in ("http", "https") and urlsplit(target).path.startswith("/")
    except ValueError:
        return False


async def _send_error(error: ApiError, send: Send, path: str) -> None:
    body = orjson.dumps(render_error(error, path))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
