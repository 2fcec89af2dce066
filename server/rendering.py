"""From the messages of a request to its prompt; the same for every endpoint that reads messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxserve import RenderedPrompt
from server.config import ServerConfig
from server.schemas.chat import ChatRequest
from server.schemas.template import own_template, template_kwargs, tool_objects
from server.schemas.tokens import TokenizeRequest

if TYPE_CHECKING:
    from jaxserve import AsyncLLM


async def render(
    request: ChatRequest | TokenizeRequest, llm: AsyncLLM, config: ServerConfig, *, counting: bool = False
) -> RenderedPrompt:
    """What the messages come to. Raises RequestError for what the template, or the model, cannot take.

    counting: nothing will run, so more tokens than the model takes are fine.
    """
    tools = tool_objects(request.tools)
    if request.tool_choice == "none" and config.exclude_tools_when_tool_choice_none:
        tools = None
    return await llm.render_chat(
        [message.model_dump(exclude_none=True) for message in request.messages or ()],
        tools=tools,
        documents=request.documents,
        add_generation_prompt=request.appends_prompt,
        continue_final_message=request.continues,
        add_special_tokens=bool(request.add_special_tokens),
        chat_template=own_template(request),
        template_kwargs=template_kwargs(request.chat_template_kwargs, request.reasoning_effort, config),
        counting=counting,
    )
