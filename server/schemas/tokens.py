"""The bodies of POST /tokenize and POST /detokenize."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import ChatRequest, Conversation, Tool, resolve_template_flag
from server.schemas.fields import honoured, same_as
from server.schemas.limits import token_id

TOKENIZE_LENGTH_FACTOR = 16  # /tokenize takes texts this many times longer than the model could read
_AS_CHAT = "test_routes.py::TestTokenize::test_the_template_is_told_what_chat_would_tell_it"


class TokenizeRequest(BaseModel):
    """The body of POST /tokenize, with either a prompt or messages.

    With messages, all fields of chat that shape the prompt have their effect here, too.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = same_as(
        ChatRequest, "model", note="checked", test="test_routes.py::TestTokenize::test_the_model_is_checked"
    )
    prompt: str | None = honoured(
        "Text to tokenize; either this or messages.",
        note="or messages",
        test="test_routes.py::TestTokenize::test_a_prompt",
        maxLength=lambda limits: limits.max_tokenize_chars,
    )
    messages: Conversation | None = honoured(
        "Messages to render and tokenize; either these or a prompt.", note="or a prompt", test=_AS_CHAT
    )
    add_special_tokens: bool | None = honoured(
        "Adds the tokenizer's special tokens; by default to a prompt, not to messages.",
        test="test_routes.py::TestTokenize::test_without_special_tokens_and_pieces",
    )
    add_generation_prompt: bool | None = same_as(ChatRequest, "add_generation_prompt", test=_AS_CHAT)
    continue_final_message: bool | None = same_as(ChatRequest, "continue_final_message", note="", test=_AS_CHAT)
    return_token_strs: bool | None = honoured(
        "Returns the tokenizer's own piece for each id.",
        default=False,
        test="test_routes.py::TestTokenize::test_a_prompt",
    )
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = same_as(
        ChatRequest,
        "tools",
        note="may be empty",
        minItems=None,
        test="test_tokens.py::TestTokenize::test_tools_need_no_choice_and_may_be_empty",
    )
    tool_choice: Any = same_as(ChatRequest, "tool_choice", note="none may hide the tools", test=_AS_CHAT)
    documents: Annotated[list[dict[str, str]], Field(fail_fast=True)] | None = same_as(
        ChatRequest, "documents", note="", test=_AS_CHAT
    )
    reasoning_effort: str | None = honoured("As for an answer; only with messages.", test=_AS_CHAT)
    chat_template: str | None = same_as(ChatRequest, "chat_template")
    chat_template_kwargs: dict[str, Any] | None = same_as(ChatRequest, "chat_template_kwargs", note="", test=_AS_CHAT)
    mm_processor_kwargs: dict[str, Any] | None = same_as(ChatRequest, "mm_processor_kwargs")
    media_io_kwargs: dict[str, dict[str, Any]] | None = same_as(ChatRequest, "media_io_kwargs")

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

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = same_as(
        ChatRequest, "model", note="checked", test="test_routes.py::TestDetokenize::test_the_model_is_checked"
    )
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)] = honoured(
        "Token ids.",
        is_required=True,
        test="test_routes.py::TestDetokenize::test_ids_become_text_special_ones_too",
        items=token_id,
    )
