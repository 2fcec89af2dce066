"""From an exception to a status and a body. Every error but 401 has the same four keys.

`ApiError` is for what the HTTP side itself refuses: paths, models, bodies, a full queue. What the library raises is
translated by `to_api_error`. Messages are truncated, so that a bad request cannot make its reply large.
"""

import http
import logging
import re
from collections.abc import Mapping
from typing import Any

from quart import Response
from werkzeug.exceptions import HTTPException

from jaxserve import EngineStopped, GenerationFailed, Overloaded, RequestError
from server.json_bytes import encode_json

log = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 2000
MAX_VALUE_CHARS = 200
RETRY_AFTER_S = 1
INTERNAL_ERROR = "Internal server error"
PATH_NOT_FOUND = "There is nothing at this path."
ENGINE_DEAD = "The server had an error while processing your request."
_LONG_RUN = re.compile(rf"\S{{{MAX_VALUE_CHARS + 1},}}")
_ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
    501: "NotImplementedError",
}


class ApiError(Exception):
    """An error that becomes an HTTP reply.

    status    HTTP status
    message   text for the client; truncated when the reply is made
    type      name of the kind of error, by default derived from the status as vLLM does
    param     the request field at fault
    headers   further headers of the reply
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or _ERROR_TYPES.get(status) or reason_phrase(status)
        self.param = param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The object that a client sees, also as the last event of a stream that broke."""
        error = {"message": truncate(self.message), "type": self.type, "param": self.param, "code": self.status}
        return {"error": error}

    def to_response(self) -> Response:
        """Make the HTTP reply."""
        return json_response(self.body, self.status, self.headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a JSON reply, without Quart's time limit for sending it."""
    return written_json_response(encode_json(body), status, headers)


def written_json_response(text: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a reply of JSON that is written already."""
    response = Response(text, status, content_type="application/json")
    response.headers.update(headers or {})
    response.timeout = None
    return response


def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status as vLLM's clients know it."""
    if status == 413:
        return "Request Entity Too Large"
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def truncate(message: str) -> str:
    """Shorten a message to MAX_MESSAGE_CHARS, and each word of it to MAX_VALUE_CHARS; lone surrogates are replaced."""
    message = _LONG_RUN.sub(lambda run: run[0][: MAX_VALUE_CHARS - 1] + "…", message)
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 1] + "…"
    return message.encode("utf-8", "replace").decode("utf-8")


def preview(value: object) -> str:
    """Format a client's value for an error message: containers by their size, anything else truncated."""
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def model_not_found(name: str, served: tuple[str, ...]) -> ApiError:
    """Make the 404 for a model that is not served, with the names of those that are."""
    names = ", ".join(served[:10])
    return ApiError(404, f"The model {preview(name)} does not exist; this server has: {names}.", param="model")


def unavailable(message: str, retry_after_s: int = RETRY_AFTER_S) -> ApiError:
    """Make a 503 that asks the client to come back after `retry_after_s` seconds."""
    return ApiError(503, message, headers={"Retry-After": str(retry_after_s)})


def too_many_requests(message: str) -> ApiError:
    """Make a 429 that asks the client to come back later."""
    return ApiError(429, message, headers={"Retry-After": str(RETRY_AFTER_S)})


def to_api_error(error: BaseException, *, admitted: bool = False) -> ApiError:
    """Translate any exception into what the client is told.

    admitted: the generation had begun, so a stopped engine is a 500 and not a 503 that invites to try again.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param)
    if isinstance(error, Overloaded):
        return unavailable(str(error), error.retry_after_s)
    if isinstance(error, EngineStopped):
        return ApiError(500, ENGINE_DEAD) if admitted else unavailable(str(error))
    if isinstance(error, HTTPException):
        return _from_http_exception(error)
    if not isinstance(error, GenerationFailed):
        log.error("request failed: %s", type(error).__name__, exc_info=error)
    return ApiError(500, INTERNAL_ERROR)


def _from_http_exception(error: HTTPException) -> ApiError:
    """Translate Quart's own errors: no route, wrong method, and the like."""
    status = error.code or 500
    messages = {404: PATH_NOT_FOUND, 405: "This path does not take this method."}
    headers = {}
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        headers["Allow"] = ", ".join(sorted(allowed))
    kind = reason_phrase(status) if status == 400 else None
    return ApiError(status, messages.get(status, reason_phrase(status) + "."), type=kind, headers=headers)
