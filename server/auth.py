"""Authentication by a bearer key, compared in constant time. Every path needs one unless it is listed as open."""

import hashlib
import hmac
from collections.abc import Sequence

from quart import Request, Response
from werkzeug.datastructures import Headers

from server.assets import ASSETS
from server.config import ServerConfig, split_commas
from server.errors import json_response
from server.messages.errors import is_messages_path, make_error_body

# "/" is the chat page, which asks its user for a key and contains none; ASSETS are its files, each by its path.
KEYLESS_PATHS = frozenset({"/", "/health", "/ping", "/live", *ASSETS})


class ApiKeyAuth:
    """The check of a request's API key. Only digests of the configured keys are kept.

    Without configured keys every request is authorized. With keys every path needs one but KEYLESS_PATHS, those of
    --open-paths, and OPTIONS requests.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._digests = [_digest(key.encode()) for key in config.api_key]
        self._open_paths = KEYLESS_PATHS | split_commas(config.open_paths)

    def challenge(self, request: Request) -> Response | None:
        """Return the 401 reply for this request, or None if it is authorized."""
        sent_path = request.scope["path"]
        path = sent_path if sent_path.startswith("//") else request.path  # which has lost all slashes but one
        if self.is_authorized(request.method, path, self.find_credentials(request.headers, request.path)):
            return None
        body = {"error": "Unauthorized"}
        if is_messages_path(path):
            body = make_error_body("authentication_error", "The API key is missing or wrong.")
        return json_response(body, 401, {"WWW-Authenticate": "Bearer"})

    def identify(self, request: Request) -> str:
        """Return who sends this request, which is authorized: a digest of the key, or else the address."""
        return self.identify_sender(request.headers, request.path, request.remote_addr)

    def identify_sender(self, headers: Headers, path: str, address: str | None) -> str:
        """Return the same for a request of which only this is known."""
        credentials = self.find_credentials(headers, path)
        if self._digests and self._has_key(credentials):
            return f"key {_digest(_presented_key(credentials)).hex()}"
        return f"address {address}"

    def find_owner(self, request: Request) -> str:
        """Return to whom a thing belongs that this request, which is authorized, leaves here; "" if to all alike."""
        return self.identify(request) if self._digests else ""

    def is_authorized(self, method: str, path: str, authorization: Sequence[str]) -> bool:
        """Tell whether a request may be served. authorization: the values of all its Authorization headers."""
        if not self._digests or method == "OPTIONS" or path in self._open_paths:
            return True
        return self._has_key(authorization)

    def find_credentials(self, headers: Headers, path: str) -> list[str]:
        """Return the values of Authorization headers, or of X-Api-Key where clients of the Messages API send that.

        Where both are sent, either may be the key: the other is then often meant for a proxy.
        """
        values = headers.getlist("Authorization")
        if is_messages_path(path) and not self._has_key(values):
            return [f"Bearer {key}" for key in headers.getlist("X-Api-Key")] or values
        return values

    def _has_key(self, headers: Sequence[str]) -> bool:
        """Compare with every key: the time is the same whether a key is right, wrong, of another scheme, or absent."""
        value = headers[0] if len(headers) == 1 else ""
        scheme = value.partition(" ")[0]
        presented = _digest(_presented_key([value]))
        is_known = False
        for digest in self._digests:
            is_known |= hmac.compare_digest(presented, digest)
        return is_known and scheme.lower() == "bearer"


def _presented_key(headers: Sequence[str]) -> bytes:
    """Return the key in an Authorization header. Headers are bytes, decoded as latin-1."""
    return headers[0].partition(" ")[2].strip().encode("latin-1", "replace")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
