"""The body of POST /v1/chat/completions/batch."""

from typing import Annotated, Any

from pydantic import Field

from server.schemas.chat import ChatFields, ChatRequest, Conversation, Tool
from server.schemas.common import Int, NumberInt
from server.schemas.fields import Purpose, honoured, refused, same_as
from server.schemas.generation import StreamOptions

_WHOLE = "the reply is one object"
_ONE_EACH = "each conversation has one answer"
_NO_TOOLS = "a batch has no tools; send such conversations one by one"
_NOT_OF_A_BATCH = "a batch returns nothing about prompts; send the conversation by itself"
_IS_REFUSED = "test_batch_chat.py::test_what_a_batch_cannot_have_is_refused_by_name"


class BatchChatRequest(ChatFields):
    """The body of POST /v1/chat/completions/batch: several conversations, which have all other fields in common."""

    messages: Annotated[list[Conversation], Field(fail_fast=True, min_length=1)] = honoured(
        "The conversations, each a list of messages. Each of them has one choice in the reply, in their order.",
        Purpose.PROMPT,
        is_required=True,
        note="a list of conversations, at most --max-completion-prompts",
        test="test_batch_chat.py::test_each_conversation_has_its_choice",
        maxItems=lambda limits: limits.max_completion_prompts,
    )
    stream: bool | None = refused("Sends the answers as a stream.", False, note=_WHOLE, test=_IS_REFUSED)
    stream_options: StreamOptions | None = refused("Further contents of a stream.", note=_WHOLE, test=_IS_REFUSED)
    n: Int | None = refused("Number of answers to each conversation.", 1, note=_ONE_EACH, test=_IS_REFUSED)
    use_beam_search: bool | None = refused("Searches for the best answers.", False, note=_ONE_EACH, test=_IS_REFUSED)
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = refused(
        "Functions that the model may call.", note=_NO_TOOLS, test=_IS_REFUSED
    )
    tool_choice: str | dict[str, Any] | None = refused(
        "Whether a function must be called.", "none", note=_NO_TOOLS, test=_IS_REFUSED
    )
    prompt_logprobs: NumberInt | None = refused(
        "Returns logprobs of the prompts' tokens.", note=_NOT_OF_A_BATCH, test=_IS_REFUSED
    )
    return_prompt_text: bool | None = refused(
        "Returns the rendered prompts as text.", False, note=_NOT_OF_A_BATCH, test=_IS_REFUSED
    )
    return_token_ids: bool | None = same_as(
        ChatFields,
        "return_token_ids",
        description="Returns the token ids of the answers.",
        default=False,
        note="those of the answers",
        test="test_batch_chat.py::test_what_choices_of_a_batch_have",
    )

    def to_chat_requests(self) -> list[ChatRequest]:
        """Return a request for each conversation, with the same other fields."""
        shared = dict(self)
        conversations: list[Conversation] = shared.pop("messages")
        return [ChatRequest.model_construct(**shared, messages=messages) for messages in conversations]
