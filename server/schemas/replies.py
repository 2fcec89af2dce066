"""The types of all other replies: models, tokens, the server's state, errors. See generation_replies.py."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from server.schemas.generation_replies import PromptText, describe


class Rendered(TypedDict):
    """A prompt and its parameters as they would be run."""

    request_id: str
    model: str
    stream: bool
    token_ids: list[int]
    token_offsets: Annotated[
        list[tuple[int, int]] | None,
        describe(
            "With return_token_offsets: for each token its first character in the text (of a chat: prompt_text) and the"
            " one behind it; [0, 0] for a token that was added. Null for a prompt of token ids."
        ),
    ]
    sampling_params: dict[str, Any]
    prompt_text: NotRequired[PromptText]


class Permission(TypedDict):
    """Permissions of a model, as OpenAI's API has them; they are constants."""

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
    """One served name of the model, or an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: Annotated[str, describe("Where the weights came from: a directory, a file, or a hub id.")]
    parent: Annotated[str | None, describe("Of an adapter: the name of the model that it changes.")]
    max_model_len: Annotated[
        int | None, describe("Most tokens of a prompt and its answer together; null for an adapter.")
    ]
    default_sampling_params: Annotated[
        dict[str, Any],
        describe("Defaults of sampling parameters, from generation_config.json; {}: none."),
    ]
    permission: list[Permission]


class ModelList(TypedDict):
    """All served names of the model, then the adapters."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(TypedDict):
    """Token ids of a text or a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: Annotated[list[str] | None, describe("The tokenizer's own pieces, with return_token_strs.")]


class DetokenizedText(TypedDict):
    """The text of token ids."""

    prompt: str


class Version(TypedDict):
    """The version of the server."""

    version: str


class Load(TypedDict):
    """The load of the server."""

    server_load: Annotated[int, describe("Requests being answered; 0 without --enable-server-load-tracking.")]


class PageCounts(TypedDict):
    """Pages by what they are; free, active and cached ones add up to the total."""

    total: int
    free: int
    active: int
    cached: int


class PageGroup(PageCounts):
    """The pages of one cache group, which have their numbers in common."""

    name: str


class LiveRequest(TypedDict):
    """A request of the engine: one choice, or a whole beam search."""

    id: Annotated[int, describe("Its number in the engine.")]
    replica: int
    state: Literal["running", "waiting", "preempted"]
    pages: Annotated[int, describe("The number of pages that it holds.")]
    page_ids: Annotated[
        list[list[int]] | None,
        describe("These pages, for each of the groups; null where too many would be listed."),
    ]


class Slots(TypedDict):
    """Rows of the batch."""

    free: int
    used: int


class DebugState(TypedDict):
    """The state of the engines, each between two of its steps."""

    invariants: Annotated[
        dict[str, Literal[True] | str],
        describe("true, or a sentence that says what is wrong. Invariants that compare two states are not listed."),
    ]
    pages: PageCounts
    page_groups: list[PageGroup]
    requests: list[LiveRequest]
    num_requests: Annotated[int, describe("How many there are; of very many not all are listed.")]
    slots: Slots
    is_paused: bool


class ServerInfo(TypedDict):
    """The settings of the server, without keys."""

    version: str
    vllm_config: Annotated[
        dict[str, dict[str, Any]] | str,
        describe("The settings of the engine and of the server as resolved, under the name that vLLM gives them."),
    ]


class ResetDone(TypedDict):
    """The result of a reset: the prefix cache is empty now, or requests run."""

    success: bool


class PauseStatus(TypedDict):
    """The state that the server was put into."""

    status: Literal["paused", "resumed"]


class IsPaused(TypedDict):
    """The answer of /is_paused: the server is paused, or about to be."""

    is_paused: bool


class AbortedRequests(TypedDict):
    """The number of requests that were ended."""

    status: Literal["aborted"]
    aborted: int


class ErrorObject(TypedDict):
    """An error."""

    message: str
    type: str
    param: Annotated[str | None, describe("The field at fault.")]
    code: Annotated[int, describe("The HTTP status.")]


class ErrorReply(TypedDict):
    """Every error but 401 has these four keys, also the last event of a stream that broke."""

    error: ErrorObject


class UnauthorizedReply(TypedDict):
    """The reply to a request without a valid key."""

    error: Literal["Unauthorized"]
