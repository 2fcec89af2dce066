"""How the output of a chat request is to be parsed: tools, tool choice and reasoning.

The checks here depend on the parsers that this model has; those that need only the body are in schemas/.
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


def check_output_spec(request: ChatRequest, llm: AsyncLLM, config: ServerConfig) -> None:
    """Check that this model's parsers can do what the request asks of them.

    Raises InvalidParameter if the tool choice is auto and no tool parser is set, a thinking budget is given and no
    reasoning parser is set, or the model does not know the reasoning effort.
    """
    if resolve_tool_choice(request) == "auto":
        _check_auto_tool_choice(llm, "tools" if request.tool_choice is None else "tool_choice")
    check_thinking_budget(request.thinking_token_budget, llm)
    effort = map_reasoning_effort(request.reasoning_effort, config)
    efforts = llm.reasoning_efforts
    if efforts is not None and effort is not None and effort not in efforts:
        allowed = ", ".join(efforts)
        raise InvalidParameter(
            f"reasoning_effort must be one of {allowed} for this model, got {preview(effort)}.", "reasoning_effort"
        )


def check_thinking_budget(budget: int | None, llm: AsyncLLM) -> None:
    """Check that reasoning can be counted, if it has a budget.

    Raises InvalidParameter if a budget is given and no reasoning parser is set.
    """
    if budget is not None and llm.reasoning_parser is None:
        raise InvalidParameter(
            "thinking_token_budget needs a reasoning parser; none is known for this model. --reasoning-parser names "
            "one.",
            "thinking_token_budget",
        )


def make_output_spec(request: ChatRequest, config: ServerConfig, prompt_text: str) -> ChatOutputSpec:
    """Make the description of the output for the library. prompt_text: what the chat template rendered."""
    return ChatOutputSpec(
        tools=tuple(dump_tools(request.tools) or ()),
        tool_choice=resolve_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        include_reasoning=request.shows_reasoning,
        enable_thinking=_is_thinking(request, config),
        prompt_text=prompt_text,
        num_past_tool_calls=sum(len(message.tool_calls or ()) for message in request.messages),
    )


def _check_auto_tool_choice(llm: AsyncLLM, param: str) -> None:
    if llm.config.enable_auto_tool_choice and llm.tool_parser is not None:
        return
    reason = "the first is off" if llm.tool_parser is not None else "no parser is known for this model's tool calls"
    raise InvalidParameter(
        f'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set; {reason}. '
        'tool_choice "required", a named function and "none" need neither.',
        param,
    )


def _is_thinking(request: ChatRequest, config: ServerConfig) -> bool | None:
    """Tell whether thinking is switched on for the template, by either of the names that templates have for it."""
    kwargs = merge_template_kwargs(request.chat_template_kwargs, request.reasoning_effort, config)
    switches = [kwargs[name] for name in ("enable_thinking", "thinking") if kwargs.get(name) is not None]
    return any(switches) if switches else None
