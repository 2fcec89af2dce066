"""Checks of the fields that only Responses has; the others are checked as those of the chat request that it becomes."""

from jaxserve import InvalidParameter
from server.config import ServerConfig
from server.errors import preview
from server.schemas.checks import check_label
from server.schemas.fields import refuse_unsupported
from server.schemas.responses import (
    EMPTY_INCLUDABLES,
    INCLUDABLES,
    LOGPROBS,
    MAX_METADATA_KEY_CHARS,
    MAX_METADATA_KEYS,
    MAX_METADATA_VALUE_CHARS,
    SUMMARIES,
    TRUNCATIONS,
    VERBOSITIES,
    ResponsesRequest,
)

LABELS = ("user", "safety_identifier", "prompt_cache_key", "previous_response_id")
ID_PREFIX = "resp_"


def check_responses(request: ResponsesRequest, config: ServerConfig) -> None:
    """Check the body of a Responses request. Raises InvalidParameter or Unsupported about the field at fault."""
    for name in LABELS:
        check_label(name, getattr(request, name))
    _check_words(request)
    _check_include(request)
    _check_metadata(request.metadata or {})
    previous_id = request.previous_response_id
    if previous_id is not None and not previous_id.startswith(ID_PREFIX):
        message = f"previous_response_id must begin with {ID_PREFIX}, got {preview(previous_id)}."
        raise InvalidParameter(message, "previous_response_id")
    if request.background and not request.is_stored:
        raise InvalidParameter("background needs store: true, or nobody could read the response.", "background")
    if request.background and not config.responses_store_size:
        raise InvalidParameter("background is not available with --responses-store-size 0.", "background")
    refuse_unsupported(request)


def _check_words(request: ResponsesRequest) -> None:
    """Check the fields that are one word out of several."""
    verbosity = request.text.verbosity if request.text is not None else None
    for name, value, allowed in (
        ("truncation", request.truncation, TRUNCATIONS),
        ("text.verbosity", verbosity, VERBOSITIES),
        ("reasoning.summary", request.summary, SUMMARIES),
    ):
        if value is not None and value not in allowed:
            raise InvalidParameter(f"{name} must be {' or '.join(allowed)}, got {preview(value)}.", name)


def _check_include(request: ResponsesRequest) -> None:
    for name in request.include or ():
        if name not in INCLUDABLES + EMPTY_INCLUDABLES:
            allowed = ", ".join(INCLUDABLES)
            raise InvalidParameter(f"include may have {allowed}, got {preview(name)}.", "include")
    if request.top_logprobs and LOGPROBS not in request.included:
        raise InvalidParameter(f"top_logprobs needs {LOGPROBS} in include.", "top_logprobs")
    if LOGPROBS in request.included and request.tools and request.tool_choice != "none":
        raise InvalidParameter(
            f"include cannot have {LOGPROBS} together with tools: the tokens of text and calls are not told apart.",
            "include",
        )


def _check_metadata(metadata: dict[str, str]) -> None:
    is_small = len(metadata) <= MAX_METADATA_KEYS and all(
        len(key) <= MAX_METADATA_KEY_CHARS and len(value) <= MAX_METADATA_VALUE_CHARS for key, value in metadata.items()
    )
    if not is_small:
        raise InvalidParameter(
            f"metadata may have {MAX_METADATA_KEYS} keys of {MAX_METADATA_KEY_CHARS} characters, each with a value of "
            f"{MAX_METADATA_VALUE_CHARS}.",
            "metadata",
        )
