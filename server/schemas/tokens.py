"""The bodies of POST /tokenize and POST /detokenize."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import MAX_MESSAGES, Message, Tool


class TokenizeRequest(BaseModel):
    """Either a prompt or messages."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None

    @property
    def appends_prompt(self) -> bool:
        return self.add_generation_prompt is not False


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
