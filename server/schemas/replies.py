"""What the server answers, as types. The OpenAPI document is made from them, and the tests hold every answer that they
get to that document, so a key that is not listed here does not leave the server unnoticed.

The replies themselves are plain dictionaries, made where their parts are known; nothing is validated on its way out.
NotRequired means that the key may be absent, None that it may be null.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from jaxserve import FinishReason


def _describe(text: str) -> object:
    return Field(description=text)


class PromptTokensDetails(TypedDict):
    cached_tokens: Annotated[int, _describe("Prompt tokens that were found in the prefix cache.")]


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: Annotated[int, _describe("Tokens of reasoning, its end mark not counted.")]


class UsageJson(TypedDict):
    """Tokens of one request: its prompt once, and those of all choices. The last key is there if the model reasons."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails | None]
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class TopToken(TypedDict):
    token: str
    logprob: Annotated[float, _describe("Natural logarithm; -9999 stands for minus infinity.")]
    bytes: Annotated[list[int], _describe("The token's text in UTF-8.")]


class TokenScore(TopToken):
    """One token of the answer, and the best ones at its place."""

    top_logprobs: list[TopToken]


class ChatLogprobs(TypedDict):
    content: list[TokenScore]


class PromptScore(TypedDict):
    logprob: float
    rank: Annotated[int | None, _describe("1 is the most likely token of the vocabulary.")]
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, PromptScore] | None] | None,
    _describe("For each prompt token an object from token id to score; null for the first token."),
]
PromptTokenIds = Annotated[list[int] | None, _describe("The token ids that the model read, with return_token_ids.")]
OutputTokenIds = Annotated[list[int] | None, _describe("All generated token ids, with return_token_ids.")]
StopReason = Annotated[int | str | None, _describe("The stop string or stop token id that ended the answer.")]
Fingerprint = Annotated[str | None, _describe("Of the server and its configuration; see --fingerprint-mode.")]


PromptText = Annotated[str | None, _describe("What the chat template wrote, with return_prompt_text.")]


class CalledFunction(TypedDict):
    name: str
    arguments: Annotated[str, _describe("JSON, as the model wrote it.")]


class ToolCallJson(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


Reasoning = Annotated[str | None, _describe("What was thought before the answer.")]
LegacyReasoning = Annotated[str | None, _describe("The same as reasoning, with --legacy-reasoning-content.")]


class AssistantMessage(TypedDict):
    role: str
    content: Annotated[str | None, _describe("Null where nothing stands before a tool call, or after the reasoning.")]
    refusal: None
    annotations: None
    audio: None
    function_call: None
    tool_calls: NotRequired[Annotated[list[ToolCallJson], Field(min_length=1)]]
    reasoning: Reasoning
    reasoning_content: NotRequired[LegacyReasoning]


class ChatChoice(TypedDict):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason
    token_ids: OutputTokenIds


class ChatCompletion(TypedDict):
    """A whole answer. Every key is always there; null where nothing applies."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: None
    system_fingerprint: Fingerprint
    usage: UsageJson
    prompt_logprobs: PromptLogprobs
    prompt_token_ids: PromptTokenIds
    kv_transfer_params: None
    prompt_text: NotRequired[PromptText]


class FunctionDelta(TypedDict):
    name: NotRequired[str]
    arguments: Annotated[str, _describe("The next piece of the JSON.")]


class ToolCallDeltaJson(TypedDict):
    """News of one tool call; the first has its id, type and name."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict):
    """What is new; the first delta of a choice has its role."""

    role: NotRequired[str]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[Annotated[str, _describe("The same as reasoning, with --legacy-reasoning-content.")]]
    tool_calls: NotRequired[Annotated[list[ToolCallDeltaJson], Field(min_length=1)]]


class ChatChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[StopReason]
    token_ids: NotRequired[list[int]]


class ChatChunk(TypedDict):
    """A piece of an answer: role, text, end or usage. The usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[UsageJson]
    system_fingerprint: NotRequired[Fingerprint]
    prompt_token_ids: NotRequired[list[int]]
    prompt_text: NotRequired[PromptText]


class CompletionLogprobsJson(TypedDict):
    """Parallel arrays, one element per token. An echoed prompt's first token has no value: null."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(TypedDict):
    index: Annotated[int, _describe("prompt * n + choice")]
    text: str
    logprobs: CompletionLogprobsJson | None
    finish_reason: FinishReason
    stop_reason: StopReason
    token_ids: OutputTokenIds
    prompt_logprobs: PromptLogprobs
    prompt_token_ids: PromptTokenIds


class CompletionJson(TypedDict):
    """All choices of all prompts. Every key is always there; null where nothing applies."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: None
    system_fingerprint: Fingerprint
    usage: UsageJson
    kv_transfer_params: None


class CompletionChunkChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobsJson | None
    finish_reason: FinishReason | None
    stop_reason: StopReason
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[PromptTokenIds]


class CompletionChunk(TypedDict):
    """A piece of an answer. The usage chunk has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: NotRequired[UsageJson]
    system_fingerprint: NotRequired[Fingerprint]


class Rendered(TypedDict):
    """What would be run."""

    request_id: str
    model: str
    stream: bool
    token_ids: list[int]
    sampling_params: dict[str, Any]
    prompt_text: NotRequired[PromptText]


class Permission(TypedDict):
    id: str
    object: Literal["model_permission"]
    created: int
    allow_create_engine: bool
    allow_sampling: bool
    allow_logprobs: bool
    allow_search_indices: bool
    allow_view: bool
    allow_fine_tuning: bool
    organization: str
    group: None
    is_blocking: bool


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: Annotated[str, _describe("Where the weights came from: a directory, a file, or a hub id.")]
    parent: None
    max_model_len: Annotated[int, _describe("Most tokens of a prompt and its answer together.")]
    default_sampling_params: Annotated[
        dict[str, Any],
        _describe("What holds where a request says nothing, by generation_config.json's names; {}: nothing."),
    ]
    permission: list[Permission]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


class Tokens(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: Annotated[list[str] | None, _describe("The tokenizer's own pieces, with return_token_strs.")]


class DetokenizedText(TypedDict):
    prompt: str


class Version(TypedDict):
    version: str


class Load(TypedDict):
    server_load: Annotated[int, _describe("Requests being answered; 0 without --enable-server-load-tracking.")]


class ErrorObject(TypedDict):
    message: str
    type: str
    param: Annotated[str | None, _describe("The field at fault.")]
    code: Annotated[int, _describe("The HTTP status.")]


class ErrorReply(TypedDict):
    """Every error but 401 has these four keys, also the last event of a stream that broke."""

    error: ErrorObject


class UnauthorizedReply(TypedDict):
    error: Literal["Unauthorized"]
