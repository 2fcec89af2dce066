"""The types of the replies of the generation endpoints, from which the OpenAPI document is made.

The tests validate every reply that they get against that document, so a key that is missing here fails them. The
replies themselves are plain dictionaries, made where their parts are known; they are not validated before they are
sent. NotRequired means that the key may be absent, None that it may be null.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from jaxserve import FinishReason


def describe(text: str) -> object:
    """Return the description of a key in the OpenAPI document."""
    return Field(description=text)


class PromptTokensDetails(TypedDict):
    """Details of the prompt's tokens."""

    cached_tokens: Annotated[int, describe("Prompt tokens that were found in the prefix cache.")]


class CompletionTokensDetails(TypedDict):
    """Details of the generated tokens."""

    reasoning_tokens: Annotated[int, describe("Tokens of reasoning, without its end marker.")]


class UsageJson(TypedDict):
    """Tokens of one request: its prompt, counted once, and those of all choices.

    The last key is there if the model reasons.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails | None]
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class RequestMetrics(TypedDict):
    """Times of a request with one choice, with --enable-per-request-metrics; in a stream with the usage chunk."""

    time_to_first_token_ms: Annotated[float | None, describe("From the time that it began to run.")]
    generation_time_ms: Annotated[float | None, describe("From the first token to the last.")]
    queue_time_ms: Annotated[float | None, describe("Until it began to run.")]
    mean_itl_ms: Annotated[float | None, describe("Between two tokens; null for a single one.")]
    tokens_per_second: Annotated[float | None, describe("Tokens of the answer in the time since it began to run.")]
    speculative_decoding: None


class TopToken(TypedDict):
    """One token and its log-probability."""

    token: str
    logprob: Annotated[float, describe("Natural logarithm; -9999 stands for minus infinity.")]
    bytes: Annotated[list[int], describe("The token's text in UTF-8.")]


class TokenScore(TopToken):
    """One token of the answer, and the most likely ones at its position."""

    top_logprobs: list[TopToken]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a choice."""

    content: list[TokenScore]


class PromptScore(TypedDict):
    """Log-probability and rank of one token at one position of the prompt."""

    logprob: float
    rank: Annotated[int | None, describe("1 is the most likely token of the vocabulary.")]
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, PromptScore] | None] | None,
    describe("For each prompt token an object from token id to score; null for the first token."),
]
PromptTokenIds = Annotated[list[int] | None, describe("The token ids that the model read, with return_token_ids.")]
OutputTokenIds = Annotated[list[int] | None, describe("All generated token ids, with return_token_ids.")]
RoutedExpertsText = Annotated[
    str | None,
    describe(
        "With --enable-return-routed-experts: the experts of each token of prompt and answer but the last, an .npy file"
        " in base64, whose array is [tokens, layers, experts a token]."
    ),
]
StopReason = Annotated[int | str | None, describe("The stop string or stop token id that ended the answer.")]
Fingerprint = Annotated[str | None, describe("Of the server and its configuration; see --fingerprint-mode.")]


PromptText = Annotated[str | None, describe("The prompt as the chat template rendered it, with return_prompt_text.")]


class CalledFunction(TypedDict):
    """A function's name, and the arguments of the call."""

    name: str
    arguments: Annotated[str, describe("JSON, as the model wrote it.")]


class ToolCallJson(TypedDict):
    """One tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


Reasoning = Annotated[str | None, describe("Reasoning before the answer.")]
LegacyReasoning = Annotated[str | None, describe("The same as reasoning, with --legacy-reasoning-content.")]


class AssistantMessage(TypedDict):
    """The message of a choice."""

    role: str
    content: Annotated[str | None, describe("Null if there is nothing before a tool call, or after the reasoning.")]
    refusal: None
    annotations: None
    audio: None
    function_call: None
    tool_calls: NotRequired[Annotated[list[ToolCallJson], Field(min_length=1)]]
    reasoning: Reasoning
    reasoning_content: NotRequired[LegacyReasoning]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason
    token_ids: OutputTokenIds
    routed_experts: RoutedExpertsText


class ChatCompletion(TypedDict):
    """A whole answer. Every key is always there; null if it does not apply."""

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
    ec_transfer_params: None
    metrics: RequestMetrics | None
    prompt_text: NotRequired[PromptText]


class FunctionDelta(TypedDict):
    """A piece of a function's arguments; the first one has its name."""

    name: NotRequired[str]
    arguments: Annotated[str, describe("The next piece of the JSON.")]


class ToolCallDeltaJson(TypedDict):
    """A piece of one tool call; its first one has id, type and name."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict):
    """New parts of a message; the first delta of a choice has its role."""

    role: NotRequired[str]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[Annotated[str, describe("The same as reasoning, with --legacy-reasoning-content.")]]
    tool_calls: NotRequired[Annotated[list[ToolCallDeltaJson], Field(min_length=1)]]


class ChatChunkChoice(TypedDict):
    """A part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[StopReason]
    token_ids: NotRequired[list[int]]


class ChatChunk(TypedDict):
    """A part of an answer: role, text, end or usage. The usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[UsageJson]
    metrics: NotRequired[RequestMetrics]
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
    """One answer to one prompt."""

    index: Annotated[int, describe("prompt * n + choice")]
    text: str
    logprobs: CompletionLogprobsJson | None
    finish_reason: FinishReason
    stop_reason: StopReason
    token_ids: OutputTokenIds
    prompt_logprobs: PromptLogprobs
    prompt_token_ids: PromptTokenIds
    routed_experts: RoutedExpertsText


class CompletionJson(TypedDict):
    """All choices of all prompts. Every key is always there; null if it does not apply."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: None
    system_fingerprint: Fingerprint
    usage: UsageJson
    kv_transfer_params: None
    ec_transfer_params: None
    metrics: RequestMetrics | None


class LabelScore(TypedDict):
    """The score of one item."""

    index: int
    object: Literal["score"]
    score: Annotated[float, describe("The probability of the first label.")]


class GenerativeScores(TypedDict):
    """The scores of the items, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[LabelScore]
    usage: UsageJson


class CompletionChunkChoice(TypedDict):
    """A part of one answer to one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobsJson | None
    finish_reason: FinishReason | None
    stop_reason: StopReason
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[PromptTokenIds]


class CompletionChunk(TypedDict):
    """A part of an answer. The usage chunk has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: NotRequired[UsageJson]
    metrics: NotRequired[RequestMetrics]
    system_fingerprint: NotRequired[Fingerprint]
