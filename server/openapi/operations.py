"""Every route of the server: what it takes, what it answers, and how it refuses. A test holds this table to the app."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from server.schemas import replies
from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

COMMON_STATUSES = (400, 431, 500)
BODY_STATUSES = (404, 408, 413, 415, 503)
ERROR_DESCRIPTIONS = {  # status → when
    400: "Something in the request is wrong; param names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    408: "The body was not complete in time (--body-timeout-s).",
    413: "The body is larger than --max-body-bytes.",
    415: "The body is encoded; send it as it is.",
    431: "The request's head is too large (--max-header-bytes, --max-headers).",
    500: "The generation failed, or the engine did.",
    503: "Too much is waiting, or the server is shutting down; come back after Retry-After seconds.",
}


@dataclass(frozen=True, slots=True)
class OperationParameter:
    """Something outside the body. place: "path" or "header"."""

    name: str
    location: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """reply: a TypedDict, a list of one, or dict for JSON; else the content types of a text.

    chunk: of the event stream that can be asked for. example: a body to try. statuses: more that it may answer with an
    error object. unready: 503 has the reply's form. is_cached: 304 answers If-None-Match. key: which paths of a pattern
    need one where keys are configured, "all" or "some".
    """

    tag: str
    summary: str
    reply: Any
    request: type[BaseModel] | None = None
    chunk: Any = None
    example: Any = None
    parameters: tuple[OperationParameter, ...] = ()
    extra_statuses: tuple[int, ...] = ()
    has_unready_reply: bool = False
    is_cached: bool = False
    key_scope: Literal["all", "some"] = "all"

    @property
    def error_statuses(self) -> tuple[int, ...]:
        return tuple(sorted({*COMMON_STATUSES, *self.extra_statuses, *(BODY_STATUSES if self.request else ())}))


STRING_SCHEMA: dict[str, Any] = {"type": "string"}
LABEL_SCHEMA = {**STRING_SCHEMA, "maxLength": 256}
HEADER_PARAMETERS = (
    OperationParameter(
        "X-Request-Id", "header", "Becomes part of the answer's id; wins over request_id.", LABEL_SCHEMA
    ),
    OperationParameter(
        "X-Session-ID", "header", "Which conversation this belongs to; has no effect here.", LABEL_SCHEMA
    ),
    OperationParameter(
        "X-Vllm-Priority", "header", "An integer, which wins over priority; else ignored.", STRING_SCHEMA
    ),
    OperationParameter(
        "X-data-parallel-rank", "header", "Which replica, an integer, else ignored; there is one, 0.", STRING_SCHEMA
    ),
    OperationParameter(
        "endpoint-load-metrics-format",
        "header",
        "TEXT or JSON asks for a header endpoint-load-metrics on a whole reply.",
        STRING_SCHEMA,
    ),
)
MODEL_NAME_PARAMETER = OperationParameter(
    "name", "path", "A served name; its slashes as they are, or as %2F.", STRING_SCHEMA
)
ASSET_NAME_PARAMETER = OperationParameter("name", "path", "One of the files that the page asks for.", STRING_SCHEMA)
ASSETS = ("text/css", "text/javascript", "application/json")
HTML, PLAIN, METRICS = ("text/html",), ("text/plain",), ("text/plain", "application/openmetrics-text")
_HEALTH = Operation(
    "Operations", "Answers 200, empty, when a request could be served now", PLAIN, has_unready_reply=True
)
_CHAT = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 40}
_COMPLETION = {"prompt": "Once upon a time", "max_tokens": 20}
_DOCS = Operation("Documentation", "This document as a page", HTML)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "Generation",
        "Answers a conversation",
        replies.ChatCompletion,
        ChatRequest,
        replies.ChatChunk,
        _CHAT,
        HEADER_PARAMETERS,
    ),
    ("POST", "/v1/completions"): Operation(
        "Generation",
        "Goes on from prompts",
        replies.CompletionJson,
        CompletionRequest,
        replies.CompletionChunk,
        _COMPLETION,
        HEADER_PARAMETERS,
    ),
    ("POST", "/v1/chat/completions/render"): Operation(
        "Generation",
        "Tells what would be run, without running it",
        replies.Rendered,
        ChatRequest,
        example=_CHAT,
        parameters=HEADER_PARAMETERS,
    ),
    ("POST", "/v1/completions/render"): Operation(
        "Generation",
        "Tells what would be run for each prompt, without running it",
        list[replies.Rendered],
        CompletionRequest,
        example=_COMPLETION,
        parameters=HEADER_PARAMETERS,
    ),
    ("GET", "/v1/models"): Operation("Models", "Lists what is served", replies.ModelList),
    ("GET", "/v1/models/{name}"): Operation(
        "Models",
        "Tells about one served name",
        replies.ModelCard,
        parameters=(MODEL_NAME_PARAMETER,),
        extra_statuses=(404,),
    ),
    ("POST", "/tokenize"): Operation(
        "Tokens",
        "Tells the token ids of a text or a conversation",
        replies.Tokens,
        TokenizeRequest,
        example={"prompt": "Hello world", "return_token_strs": True},
    ),
    ("POST", "/detokenize"): Operation(
        "Tokens",
        "Tells the text of token ids",
        replies.DetokenizedText,
        DetokenizeRequest,
        example={"tokens": [72, 105]},
    ),
    ("GET", "/tokenizer_info"): Operation("Tokens", "Tells the tokenizer's configuration", dict),
    ("GET", "/health"): _HEALTH,
    ("GET", "/ping"): _HEALTH,
    ("POST", "/ping"): _HEALTH,
    ("GET", "/live"): Operation("Operations", "Answers 200, empty, while the process is up", PLAIN),
    ("GET", "/version"): Operation("Operations", "Tells the server's version", replies.Version),
    ("GET", "/load"): Operation("Operations", "Tells how many requests are being answered", replies.Load),
    ("GET", "/metrics"): Operation("Operations", "Numbers for Prometheus", METRICS),
    ("GET", "/"): Operation(
        "Documentation", "The page to chat with the model", HTML, extra_statuses=(404,), is_cached=True
    ),
    ("GET", "/assets/{name}"): Operation(
        "Documentation",
        "A file of that page",
        ASSETS,
        parameters=(ASSET_NAME_PARAMETER,),
        extra_statuses=(404,),
        is_cached=True,
        key_scope="some",
    ),
    ("GET", "/docs"): _DOCS,
    ("GET", "/redoc"): _DOCS,
    ("GET", "/openapi.json"): Operation("Documentation", "This document", dict),
}
