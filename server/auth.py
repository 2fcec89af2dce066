"""Who may come in: a bearer key, compared in constant time. Everything is closed unless it is listed as open."""

import hashlib
import hmac
from collections.abc import Sequence

from quart import Request, Response

from server.assets import ASSETS
from server.config import ServerConfig, split_commas
from server.errors import json_response

# "/" is the chat page, which asks for a key and holds none; ASSETS are the files that it is made of, each by its path.
KEYLESS_PATHS = frozenset({"/", "/health", "/ping", "/live", *ASSETS})


class ApiKeyAuth:
    """Holds the digests of the configured keys, never the keys.

    Without keys everybody may come in. With keys every path needs one but KEYLESS, `open_paths`, and OPTIONS.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._digests = [_digest(key.encode()) for key in config.api_key]
        self._open_paths = KEYLESS_PATHS | split_commas(config.open_paths)

    def challenge(self, request: Request) -> Response | None:
        """The 401 for this request, or None when it may pass."""
        if self.is_authorized(request.method, request.path, request.headers.getlist("Authorization")):
            return None
        return json_response({"error": "Unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})

    def is_authorized(self, method: str, path: str, authorization: Sequence[str]) -> bool:
        """authorization: the values of all headers of that name."""
        if not self._digests or method == "OPTIONS" or path in self._open_paths:
            return True
        return self._has_key(authorization)

    def _has_key(self, headers: Sequence[str]) -> bool:
        """Does the same work whether a key is right, wrong, of another scheme, or absent."""
        value = headers[0] if len(headers) == 1 else ""
        scheme, _, key = value.partition(" ")
        presented = _digest(key.strip().encode("latin-1", "replace"))  # header text is bytes in latin-1's clothes
        known = False
        for digest in self._digests:
            known |= hmac.compare_digest(presented, digest)
        return known and scheme.lower() == "bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
