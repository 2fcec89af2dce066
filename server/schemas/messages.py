"""The bodies of POST /v1/messages and POST /v1/messages/count_tokens."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import MAX_MESSAGES, ChatRequest
from server.schemas.common import Int, NestedModel, Strings
from server.schemas.fields import honoured, no_effect, refused, same_as

THINKING_TYPES = ("enabled", "disabled", "adaptive")
THINKING_DISPLAYS = ("summarized", "omitted", "updates")
TOOL_CHOICE_TYPES = ("auto", "any", "tool", "none")
MIN_THINKING_BUDGET = 1024
_PARAMETERS = "test_messages_fields.py::test_a_field_becomes_that_of_chat"
_INPUT = "test_messages_input.py::test_blocks_become_the_messages_of_chat"
_NO_EFFECT = "test_messages_fields.py::test_what_has_no_effect_changes_nothing"
_REFUSED = "test_messages_fields.py::test_what_is_not_offered_is_refused_by_name"
_TEMPLATE = "test_messages_fields.py::test_variables_of_the_template_reach_it"
_THINKING = "test_messages_fields.py::test_thinking_is_switched_and_limited"
_OUTPUT = "test_messages_fields.py::test_effort_and_format_are_those_of_chat"
_TOOLS = "test_messages_fields.py::test_tools_become_functions"
_CHOICE = "test_messages_fields.py::test_what_a_tool_choice_comes_to"
Blocks = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class MessageParam(NestedModel):
    """One message of the conversation."""

    role: str = honoured(is_required=True, note="user, assistant, system", test=_INPUT)
    content: str | Blocks = honoured(
        is_required=True, note="text, thinking, tool_use, tool_result; images are refused", test=_INPUT
    )


class ThinkingOptions(NestedModel):
    """Thinking of the model, as far as its template can switch it."""

    type: str = honoured(is_required=True, note="adaptive: as the template has it", test=_THINKING)
    budget_tokens: Int | None = honoured(note="of models that reason", test=_THINKING)
    display: str | None = honoured(note="omitted: thinking is only in the signature; else it is shown", test=_THINKING)


class OutputFormat(NestedModel):
    """The form of the answer's text."""

    type: str = honoured(is_required=True, note="json_schema", test=_OUTPUT)
    schema_: dict[str, Any] | None = honoured(alias="schema", test=_OUTPUT)


class OutputConfig(NestedModel):
    """Options of the answer."""

    effort: str | None = honoured(note="if the template uses it", test=_OUTPUT)
    format: OutputFormat | None = honoured(test=_OUTPUT)


class ToolChoiceJson(NestedModel):
    """The choice of tools."""

    type: str = honoured(is_required=True, note="auto, any, tool, none", test=_CHOICE)
    name: str | None = honoured(note="of the type tool", test=_CHOICE)
    disable_parallel_tool_use: bool | None = honoured(note="true: one call at most", test=_CHOICE)


