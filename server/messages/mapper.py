"""From a Messages request to the chat request that is prepared and run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxserve import InvalidParameter
from server.client_fields import client_fields
from server.config import ServerConfig
from server.errors import preview
from server.messages.blocks import read_messages, read_system
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat
from server.schemas.common import validate_body
from server.schemas.fields import refuse_unsupported
from server.schemas.messages import (
    MIN_THINKING_BUDGET,
    THINKING_DISPLAYS,
    THINKING_TYPES,
    TOOL_CHOICE_TYPES,
    CountTokensRequest,
    MessagesRequest,
    OutputFormat,
    ThinkingOptions,
    ToolChoiceJson,
)

SAME_FIELDS = ("temperature", "top_p", "top_k", "stream", "cache_salt", "vllm_xargs", "mm_payload", "return_mm_kwargs")
FIELD_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "messages",
        "stop": "stop_sequences",
        "max_completion_tokens": "max_tokens",
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
        "thinking_token_budget": "thinking.budget_tokens",
        "tool_choice.function.name": "tool_choice.name",
    }
)
"""The names of a chat request's fields in a Messages request, where they differ, for errors about them."""
_ANTHROPIC_TOOL = re.compile(r".+_[0-9]{8}")  # the types of Anthropic's own tools end in a date
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(frozen=True, slots=True)
class MappedMessages:
    """A Messages request as it is run.

    chat           the chat request
    ignored_tools  types of the tools that are left out
    """

    chat: ChatRequest
    ignored_tools: tuple[str, ...]


def map_messages(
    request: MessagesRequest | CountTokensRequest, config: ServerConfig, *, has_reasoning: bool, max_model_len: int
) -> MappedMessages:
    """Make the chat request, and check it.

    has_reasoning: the model reasons, so that a budget can limit that. max_model_len: the most tokens of a prompt and
    its answer; a client such as Claude Code asks for as many as Anthropic's models have, and gets as many as fit.

    Raises InvalidParameter, or another RequestError, about the field at fault.
    """
    refuse_unsupported(request)
    messages = read_messages(request.messages)
    continues_last = _is_prefill(messages[-1]) if messages else False
    system = read_system(request.system)
    if system and messages and messages[0]["role"] == "system":
        messages[0]["content"].insert(0, {"type": "text", "text": system})
    elif system:
        messages.insert(0, {"role": "system", "content": system})
    if not messages:
        raise InvalidParameter("messages must have a message with content.", "messages")
    tools, ignored = _read_tools(request.tools or ())
    effort = request.output_config.effort if request.output_config is not None else None
    form = request.output_config.format if request.output_config is not None else None
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "tools": tools or None,
        **_map_choice(request.tool_choice, has_tools=bool(tools)),
        "reasoning_effort": effort,
        "response_format": _map_format(form or request.output_format),
        **_map_thinking(request, has_reasoning=has_reasoning),
        **({"add_generation_prompt": False, "continue_final_message": True} if continues_last else {}),
    }
    if isinstance(request, MessagesRequest):
        body |= {name: getattr(request, name) for name in SAME_FIELDS}
        body |= {"stop": request.stop_sequences, "max_tokens": min(request.max_tokens, max_model_len)}
    chat = validate_body(ChatRequest, {name: value for name, value in body.items() if value is not None})
    with client_fields(FIELD_NAMES):
        check_chat(chat, config)
    return MappedMessages(chat, ignored)


def _is_prefill(message: Mapping[str, Any]) -> bool:
    """Tell whether the answer goes on from this message, which is the last one."""
    return message["role"] == "assistant" and bool(message["content"]) and not message.get("tool_calls")


def _read_tools(tools: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the functions, and the types of tools that are left out."""
    functions, ignored = [], {}
    for number, tool in enumerate(tools):
        place, kind = f"tools[{number}]", tool.get("type")
        if isinstance(kind, str) and _ANTHROPIC_TOOL.fullmatch(kind):
            ignored[kind] = None
            continue
        if kind not in (None, "custom"):
            raise InvalidParameter(f"{place}.type may be custom or that of a tool of Anthropic's.", "tools")
        name, description, schema = (tool.get(key) for key in ("name", "description", "input_schema"))
        if not (isinstance(name, str) and name and isinstance(description, str | None) and isinstance(schema, dict)):
            message = f"{place} must have a name, input_schema (an object) and at most a text as description."
            raise InvalidParameter(message, "tools")
        function = {"name": name, "description": description, "parameters": schema}
        function["strict"] = True if tool.get("strict") is True else None
        kept = {key: value for key, value in function.items() if value is not None}
        functions.append({"type": "function", "function": kept})
    return functions, tuple(ignored)


def _map_choice(choice: ToolChoiceJson | None, *, has_tools: bool) -> dict[str, Any]:
    if choice is None:
        return {}
    parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    if choice.type == "tool":
        return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **parallel}
    if choice.type not in _CHOICES:
        allowed = ", ".join(TOOL_CHOICE_TYPES)
        message = f"tool_choice.type must be one of {allowed}, got {preview(choice.type)}."
        raise InvalidParameter(message, "tool_choice.type")
    mapped = _CHOICES[choice.type]
    return parallel if mapped == "auto" and not has_tools else {"tool_choice": mapped, **parallel}


def _map_thinking(request: CountTokensRequest, *, has_reasoning: bool) -> dict[str, Any]:
    """Return the variables of the template, those that switch thinking among them, and the budget."""
    thinking, kwargs = request.thinking, request.chat_template_kwargs
    if thinking is not None:
        _check_thinking(thinking, request.max_tokens if isinstance(request, MessagesRequest) else None)
    if thinking is None or thinking.type == "adaptive":
        return {"chat_template_kwargs": kwargs}
    is_on = thinking.type == "enabled"
    switches = {"chat_template_kwargs": {**(kwargs or {}), "enable_thinking": is_on, "thinking": is_on}}
    budget = {"thinking_token_budget": thinking.budget_tokens} if is_on and has_reasoning else {}
    return {**switches, **budget}


def _check_thinking(thinking: ThinkingOptions, max_tokens: int | None) -> None:
    for name, value, allowed in (
        ("thinking.type", thinking.type, THINKING_TYPES),
        ("thinking.display", thinking.display or THINKING_DISPLAYS[0], THINKING_DISPLAYS),
    ):
        if value not in allowed:
            raise InvalidParameter(f"{name} must be one of {', '.join(allowed)}, got {preview(value)}.", name)
    if thinking.type != "enabled":
        return
    budget, param = thinking.budget_tokens, "thinking.budget_tokens"
    if budget is None or budget < MIN_THINKING_BUDGET or budget >= (max_tokens or budget + 1):
        least = MIN_THINKING_BUDGET
        raise InvalidParameter(f"{param} must be at least {least} and less than max_tokens, got {budget}.", param)


def _map_format(form: OutputFormat | None) -> dict[str, Any] | None:
    if form is None:
        return None
    if form.type != "json_schema" or form.schema_ is None:
        message = "output_config.format must have the type json_schema and a schema, an object."
        raise InvalidParameter(message, "output_config.format")
    return {"type": form.type, "json_schema": {"name": "answer", "schema": form.schema_}}
