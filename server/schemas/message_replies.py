"""The types of the replies of the Messages API. See generation_replies.py."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from server.schemas.generation_replies import describe

StopWord = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", None]


class ThinkingBlockJson(TypedDict):
    """Thinking before an answer."""

    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, describe("A mark of the thinking; with the display omitted, its text in base64.")]


class TextBlockJson(TypedDict):
    """Text."""

    type: Literal["text"]
    text: str


class ToolUseBlockJson(TypedDict):
    """A call of a tool."""

    type: Literal["tool_use", None]
    id: str
    name: str
    input: dict[str, Any]


BlockJson = ThinkingBlockJson | TextBlockJson | ToolUseBlockJson


class MessageUsage(TypedDict):
    """Tokens of a message."""

    input_tokens: Annotated[int, describe("Without those that were cached.")]
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: Annotated[int, describe("0 with --no-enable-prompt-tokens-details.")]
    output_tokens: int


class MessageReply(TypedDict):
    """A message of the model."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockJson]
    stop_reason: StopWord
    stop_sequence: str | None
    usage: MessageUsage


class MessageErrorDetails(TypedDict):
    """The kind of an error, a sentence about it, and of some what machines read."""

    type: str
    message: str
    details: NotRequired[dict[str, Any]]


class MessageError(TypedDict):
    """An error of the Messages API."""

    type: Literal["error"]
    error: MessageErrorDetails


class MessageEvent(TypedDict):
    """An event of a stream. Which keys it has depends on its type, as in Anthropic's API."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    ]
    message: NotRequired[MessageReply]
    index: NotRequired[int]
    content_block: NotRequired[BlockJson]
    delta: NotRequired[dict[str, Any]]
    usage: NotRequired[MessageUsage]
    error: NotRequired[MessageErrorDetails]


class TokenCount(TypedDict):
    """The number of a prompt's tokens."""

    input_tokens: int