class CountTokensRequest(BaseModel):
    """The body of POST /v1/messages/count_tokens."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = honoured(
        "Name of the model, or of an adapter.",
        is_required=True,
        note="a served name, or an adapter's",
        test="test_messages_reply.py::test_the_model_is_checked",
        enum=lambda limits: None if limits.has_adapters else [*limits.names],
    )
    messages: Annotated[list[MessageParam], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] = honoured(
        "Messages of the conversation; a last one of the assistant is continued.",
        is_required=True,
        note="text only",
        test=_INPUT,
    )
    system: str | Blocks | None = honoured(
        "System message, or blocks of it.", note="lines x-anthropic-billing-header are left out", test=_INPUT
    )
    tools: Blocks | None = honoured(
        "Tools that the model may call.",
        note="Anthropic's own are left out, and named in the header x-jaxserve-ignored-tools; all are loaded at once",
        test=_TOOLS,
    )
    tool_choice: ToolChoiceJson | None = honoured("Whether a tool may or must be called, or which one.", test=_CHOICE)
    thinking: ThinkingOptions | None = honoured("Thinking before the answer.", test=_THINKING)
    output_config: OutputConfig | None = honoured("Effort and format of the answer.", test=_OUTPUT)
    output_format: OutputFormat | None = honoured("The older name of output_config.format.", test=_OUTPUT)
    chat_template_kwargs: dict[str, Any] | None = same_as(
        ChatRequest, "chat_template_kwargs", note="if the template uses them; thinking wins", test=_TEMPLATE
    )
    cache_control: dict[str, Any] | None = no_effect(
        "Border of what is cached.", note="every prompt is cached, as far as there is room", test=_NO_EFFECT
    )
    context_management: dict[str, Any] | None = no_effect(
        "Removal of old thinking and results.", note="the template shows what it shows", test=_NO_EFFECT
    )
    speed: str | None = no_effect("Speed of the answer.", note="there is one", test=_NO_EFFECT)
    billing_policy: dict[str, Any] | None = no_effect("Who pays.", note="nobody does here", test=_NO_EFFECT)
    mcp_servers: list[Any] | None = refused("Servers of tools.", note="tools are called by clients here", test=_REFUSED)


class MessagesRequest(CountTokensRequest):
    """The body of POST /v1/messages. It becomes a chat request."""

    max_tokens: Int = honoured(
        "Most tokens to generate, thinking included; more than fit behind the prompt are as many as fit.",
        is_required=True,
        test="test_messages_fields.py::test_more_tokens_than_fit_are_as_many_as_fit",
        minimum=1,
        note="clamped to the room behind the prompt",
    )
    stop_sequences: Strings | None = honoured(
        "Strings that end the answer.",
        note="at most 4",
        test=_PARAMETERS,
        maxItems=lambda limits: limits.max_stop_strings,
    )
    temperature: float | None = same_as(ChatRequest, "temperature", test=_PARAMETERS)
    top_p: float | None = same_as(ChatRequest, "top_p", test=_PARAMETERS)
    top_k: Int | None = same_as(ChatRequest, "top_k", test=_PARAMETERS)
    stream: bool | None = same_as(
        ChatRequest, "stream", test="test_messages_stream.py::test_the_events_of_a_text_in_order"
    )
    cache_salt: str | None = same_as(
        ChatRequest, "cache_salt", test="test_messages_fields.py::test_the_salt_reaches_the_engine"
    )
    vllm_xargs: dict[str, Any] | None = same_as(ChatRequest, "vllm_xargs", test=_NO_EFFECT)
    mm_payload: Literal["tensors", "none"] | None = same_as(ChatRequest, "mm_payload", test=_NO_EFFECT)
    return_mm_kwargs: bool | None = same_as(ChatRequest, "return_mm_kwargs", test=_NO_EFFECT)
    metadata: dict[str, Any] | None = no_effect("Id of the end user.", note="user_id", test=_NO_EFFECT)
    service_tier: str | None = no_effect("Kind of service.", note="there is one", test=_NO_EFFECT)
    inference_geo: str | None = no_effect("Region of the computation.", note="it is here", test=_NO_EFFECT)
    diagnostics: dict[str, Any] | None = no_effect("Reasons of cache misses.", note="none are told", test=_NO_EFFECT)
    fallbacks: str | list[Any] | None = no_effect(
        "Models that answer if this one declines.", note="none declines for reasons of policy", test=_NO_EFFECT
    )
    fallback_credit_token: str | dict[str, Any] | None = no_effect(
        "Credit of a request that was declined.", note="none is", test=_NO_EFFECT
    )
    kv_transfer_params: dict[str, Any] | None = same_as(ChatRequest, "kv_transfer_params", test=_REFUSED)
    ec_transfer_params: dict[str, Any] | None = same_as(ChatRequest, "ec_transfer_params", test=_REFUSED)
    watermarking: bool | None = same_as(ChatRequest, "watermarking", test=_REFUSED)
    container: str | dict[str, Any] | None = refused(
        "Container of tools.", note="tools are called by clients here", test=_REFUSED
    )
    compaction: dict[str, Any] | None = refused(
        "Summary of the conversation instead of an answer.", note="ask for one in words", test=_REFUSED
    )
    thread: dict[str, Any] | None = refused(
        "Conversation that the server keeps.",
        note="send all messages, as the SDK's tool runner does then by itself",
        test="test_messages_fields.py::test_a_thread_is_refused_as_the_sdk_expects_it",
    )

    @property
    def hides_thinking(self) -> bool:
        """Whether thinking is only in the signature of its block."""
        return self.thinking is not None and self.thinking.display == "omitted"
