"""The table of all routes: parameters, request and reply types, and error statuses. A test compares it with the app."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from server.schemas import generation_replies, message_replies, pooling_replies, replies, response_replies
from server.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest
from server.schemas.batch_chat import BatchChatRequest
from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.control import AbortRequest
from server.schemas.generative_scoring import GenerativeScoringRequest
from server.schemas.invocations import InvocationRequest
from server.schemas.messages import CountTokensRequest, MessagesRequest
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, RerankRequest, ScoreRequest
from server.schemas.responses import ResponsesRequest
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

COMMON_STATUSES = (400, 431, 500)
BODY_STATUSES = (404, 408, 413, 415, 429, 503, 504)
ERROR_DESCRIPTIONS = {  # status → when
    400: "Something in the request is wrong; param names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model, or no such response.",
    408: "The body was not complete in time (--body-timeout-s).",
    413: "The body is larger than --max-body-bytes.",
    415: "The body is encoded; send it as it is.",
    429: "The key or address has too many requests at a time (--max-concurrency-per-key).",
    431: "The request's head is too large (--max-header-bytes, --max-headers).",
    500: "The generation failed, or the engine did.",
    503: "Too much is waiting, or the server is shutting down; come back after Retry-After seconds.",
    504: "The request was not finished in time (--request-timeout-s).",
}


@dataclass(frozen=True, slots=True)
class OperationParameter:
    """A parameter outside the body. location: "path", "query" or "header"."""

    name: str
    location: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route of the document.

    tag                 heading under which it stands
    summary             one sentence without its full stop
    reply               TypedDict, list of one, or dict for JSON; else the content types of a text
    request             schema of the body
    chunk               TypedDict of the events, if a stream can be asked for
    example             a body to try
    parameters          those outside the body
    extra_statuses      error statuses beyond those of every route
    is_messages         its errors are those of the Messages API
    ends_with_done      the last event of its stream is [DONE]
    has_unready_reply   503 has the same form as 200
    is_cached           If-None-Match may be answered with 304
    key_scope           whether all paths of the pattern need a key, where keys are configured, or only some
    """

    tag: str
    summary: str
    reply: Any
    request: type[BaseModel] | None = None
    chunk: Any = None
    example: Any = None
    parameters: tuple[OperationParameter, ...] = ()
    extra_statuses: tuple[int, ...] = ()
    is_messages: bool = False
    ends_with_done: bool = True
    has_unready_reply: bool = False
    is_cached: bool = False
    key_scope: Literal["all", "some"] = "all"

    @property
    def error_statuses(self) -> tuple[int, ...]:
        """The statuses of its error objects, in order."""
        return tuple(sorted({*COMMON_STATUSES, *self.extra_statuses, *(BODY_STATUSES if self.request else ())}))


STRING_SCHEMA: dict[str, Any] = {"type": "string"}


def _make_enum(default: str, *others: str) -> dict[str, Any]:
    """Make the schema of a word out of several, of which the first is the default."""
    return {**STRING_SCHEMA, "enum": [default, *others], "default": default}


