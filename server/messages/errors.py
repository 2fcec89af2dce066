"""Errors of the Messages API, in Anthropic's form."""

from typing import Any

from server.errors import ApiError, truncate

MESSAGES_PATH = "/v1/messages"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# What machines read of errors about some fields. With this one the SDK's tool runner sends all messages itself.
_DETAILS = {"thread": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}


def is_messages_path(path: str) -> bool:
    """Tell whether a path belongs to the Messages API."""
    return path == MESSAGES_PATH or path.startswith(MESSAGES_PATH + "/")


def make_messages_error(error: ApiError) -> dict[str, Any]:
    """Make the body of an error. The message of an error about a field names that."""
    body = make_error_body(_TYPES.get(error.status, "api_error"), truncate(error.message))
    if error.param in _DETAILS:
        body["error"]["details"] = _DETAILS[error.param]
    return body


def make_error_body(kind: str, message: str) -> dict[str, Any]:
    """Make the body of an error of a type."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def render_error(error: ApiError, path: str) -> dict[str, Any]:
    """Make the body of an error in the form that clients of a path read."""
    return make_messages_error(error) if is_messages_path(path) else error.body
