"""Makes the prompt of a request with messages, in the same way for every endpoint that reads messages."""

from __future__ import annotations

from jaxserve import ChatPrompt
from server.config import ServerConfig
from server.schemas.chat import ChatRequest
from server.schemas.template import dump_tools, merge_template_kwargs, request_template
from server.schemas.tokens import TokenizeRequest


def make_chat_prompt(request: ChatRequest | TokenizeRequest, config: ServerConfig) -> ChatPrompt:
    """Make the prompt that the chat template renders."""
    tools = dump_tools(request.tools)
    if request.tool_choice == "none" and config.exclude_tools_when_tool_choice_none:
        tools = None
    return ChatPrompt(
        messages=[message.model_dump(exclude_none=True) for message in request.messages or ()],
        tools=tools,
        documents=request.documents,
        add_generation_prompt=request.adds_generation_prompt,
        continue_final_message=request.continues_final_message,
        add_special_tokens=bool(request.add_special_tokens),
        chat_template=request_template(request),
        template_kwargs=merge_template_kwargs(request.chat_template_kwargs, request.reasoning_effort, config),
    )
