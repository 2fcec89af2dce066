"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from server.schemas.common import GenerationRequest, Int, NestedModel, NumberInt

MAX_MESSAGES = 16384
MAX_TOOLS = 1024
ContentPart = str | dict[str, Any]


class Message(NestedModel):
    """One turn. Keys that are not listed are ignored; any role is allowed, the template decides. What the parts of a
    content and the calls of an assistant must be is the text room's to say."""

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
        """The content's text, its parts one to a line."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts = [part if isinstance(part, str) else _get_part_text(part) for part in self.content]
        return "\n".join(text for text in texts if isinstance(text, str))


def _get_part_text(part: dict[str, Any]) -> Any:
    return part.get(part["type"] if part.get("type") in ("refusal", "thinking") else "text")


def resolve_template_flag(name: str, given: bool | None, kwargs: dict[str, Any] | None, default: bool) -> bool:
    """The field, where it is given; else what chat_template_kwargs says under its name."""
    return given if given is not None else bool((kwargs or {}).get(name, default))


class FunctionJson(NestedModel):
    """What it does not know is kept: the template shows a tool as it was sent."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(NestedModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: FunctionJson


class ChatRequest(GenerationRequest):
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
        """How many tokens the client asked for, if it did: the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def max_tokens_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def shows_reasoning(self) -> bool:
        return self.include_reasoning is not False

    @property
    def adds_generation_prompt(self) -> bool:
        return resolve_template_flag(
            "add_generation_prompt", self.add_generation_prompt, self.chat_template_kwargs, True
        )

    @property
    def continues_final_message(self) -> bool:
        return resolve_template_flag(
            "continue_final_message", self.continue_final_message, self.chat_template_kwargs, False
        )

    def get_response_role(self, default: str) -> str:
        """Who speaks: the server's role for a new turn, the last message's when that one is continued."""
        return default if self.adds_generation_prompt else self.messages[-1].role
