"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from server.config import RESERVED_TEMPLATE_KWARGS
from server.schemas.common import Int, NestedModel, NumberInt
from server.schemas.fields import BECOMES_PARAMETER, Purpose, honoured, no_effect
from server.schemas.generation import SHAPES_PROMPT, GenerationRequest
from server.schemas.limits import max_alternatives, max_model_len, min_alternatives

MAX_MESSAGES = 16384
REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MESSAGES = "test_message_fields.py::TestMessages::test_they_reach_the_template_as_they_came"
_MEDIA_ARGUMENTS = (
    "test_request_templates.py::TestTrust::test_media_arguments_need_a_flag_and_mean_nothing_to_a_model_of_text"
)
_IF_USED = "if the template uses it"
_SHOWN_TOOL = "test_tools.py::test_a_tool_is_shown_to_the_template_as_it_was_sent"
_DEFERRED_TOOL = "test_tools.py::test_a_tool_that_is_deferred_says_so_in_its_function"
_READS_ANSWER = "test_tools.py::test_the_fields_reach_the_reader_of_the_answer"
ContentPart = str | dict[str, Any]


class Message(NestedModel):
    """One message. Keys that are not listed are ignored; any role is allowed, as far as the chat template takes it.

    The library checks the parts of a content and the tool calls of an assistant.
    """

    role: str = honoured(is_required=True, note=_IF_USED, test=_MESSAGES)
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = honoured(note=_IF_USED, test=_MESSAGES)
    name: str | None = honoured(note=_IF_USED, test=_MESSAGES)
    tool_calls: list[Any] | None = honoured(note=_IF_USED, test=_MESSAGES)
    tool_call_id: str | None = honoured(note=_IF_USED, test=_MESSAGES)
    reasoning: str | None = honoured(note=_IF_USED, test=_MESSAGES)
    reasoning_content: str | None = honoured(note=_IF_USED, test=_MESSAGES)
    tools: list[Any] | None = honoured(
        note="of a developer", test="test_message_fields.py::TestMessages::test_tools_of_a_developer_reach_the_template"
    )

    @property
    def text(self) -> str:
        """The text of the content; parts are separated by line breaks."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts = [part if isinstance(part, str) else _get_part_text(part) for part in self.content]
        return "\n".join(text for text in texts if isinstance(text, str))


Conversation = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


def _get_part_text(part: dict[str, Any]) -> Any:
    return part.get(part["type"] if part.get("type") in ("refusal", "thinking") else "text")


def resolve_template_flag(name: str, value: bool | None, kwargs: dict[str, Any] | None, default: bool) -> bool:
    """Return the field's value, or if that is null the one of the same name in chat_template_kwargs."""
    return value if value is not None else bool((kwargs or {}).get(name, default))


class FunctionJson(NestedModel):
    """The definition of a function. Further keys are kept: the chat template shows a tool as it was sent."""

    model_config = ConfigDict(extra="allow")

    name: str = honoured(is_required=True, test=_SHOWN_TOOL)
    description: str | None = honoured(note=_IF_USED, test=_SHOWN_TOOL)
    parameters: dict[str, Any] | None = honoured(note="forced and strict calls follow it", test=_SHOWN_TOOL)
    strict: bool | None = honoured(note="calls of auto follow the schema, too", test=_SHOWN_TOOL)
    defer_loading: bool | None = honoured(note=_IF_USED, test=_DEFERRED_TOOL)