LABEL_SCHEMA = {**STRING_SCHEMA, "maxLength": 256}
HEADER_PARAMETERS = (
    OperationParameter("X-Request-Id", "header", "Becomes part of the reply's id; wins over request_id.", LABEL_SCHEMA),
    OperationParameter("X-Session-ID", "header", "Id of the conversation; has no effect here.", LABEL_SCHEMA),
    OperationParameter(
        "X-Vllm-Priority", "header", "An integer, which wins over priority; anything else is ignored.", STRING_SCHEMA
    ),
    OperationParameter(
        "X-data-parallel-rank",
        "header",
        "Number of a replica; there is only 0. Anything but an integer is ignored.",
        STRING_SCHEMA,
    ),
    OperationParameter(
        "endpoint-load-metrics-format",
        "header",
        "TEXT or JSON asks for the header endpoint-load-metrics on a whole reply.",
        STRING_SCHEMA,
    ),
)
MODEL_NAME_PARAMETER = OperationParameter(
    "name", "path", "A served model name; its slashes as they are, or as %2F.", STRING_SCHEMA
)
ASSET_NAME_PARAMETER = OperationParameter("name", "path", "A file of the page.", STRING_SCHEMA)
ASSETS = ("text/css", "text/javascript", "application/json")
HTML, PLAIN, METRICS = ("text/html",), ("text/plain",), ("text/plain", "application/openmetrics-text")
_CONFIG_FORMAT = OperationParameter("config_format", "query", "As an object or as text.", _make_enum("text", "json"))
_RESET_RUNNING = OperationParameter(
    "reset_running_requests", "query", "Compute running requests again from their beginnings.", {"type": "boolean"}
)
_PAUSE_MODE = OperationParameter(
    "mode",
    "query",
    "abort ends running requests and refuses new ones (503), wait lets running ones finish, keep lets all wait.",
    _make_enum("abort", "wait", "keep"),
)
_HEALTH = Operation(
    "Operations", "Tell by an empty 200 that a request can be served now", PLAIN, has_unready_reply=True
)
_CHAT = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 40}
_QUESTIONS = ("Why is the sky blue?", "Why is grass green?")
_BATCH = {"messages": [[{"role": "user", "content": text}] for text in _QUESTIONS], "max_tokens": 40}
_COMPLETION = {"prompt": "Once upon a time", "max_tokens": 20}
_MESSAGE = {"model": "MODEL", "max_tokens": 40, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
_RESPONSE = {"input": "Why is the sky blue?", "max_output_tokens": 40}
RESPONSE_ID_PARAMETER = OperationParameter("response_id", "path", "The id of a response.", STRING_SCHEMA)
_DOCS = Operation("Documentation", "Show this document as a page", HTML)
_EMBED = Operation(
    "Embeddings and scores",
    "Embed texts",
    pooling_replies.EmbeddingList,
    EmbeddingRequest,
    example={"input": ["The sky is blue.", "Grass is green."]},
    parameters=HEADER_PARAMETERS,
)
_SCORE = Operation(
    "Embeddings and scores",
    "Score how well pairs of texts fit together",
    pooling_replies.ScoreList,
    ScoreRequest,
    example={"text_1": "Why is the sky blue?", "text_2": ["It scatters light.", "Grass is green."]},
    parameters=HEADER_PARAMETERS,
)
_RERANK = Operation(
    "Embeddings and scores",
    "Rank documents by how well they answer a query",
    pooling_replies.Ranking,
    RerankRequest,
    example={"query": "Why is the sky blue?", "documents": ["Grass is green.", "It scatters light."], "top_n": 1},
    parameters=HEADER_PARAMETERS,
)
POOLING_OPERATIONS = {
    ("POST", "/v1/embeddings"): _EMBED,
    ("POST", "/pooling"): replace(_EMBED, summary="Return what is pooled of texts", reply=pooling_replies.PooledList),
    ("POST", "/v1/classify"): replace(
        _EMBED, summary="Classify texts", reply=pooling_replies.ClassificationList, request=ClassifyRequest
    ),
    **{("POST", path): _SCORE for path in ("/v1/score", "/score")},
    **{("POST", path): _RERANK for path in ("/v1/rerank", "/rerank", "/v2/rerank")},
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "Generation",
        "Answer a conversation",
        generation_replies.ChatCompletion,
        ChatRequest,
        generation_replies.ChatChunk,
        _CHAT,
        HEADER_PARAMETERS,
    ),
    ("POST", "/v1/chat/completions/batch"): Operation(
        "Generation",
        "Answer several conversations, each with one choice",
        generation_replies.ChatCompletion,
        BatchChatRequest,
        example=_BATCH,
        parameters=HEADER_PARAMETERS,
    ),
    ("POST", "/v1/responses"): Operation(
        "Generation",
        "Answer items, such as messages and results of tools",
        response_replies.ResponseJson,
        ResponsesRequest,
        response_replies.ResponseEvent,
        _RESPONSE,
        HEADER_PARAMETERS,
        ends_with_done=False,
    ),
    ("GET", "/v1/responses/{response_id}"): Operation(
        "Generation",
        "Return a response that is kept, or the events of one in the background",
        response_replies.ResponseJson,
        chunk=response_replies.ResponseEvent,
        parameters=(
            RESPONSE_ID_PARAMETER,
            OperationParameter("stream", "query", "Return the events.", {"type": "boolean"}),
            OperationParameter("starting_after", "query", "Only events behind this one.", {"type": "integer"}),
        ),
        extra_statuses=(404,),
        ends_with_done=False,
    ),
    ("DELETE", "/v1/responses/{response_id}"): Operation(
        "Generation",
        "Forget a response",
        response_replies.DeletedResponse,
        parameters=(RESPONSE_ID_PARAMETER,),
        extra_statuses=(404,),
    ),
    ("POST", "/v1/responses/{response_id}/cancel"): Operation(
        "Generation",
        "End a response that is generated in the background",
        response_replies.ResponseJson,
        parameters=(RESPONSE_ID_PARAMETER,),
        extra_statuses=(404,),
    ),
    ("POST", "/invocations"): Operation(
        "Generation",
        "Answer a body of chat, completions or Responses",
        ("application/json", "text/event-stream"),
        InvocationRequest,
        example=_CHAT,
        parameters=HEADER_PARAMETERS,
    ),
    ("POST", "/v1/messages"): Operation(
        "Generation",
        "Answer a conversation in Anthropic's form",
        message_replies.MessageReply,
        MessagesRequest,
        message_replies.MessageEvent,
        _MESSAGE,
        HEADER_PARAMETERS,
        is_messages=True,
        ends_with_done=False,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Tokens",
        "Count the tokens of a conversation in Anthropic's form",
        message_replies.TokenCount,
        CountTokensRequest,
        example={key: value for key, value in _MESSAGE.items() if key != "max_tokens"},
        is_messages=True,
    ),
    ("POST", "/v1/completions"): Operation(
        "Generation",
        "Complete prompts",
        generation_replies.CompletionJson,
        CompletionRequest,
        generation_replies.CompletionChunk,
        _COMPLETION,
        HEADER_PARAMETERS,
    ),
    **POOLING_OPERATIONS,
    ("POST", "/generative_scoring"): Operation(
        "Generation",
        "Score items by how probable a token is behind a query and each of them",
        generation_replies.GenerativeScores,
        GenerativeScoringRequest,
        example={"query": "Is it a colour? ", "items": ["Blue.", "Seven."], "label_token_ids": [1, 2]},
        parameters=HEADER_PARAMETERS,
    ),
    ("POST", "/v1/chat/completions/render"): Operation(
        "Generation",
        "Render a conversation as a prompt, without running it",
        replies.Rendered,
        ChatRequest,
        example=_CHAT,
        parameters=HEADER_PARAMETERS,
    ),
    ("POST", "/v1/completions/render"): Operation(
        "Generation",
        "Tokenize prompts and resolve their parameters, without running them",
        list[replies.Rendered],
        CompletionRequest,
        example=_COMPLETION,
        parameters=HEADER_PARAMETERS,
    ),
    ("GET", "/v1/models"): Operation("Models", "List the served models", replies.ModelList),
    ("GET", "/v1/models/{name}"): Operation(
        "Models",
        "Describe one served model",
        replies.ModelCard,
        parameters=(MODEL_NAME_PARAMETER,),
        extra_statuses=(404,),
    ),
    ("POST", "/v1/load_lora_adapter"): Operation(
        "Models",
        "Read an adapter, which requests may name from then on",
        PLAIN,
        LoadAdapterRequest,
        example={"lora_name": "sql", "lora_path": "adapters/sql"},
    ),
    ("POST", "/v1/unload_lora_adapter"): Operation(
        "Models",
        "Remove an adapter; requests that run keep it",
        PLAIN,
        UnloadAdapterRequest,
        example={"lora_name": "sql"},
    ),
    ("POST", "/tokenize"): Operation(
        "Tokens",
        "Tokenize a text or a conversation",
        replies.Tokens,
        TokenizeRequest,
        example={"prompt": "Hello world", "return_token_strs": True},
    ),
    ("POST", "/detokenize"): Operation(
        "Tokens",
        "Decode token ids into text",
        replies.DetokenizedText,
        DetokenizeRequest,
        example={"tokens": [72, 105]},
    ),
    ("GET", "/tokenizer_info"): Operation("Tokens", "Return the tokenizer's configuration", dict),
    ("GET", "/health"): _HEALTH,
    ("GET", "/ping"): _HEALTH,
    ("POST", "/ping"): _HEALTH,
    ("GET", "/live"): Operation("Operations", "Tell by an empty 200 that the process is running", PLAIN),
    ("GET", "/version"): Operation("Operations", "Return the server's version", replies.Version),
    ("GET", "/load"): Operation("Operations", "Return the number of running requests", replies.Load),
    ("GET", "/metrics"): Operation("Operations", "Return metrics for Prometheus", METRICS),
    ("GET", "/debug/state"): Operation(
        "Control", "Return invariants, requests and pages of the engine", replies.DebugState, extra_statuses=(503,)
    ),
    ("GET", "/server_info"): Operation(
        "Control", "Return the settings in effect", replies.ServerInfo, parameters=(_CONFIG_FORMAT,)
    ),
    ("POST", "/reset_prefix_cache"): Operation(
        "Control",
        "Forget all cached prefixes, unless requests run",
        replies.ResetDone,
        parameters=(_RESET_RUNNING,),
        extra_statuses=(503,),
    ),
    ("POST", "/pause"): Operation(
        "Control",
        "Pause the server; answered when nothing is computed any more",
        replies.PauseStatus,
        parameters=(_PAUSE_MODE,),
        extra_statuses=(503,),
    ),
    ("POST", "/resume"): Operation("Control", "Let a paused server go on", replies.PauseStatus, extra_statuses=(503,)),
    ("GET", "/is_paused"): Operation("Control", "Tell whether the server is paused", replies.IsPaused),
    ("POST", "/abort_requests"): Operation(
        "Control",
        "End unfinished requests of the same key by their ids",
        replies.AbortedRequests,
        AbortRequest,
        example={"request_ids": ["chatcmpl-1"]},
    ),
    ("GET", "/"): Operation("Documentation", "Show the chat page", HTML, extra_statuses=(404,), is_cached=True),
    ("GET", "/assets/{name}"): Operation(
        "Documentation",
        "Return a file of the chat page",
        ASSETS,
        parameters=(ASSET_NAME_PARAMETER,),
        extra_statuses=(404,),
        is_cached=True,
        key_scope="some",
    ),
    ("GET", "/docs"): _DOCS,
    ("GET", "/redoc"): _DOCS,
    ("GET", "/openapi.json"): Operation("Documentation", "Return this document", dict),
}
