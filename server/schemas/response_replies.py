"""The types of the replies of the Responses API. See generation_replies.py."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from server.schemas.generation_replies import TokenScore, describe

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenScore]


class ReasoningText(TypedDict):
    """The text of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(TypedDict):
    """The summary of the reasoning: the same text."""

    type: Literal["summary_text"]
    text: str


class ReasoningItemJson(TypedDict):
    """Reasoning before an answer."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: NotRequired[Annotated[str, describe("The same text, encoded, for clients that store nothing.")]]
    status: ItemStatus


class MessageItemJson(TypedDict):
    """The text of an answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    content: list[OutputText]
    status: ItemStatus


class FunctionCallItemJson(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: NotRequired[str]
    arguments: Annotated[str, describe("JSON, as the model wrote it.")]
    status: ItemStatus


class CustomCallItemJson(TypedDict):
    """A call of a custom tool."""

    id: str
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: NotRequired[str]
    input: str
    status: ItemStatus


OutputItemJson = ReasoningItemJson | MessageItemJson | FunctionCallItemJson | CustomCallItemJson


class InputTokensDetails(TypedDict):
    """Details of the input's tokens."""

    cached_tokens: Annotated[int, describe("From the prefix cache; 0 without --enable-prompt-tokens-details.")]
    cache_write_tokens: Literal[0]


class OutputTokensDetails(TypedDict):
    """Details of the generated tokens."""

    reasoning_tokens: int


class ResponseUsageJson(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseErrorJson(TypedDict):
    """The reason why a response has failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(TypedDict):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseJson(TypedDict):
    """A response. Every key is always there; null if it does not apply."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: ResponseErrorJson | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItemJson]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt: None
    prompt_cache_key: str | None
    reasoning: Annotated[dict[str, str | None], describe("effort and summary, as they were asked for.")]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: Annotated[dict[str, Any], describe("format and verbosity, as they were asked for.")]
    tool_choice: str | dict[str, Any]
    tools: Annotated[list[dict[str, Any]], describe("As they were sent, without built-in ones.")]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsageJson | None
    user: str | None


class ResponseEvent(TypedDict):
    """An event of a stream. Which keys it has depends on its type, as in OpenAI's API."""

    type: str
    sequence_number: int
    response: NotRequired[ResponseJson]
    output_index: NotRequired[int]
    item: NotRequired[OutputItemJson]
    item_id: NotRequired[str]
    content_index: NotRequired[int]
    summary_index: NotRequired[int]
    part: NotRequired[OutputText | ReasoningText | SummaryText]
    delta: NotRequired[str]
    text: NotRequired[str]
    logprobs: NotRequired[list[TokenScore]]
    name: NotRequired[str]
    arguments: NotRequired[str]
    input: NotRequired[str]


class DeletedResponse(TypedDict):
    """A response that has been forgotten."""

    id: str
    object: Literal["response.deleted"]
    deleted: Literal[True]