class Tool(NestedModel):
    """A tool that the model may call. Further keys are kept, as those of its function."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = honoured(is_required=True, test=_SHOWN_TOOL)
    function: FunctionJson = honoured(is_required=True, test=_SHOWN_TOOL)
    defer_loading: bool | None = honoured(note="stands for the function's, if that has none", test=_DEFERRED_TOOL)

    @model_validator(mode="after")
    def _defer_function(self) -> Self:
        """Show the template in the function, too, what the tool says, as vLLM does."""
        if self.defer_loading is not None and self.function.defer_loading is None:
            self.function.defer_loading = self.defer_loading
        return self


class ChatFields(GenerationRequest):
    """The fields that a request about one conversation and one about several have in common."""

    max_completion_tokens: Int | None = honoured(
        "Most tokens to generate; none: as many as fit.",
        Purpose.LENGTH,
        note="wins over max_tokens",
        test=BECOMES_PARAMETER,
        minimum=1,
        maximum=max_model_len,
    )
    logprobs: bool | None = honoured(
        "Returns logprobs of the answer's tokens.",
        Purpose.LOGPROBS,
        False,
        test="test_chat_stream.py::test_every_token_appears_once",
    )
    top_logprobs: NumberInt | None = honoured(
        "Number of alternatives at each token; needs logprobs. -1: all.",
        Purpose.LOGPROBS,
        note="up to --max-logprobs",
        test="test_chat_reply.py::TestLogprobs::test_exactly_k_alternatives_the_token_itself_first",
        minimum=min_alternatives,
        maximum=max_alternatives,
    )
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = honoured(
        "Functions that the model may call.",
        Purpose.TOOLS,
        note="functions",
        test=_READS_ANSWER,
        minItems=1,
        maxItems=lambda limits: limits.max_tools,
    )
    tool_choice: str | dict[str, Any] | None = honoured(
        "Whether a function may or must be called, or which one; by default auto if there are tools, else none.",
        Purpose.TOOLS,
        note="auto needs a tool parser",
        test="test_tools.py::TestChoice::test_what_a_tool_choice_comes_to",
        anyOf=[{"enum": ["none", "auto", "required", None]}, {"type": "object"}],
    )
    parallel_tool_calls: bool | None = honoured(
        "Whether several functions may be called at once.",
        Purpose.TOOLS,
        True,
        note="false: one call at most",
        test=_READS_ANSWER,
    )
    reasoning_effort: str | None = honoured(
        "Amount of reasoning; none: no reasoning.",
        Purpose.TEMPLATE,
        note=_IF_USED,
        test=SHAPES_PROMPT,
        enum=[*REASONING_EFFORTS, None],
    )
    include_reasoning: bool | None = honoured(
        "Returns the reasoning beside the answer; if false, its token ids and logprobs are left out, too.",
        Purpose.TOOLS,
        True,
        note="false: reasoning, logprobs and token ids are left out",
        test="test_reasoning_reply.py::test_what_is_not_told_does_not_leak",
    )
    add_generation_prompt: bool | None = honoured(
        "Ends the prompt with the beginning of an assistant message.", Purpose.TEMPLATE, True, test=SHAPES_PROMPT
    )
    continue_final_message: bool | None = honoured(
        "Continues the last message instead of beginning a new one.",
        Purpose.TEMPLATE,
        False,
        note="with add_generation_prompt false",
        test="test_message_fields.py::TestMessages::test_continuing_needs_no_prompt_for_an_answer",
    )
    documents: Annotated[list[dict[str, str]], Field(fail_fast=True)] | None = honoured(
        "Documents for the chat template.", Purpose.TEMPLATE, note="if the template uses them", test=SHAPES_PROMPT
    )
    chat_template: str | None = honoured(
        "Chat template that replaces the model's own.",
        Purpose.TEMPLATE,
        note="with --trust-request-chat-template",
        test="test_request_templates.py::TestTrust::test_with_the_flag_it_is_used",
    )
    chat_template_kwargs: dict[str, Any] | None = honoured(
        "Further variables of the chat template.",
        Purpose.TEMPLATE,
        note="if the template uses them",
        test=SHAPES_PROMPT,
        propertyNames={"not": {"enum": sorted(RESERVED_TEMPLATE_KWARGS)}},
    )
    mm_processor_kwargs: dict[str, Any] | None = no_effect(
        "Arguments of the processor of multimodal models.",
        note="on models of text; needs --trust-request-mm-kwargs",
        test=_MEDIA_ARGUMENTS,
    )
    media_io_kwargs: dict[str, dict[str, Any]] | None = no_effect(
        "Arguments of the readers of images, sounds and videos, by kind.",
        note="on models of text; needs --trust-request-mm-kwargs",
        test=_MEDIA_ARGUMENTS,
    )
    return_prompt_text: bool | None = honoured(
        "Returns the rendered prompt as text.",
        Purpose.REPLY,
        False,
        note="adds prompt_text",
        test="test_rendering.py::TestPromptText::test_it_is_there_on_demand_alone",
    )

    @property
    def requested_max_tokens(self) -> int | None:
        """The most tokens to generate, None: not given. max_completion_tokens wins over max_tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def max_tokens_field(self) -> str:
        """Name of the field that `requested_max_tokens` was read from."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def shows_reasoning(self) -> bool:
        """Whether reasoning is returned, which is the default."""
        return self.include_reasoning is not False

    @property
    def adds_generation_prompt(self) -> bool:
        """Whether the prompt ends with the beginning of an assistant message, which is the default."""
        return resolve_template_flag(
            "add_generation_prompt", self.add_generation_prompt, self.chat_template_kwargs, True
        )

    @property
    def continues_final_message(self) -> bool:
        """Whether the answer continues the last message."""
        return resolve_template_flag(
            "continue_final_message", self.continue_final_message, self.chat_template_kwargs, False
        )


class ChatRequest(ChatFields):
    """The body of POST /v1/chat/completions. GET /openapi.json describes every field."""

    messages: Conversation = honoured(
        "Messages of the conversation.", Purpose.PROMPT, is_required=True, note="text only", test=_MESSAGES
    )

    def get_response_role(self, default: str) -> str:
        """Return the role of the answer: `default` for a new message, the last message's if that one is continued."""
        return default if self.adds_generation_prompt else self.messages[-1].role
