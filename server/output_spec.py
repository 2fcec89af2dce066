"""How the output of a chat request is to be parsed: tools, tool choice and reasoning.

The check here depends on the parser that this model has; those that need only the body are in schemas/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxserve import ChatOutputSpec, InvalidParameter
from server.config import ServerConfig
from server.errors import preview
from server.schemas.chat import ChatRequest
from server.schemas.template import dump_tools, map_reasoning_effort, merge_template_kwargs
from server.schemas.tools import resolve_tool_choice

if TYPE_CHECKING:
    from jaxserve import AsyncLLM


def check_effort(request: ChatRequest, llm: AsyncLLM, config: ServerConfig) -> None:
    """Check that the model has the reasoning effort of a request. Raises InvalidParameter if it does not know it."""
    effort = map_reasoning_effort(request.reasoning_effort, config)
    efforts = llm.reasoning_efforts
    if efforts is not None and effort is not None and effort not in efforts:
        allowed = ", ".join(efforts)
        raise InvalidParameter(
            f"reasoning_effort must be one of {allowed} for this model, got {preview(effort)}.", "reasoning_effort"
        )


def make_output_spec(request: ChatRequest, config: ServerConfig) -> ChatOutputSpec:
    """Make the description of the output for the library."""
    return ChatOutputSpec(
        tools=tuple(dump_tools(request.tools) or ()),
        tool_choice=resolve_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        include_reasoning=request.shows_reasoning,
        enable_thinking=_is_thinking(request, config),
        num_past_tool_calls=sum(len(message.tool_calls or ()) for message in request.messages),
    )


def _is_thinking(request: ChatRequest, config: ServerConfig) -> bool | None:
    """Tell whether thinking is switched on for the template, by either of the names that templates have for it."""
    kwargs = merge_template_kwargs(request.chat_template_kwargs, request.reasoning_effort, config)
    switches = [kwargs[name] for name in ("enable_thinking", "thinking") if kwargs.get(name) is not None]
    return any(switches) if switches else None
