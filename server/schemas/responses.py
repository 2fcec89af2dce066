"""The body of POST /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import REASONING_EFFORTS, ChatRequest
from server.schemas.common import Int, Int64, Ints, NestedModel, NumberInt, Strings
from server.schemas.constraint_fields import StructuredOutputsJson
from server.schemas.fields import honoured, no_effect, refused, same_as

LOGPROBS, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDABLES = (LOGPROBS, ENCRYPTED_REASONING)
# Contents that only results of built-in tools, or images, would have: there are none, so none are left out.
EMPTY_INCLUDABLES = (
    *("web_search_call.action.sources", "web_search_call.results", "code_interpreter_call.outputs"),
    *("computer_call_output.output.image_url", "file_search_call.results", "message.input_image.image_url"),
)
SUMMARIES = ("auto", "detailed")
TRUNCATIONS = ("auto", "disabled")
VERBOSITIES = ("low", "medium", "high")
MAX_INPUT_ITEMS = 16384
MAX_METADATA_KEYS, MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS = 16, 64, 512
_PARAMETERS = "test_responses_fields.py::test_a_field_becomes_that_of_chat"
_ITEMS = "test_responses_input.py::test_items_become_the_messages_of_chat"
_NO_EFFECT = "test_responses_fields.py::test_what_has_no_effect_changes_nothing"
_REFUSED = "test_responses_fields.py::test_what_is_not_offered_is_refused_by_name"
_TEMPLATE = "test_responses_fields.py::test_variables_of_the_template_reach_it"
_MEDIA = "test_responses_fields.py::test_media_arguments_need_a_flag"
_REASONING = "test_responses_reasoning.py"
_STORE = "test_responses_store.py"
_FORMAT = "test_responses_fields.py::test_the_text_format_is_the_constraint_of_the_answer"


class ReasoningOptions(NestedModel):
    """Options of the reasoning: how much of it, and what is shown of it."""

    effort: str | None = honoured(
        test="test_responses_fields.py::test_the_effort_reaches_the_template", enum=[*REASONING_EFFORTS, None]
    )
    summary: str | None = honoured(
        note="auto, detailed: the reasoning itself is its summary; concise: 400",
        test=f"{_REASONING}::test_a_summary_is_the_whole_reasoning",
        enum=[*SUMMARIES, None],
    )
    generate_summary: str | None = honoured(
        note="the old name of summary", test=f"{_REASONING}::test_a_summary_is_the_whole_reasoning"
    )


class TextFormat(NestedModel):
    """The format of the answer's text."""

    type: str = honoured(is_required=True, note="text, json_object, json_schema", test=_FORMAT)
    name: str | None = no_effect(note="of a schema", test=_FORMAT)
    description: str | None = no_effect(note="of a schema", test=_FORMAT)
    schema_: dict[str, Any] | None = honoured(alias="schema", note="always strict", test=_FORMAT)
    strict: bool | None = no_effect(note="every schema is strict", test=_FORMAT)


class TextOptions(NestedModel):
    """The form of the answer's text."""

    format: TextFormat | None = honoured(test=_FORMAT)
    verbosity: str | None = no_effect(
        note="low, medium, high; repeated in the reply", test=_NO_EFFECT, enum=[*VERBOSITIES, None]
    )


