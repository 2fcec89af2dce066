"""The bodies of POST /tokenize and POST /detokenize."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import MAX_MESSAGES, MAX_TOOLS, Message, Tool, resolve_template_flag


class TokenizeRequest(BaseModel):
    """The body of POST /tokenize, with either a prompt or messages.

    With messages, all fields of chat that shape the prompt have their effect here, too.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    documents: Annotated[list[dict[str, str]], Field(fail_fast=True)] | None = None
    reasoning_effort: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None

    @property
    def adds_generation_prompt(self) -> bool:
        """Whether the prompt ends with the beginning of an assistant message, which is the default."""
        return resolve_template_flag(
            "add_generation_prompt", self.add_generation_prompt, self.chat_template_kwargs, True
        )

    @property
    def continues_final_message(self) -> bool:
        """Whether the answer would continue the last message."""
        return resolve_template_flag(
            "continue_final_message", self.continue_final_message, self.chat_template_kwargs, False
        )


class DetokenizeRequest(BaseModel):
    """The body of POST /detokenize."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
