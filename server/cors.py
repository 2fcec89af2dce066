"""Cross-origin resource sharing: which pages of other origins may call the server, and with what.

The rules are those of the Fetch standard (https://fetch.spec.whatwg.org/#http-cors-protocol), as far as a JSON API
needs them.

By default none may: a server on this machine needs no key, and any page that its user visits could use it.
"""

from quart import Request, Response

from server.config import ServerConfig

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
MAX_AGE_S = 600
DISALLOWED = "Disallowed CORS origin; --allowed-origins names the origins whose pages may call this server"


class Cors:
    """The answers to preflight requests, and the CORS headers of all replies, as configured."""

    def __init__(self, config: ServerConfig) -> None:
        self._origins = frozenset(config.allowed_origins)
        self._methods = METHODS if "*" in config.allowed_methods else ", ".join(config.allowed_methods)
        self._headers = None if "*" in config.allowed_headers else ", ".join(config.allowed_headers)
        self._allows_credentials = config.allow_credentials

    def answer_preflight(self, request: Request) -> Response | None:
        """Return the reply to a preflight request, or None if this is none."""
        requested_method = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or requested_method is None or "Origin" not in request.headers:
            return None
        allowed = self._origin(request) is not None
        response = Response("OK" if allowed else DISALLOWED, 200 if allowed else 400)
        response.headers["Access-Control-Allow-Methods"] = self._methods
        response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
        headers = self._headers or request.headers.get("Access-Control-Request-Headers")
        if headers:
            response.headers["Access-Control-Allow-Headers"] = headers
        return response

    def add_headers(self, request: Request, response: Response) -> None:
        """Allow the page to read the reply, if its origin may."""
        origin = self._origin(request)
        if origin is None:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        if origin != "*":
            response.headers.add("Vary", "Origin")
        if self._allows_credentials:
            response.headers["Access-Control-Allow-Credentials"] = "true"

    def _origin(self, request: Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        if "*" in self._origins:
            return "*"
        return origin if origin in self._origins else None