class ResponsesRequest(BaseModel):
    """The body of POST /v1/responses. It becomes a chat request."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    input: str | Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_INPUT_ITEMS)] = honoured(
        "A text, or items: messages, calls and their outputs, reasoning.",
        is_required=True,
        note="text only; item_reference: of an item in the output of a kept response",
        test=_ITEMS,
    )
    model: str | None = same_as(ChatRequest, "model", test="test_responses.py::test_the_model_is_checked_as_for_chat")
    instructions: str | None = honoured(
        "System message in front of the input; it does not carry over to the next response.", test=_ITEMS
    )
    max_output_tokens: Int | None = honoured(
        "Most tokens to generate, reasoning included; none, and more than fit behind the prompt: as many as fit.",
        test="test_responses_fields.py::test_more_tokens_than_fit_are_as_many_as_fit",
        minimum=1,
        note="clamped to the room behind the prompt",
    )
    temperature: float | None = same_as(ChatRequest, "temperature", test=_PARAMETERS)
    top_p: float | None = same_as(ChatRequest, "top_p", test=_PARAMETERS)
    top_k: Int | None = same_as(ChatRequest, "top_k", test=_PARAMETERS)
    min_p: float | None = same_as(ChatRequest, "min_p", test=_PARAMETERS)
    presence_penalty: float | None = same_as(ChatRequest, "presence_penalty", test=_PARAMETERS)
    frequency_penalty: float | None = same_as(ChatRequest, "frequency_penalty", test=_PARAMETERS)
    repetition_penalty: float | None = same_as(ChatRequest, "repetition_penalty", test=_PARAMETERS)
    seed: Int64 | None = same_as(ChatRequest, "seed", note="", test=_PARAMETERS)
    stop: str | Strings | None = same_as(ChatRequest, "stop", test=_PARAMETERS)
    logit_bias: dict[str, float] | None = same_as(ChatRequest, "logit_bias", test=_PARAMETERS)
    stop_token_ids: Ints | None = same_as(ChatRequest, "stop_token_ids", test=_PARAMETERS)
    include_stop_str_in_output: bool | None = same_as(ChatRequest, "include_stop_str_in_output", test=_PARAMETERS)
    ignore_eos: bool | None = same_as(ChatRequest, "ignore_eos", test=_PARAMETERS)
    skip_special_tokens: bool | None = same_as(ChatRequest, "skip_special_tokens", test=_PARAMETERS)
    spaces_between_special_tokens: bool | None = same_as(ChatRequest, "spaces_between_special_tokens", test=_NO_EFFECT)
    chat_template_kwargs: dict[str, Any] | None = same_as(ChatRequest, "chat_template_kwargs", test=_TEMPLATE)
    top_logprobs: NumberInt | None = same_as(
        ChatRequest,
        "top_logprobs",
        description=f"Number of alternatives at each token; needs {LOGPROBS} in include.",
        test="test_responses.py::test_logprobs_of_the_text_on_demand",
    )
    include: Strings | None = honoured(
        "Further contents of the reply.",
        note=f"{LOGPROBS}, not with tools; {ENCRYPTED_REASONING}: in base64; built-in tools have none",
        test="test_responses.py::test_what_may_be_included",
    )
    text: TextOptions | None = honoured("Form of the text: format and verbosity.", test=_FORMAT)
    structured_outputs: StructuredOutputsJson | None = same_as(
        ChatRequest, "structured_outputs", note="not beside a text.format", test=_FORMAT
    )
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = honoured(
        "Tools that the model may call: functions, custom tools and namespaces of both.",
        note="built-in ones are left out, and named in the header x-jaxserve-ignored-tools; all are loaded at once",
        test="test_responses_tools.py::test_tools_become_functions",
    )
    tool_choice: str | dict[str, Any] | None = honoured(
        "Whether a tool may or must be called, or which one.",
        note="none, auto, required, function, custom, allowed_tools; a built-in tool: 400",
        test="test_responses_tools.py::test_what_a_tool_choice_comes_to",
    )
    parallel_tool_calls: bool | None = same_as(
        ChatRequest, "parallel_tool_calls", test="test_responses_fields.py::test_a_field_becomes_that_of_chat"
    )
    reasoning: ReasoningOptions | None = honoured(
        "How the model reasons, and what is shown of it.", test=f"{_REASONING}::test_reasoning_is_an_item_of_its_own"
    )
    include_reasoning: bool | None = same_as(
        ChatRequest,
        "include_reasoning",
        note="false: there are no reasoning items",
        test=f"{_REASONING}::test_reasoning_can_be_left_out",
    )
    truncation: str | None = honoured(
        "auto: a prompt that is too long loses its oldest tokens; disabled: it is refused.",
        default="disabled",
        note="the template's first tokens, too",
        test="test_responses_fields.py::test_truncation_drops_the_oldest_tokens",
        enum=[*TRUNCATIONS, None],
    )
    metadata: dict[str, str] | None = honoured(
        "Up to 16 pairs of strings that are repeated in the reply.",
        test="test_responses.py::test_what_is_repeated_in_the_reply",
        maxProperties=MAX_METADATA_KEYS,
        propertyNames={"maxLength": MAX_METADATA_KEY_CHARS},
        additionalProperties={"type": "string", "maxLength": MAX_METADATA_VALUE_CHARS},
    )
    stream: bool | None = same_as(
        ChatRequest, "stream", test="test_responses_stream.py::test_the_events_of_a_text_in_order"
    )
    store: bool | None = honoured(
        "Keeps the response, in memory and for a while, for GET and previous_response_id.",
        default=True,
        note="within --responses-store-size, -bytes and -age-s",
        test=f"{_STORE}::test_what_is_stored_can_be_read_again",
    )
    previous_response_id: str | None = honoured(
        "A stored response whose conversation goes on; its instructions do not.",
        test=f"{_STORE}::test_a_conversation_goes_on",
        pattern="^resp_",
    )
    background: bool | None = honoured(
        "Answers at once, and generates whether the client stays or not; needs store.",
        default=False,
        test="test_responses_background.py::test_it_is_generated_without_its_client",
    )
    priority: Int64 | None = same_as(ChatRequest, "priority", test=_PARAMETERS)
    cache_salt: str | None = same_as(ChatRequest, "cache_salt", test=_PARAMETERS)
    request_id: str | None = same_as(
        ChatRequest,
        "request_id",
        note="the header X-Request-Id wins; stored: new, and without / and the like, else 400, a header's is replaced",
        test="test_responses.py::test_an_id_of_the_client_is_that_of_one_response_only",
    )
    max_tool_calls: Int | None = no_effect(
        "Most calls of built-in tools.", note="there are none; repeated in the reply", test=_NO_EFFECT
    )
    user: str | None = no_effect("Id of the end user.", note="repeated in the reply", test=_NO_EFFECT)
    safety_identifier: str | None = no_effect("Id of the end user.", note="repeated in the reply", test=_NO_EFFECT)
    prompt_cache_key: str | None = no_effect(
        "Key of cached prompts.", note="every prompt is looked up; repeated in the reply", test=_NO_EFFECT
    )
    prompt_cache_retention: str | None = no_effect(
        "How long a prompt stays cached.", note="as long as there is room", test=_NO_EFFECT
    )
    prompt_cache_options: dict[str, Any] | None = no_effect(
        "How prompts are cached.", note="all are, as long as there is room", test=_NO_EFFECT
    )
    service_tier: str | None = no_effect("Kind of service.", note="there is one: default", test=_NO_EFFECT)
    stream_options: dict[str, Any] | None = no_effect(
        "Options of the stream.", note="include_obfuscation: there is none", test=_NO_EFFECT
    )
    client_metadata: dict[str, Any] | None = no_effect("Of the client itself.", note="Codex sends it", test=_NO_EFFECT)
    background_options: dict[str, Any] | None = no_effect(
        "How soon a response in the background must be there.", note="it is generated at once", test=_NO_EFFECT
    )
    session_id: str | None = same_as(ChatRequest, "session_id", test=_NO_EFFECT)
    vllm_xargs: dict[str, Any] | None = same_as(ChatRequest, "vllm_xargs", test=_NO_EFFECT)
    mm_payload: Literal["tensors", "none"] | None = same_as(ChatRequest, "mm_payload", test=_NO_EFFECT)
    return_mm_kwargs: bool | None = same_as(ChatRequest, "return_mm_kwargs", test=_NO_EFFECT)
    mm_processor_kwargs: dict[str, Any] | None = same_as(ChatRequest, "mm_processor_kwargs", test=_MEDIA)
    media_io_kwargs: dict[str, dict[str, Any]] | None = same_as(ChatRequest, "media_io_kwargs", test=_MEDIA)
    access_programs: Any = no_effect("Programs that grant access.", note="there are none", test=_NO_EFFECT)
    image: dict[str, Any] | None = no_effect("Options of images.", note="there are none", test=_NO_EFFECT)
    prompt: dict[str, Any] | None = refused(
        "A stored prompt template.", note="there are no stored prompts; send instructions and input", test=_REFUSED
    )
    conversation: str | dict[str, Any] | None = refused(
        "A stored conversation.", note="use previous_response_id", test=_REFUSED
    )
    context_management: list[Any] | None = refused(
        "Compaction of long conversations.", note="use truncation", test=_REFUSED
    )
    moderation: dict[str, Any] | None = refused("Moderation of input and output.", note="there is none", test=_REFUSED)
    kv_transfer_params: dict[str, Any] | None = same_as(ChatRequest, "kv_transfer_params", test=_REFUSED)
    ec_transfer_params: dict[str, Any] | None = same_as(ChatRequest, "ec_transfer_params", test=_REFUSED)
    watermarking: bool | None = same_as(ChatRequest, "watermarking", test=_REFUSED)
    enable_response_messages: bool | None = refused(
        "Returns the messages that the model was shown.",
        False,
        note="/v1/chat/completions/render shows them as token ids",
        test=_REFUSED,
    )
    previous_input_messages: list[Any] | None = refused(
        "Messages of the conversation before.", note="send them as input", test=_REFUSED
    )

    @property
    def included(self) -> frozenset[str]:
        """The field include as a set."""
        return frozenset(self.include or ())

    @property
    def is_stored(self) -> bool:
        """Whether the response is kept, which is the default."""
        return self.store is not False

    @property
    def summary(self) -> str | None:
        """The summary of the reasoning that is asked for."""
        options = self.reasoning or ReasoningOptions()
        return options.summary if options.summary is not None else options.generate_summary
