"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from server.schemas.common import GenerationRequest, Int, NestedModel, NumberInt

MAX_MESSAGES = 16384
MAX_TOOLS = 1024
ContentPart = str | dict[str, Any]


class Message(NestedModel):
    """One message. Keys that are not listed are ignored; any role is allowed, as far as the chat template takes it.

    The library checks the parts of a content and the tool calls of an assistant.
    """

    role: str
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tools: list[Any] | None = None

    @property
    def text(self) -> str:
        """The text of the content; parts are separated by line breaks."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts = [part if isinstance(part, str) else _get_part_text(part) for part in self.content]
        return "\n".join(text for text in texts if isinstance(text, str))


def _get_part_text(part: dict[str, Any]) -> Any:
    return part.get(part["type"] if part.get("type") in ("refusal", "thinking") else "text")


def resolve_template_flag(name: str, value: bool | None, kwargs: dict[str, Any] | None, default: bool) -> bool:
    """Return the field's value, or if that is null the one of the same name in chat_template_kwargs."""
    return value if value is not None else bool((kwargs or {}).get(name, default))


class FunctionJson(NestedModel):
    """The definition of a function. Further keys are kept: the chat template shows a tool as it was sent."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(NestedModel):
    """A tool that the model may call. Further keys are kept, as those of its function."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: FunctionJson


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions. GET /openapi.json describes every field."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: NumberInt | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: Annotated[list[dict[str, str]], Field(fail_fast=True)] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    return_prompt_text: bool | None = None

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

    def get_response_role(self, default: str) -> str:
        """Return the role of the answer: `default` for a new message, the last message's if that one is continued."""
        return default if self.adds_generation_prompt else self.messages[-1].role
