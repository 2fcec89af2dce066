"""The object that a response is, in every state of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from server.errors import ApiError, truncate
from server.replies import ReplyMetadata, TokenCounts
from server.responses.tools import is_built_in
from server.schemas.responses import ReasoningOptions, ResponsesRequest, TextFormat, TextOptions

if TYPE_CHECKING:
    from jaxserve import Ready

SERVER_ERROR, RATE_LIMIT, INVALID_PROMPT = "server_error", "rate_limit_exceeded", "invalid_prompt"
_ERROR_CODES = {400: INVALID_PROMPT, 429: RATE_LIMIT}


class ResponseObject:
    """The response to one request: what its states have in common."""

    def __init__(self, request: ResponsesRequest, metadata: ReplyMetadata, job: Ready) -> None:
        self._num_prompt_tokens, self._shows_cached_tokens = len(job.prompt_ids), metadata.shows_cached_tokens
        text, reasoning = request.text or TextOptions(), request.reasoning or ReasoningOptions()
        self._head = {"id": metadata.id, "object": "response", "created_at": metadata.created}
        self._tail = {
            "instructions": request.instructions,
            "max_output_tokens": job.params.max_tokens,
            "max_tool_calls": request.max_tool_calls,
            "metadata": request.metadata or {},
            "model": metadata.model,
            "output": [],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "prompt": None,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {"effort": reasoning.effort, "summary": request.summary},
            "safety_identifier": request.safety_identifier,
            "service_tier": "default",
            "store": request.is_stored,
            "temperature": job.params.temperature,
            "text": {"format": _show_format(text.format), "verbosity": text.verbosity},
            "tool_choice": _show_choice(request.tool_choice),
            "tools": _show_tools(request.tools or ()),
            "top_logprobs": request.top_logprobs or 0,
            "top_p": job.params.top_p,
            "truncation": request.truncation or "disabled",
            "usage": None,
            "user": request.user,
        }
        self._is_background = bool(request.background)

    def render(
        self,
        status: str,
        output: Sequence[dict[str, Any]] = (),
        usage: dict[str, Any] | None = None,
        error: ApiError | None = None,
    ) -> dict[str, Any]:
        """Make the response in a state. output: its items."""
        return {
            **self._head,
            "status": status,
            "background": self._is_background,
            "error": None if error is None else make_error(error),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            **self._tail,
            "output": list(output),
            "usage": usage,
        }

    def make_usage(self, num_cached_tokens: int, output: TokenCounts) -> dict[str, Any]:
        """Make the usage of a whole response."""
        cached_tokens = num_cached_tokens if self._shows_cached_tokens else 0
        return {
            "input_tokens": self._num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
            "output_tokens": output.num_tokens,
            "output_tokens_details": {"reasoning_tokens": output.num_reasoning_tokens},
            "total_tokens": self._num_prompt_tokens + output.num_tokens,
        }


def make_error(error: ApiError) -> dict[str, str]:
    """Make the error of a response that has failed, with a code that OpenAI's clients know."""
    return {"code": _ERROR_CODES.get(error.status, SERVER_ERROR), "message": truncate(error.message)}


def _show_format(form: TextFormat | None) -> dict[str, Any]:
    if form is None:
        return {"type": "text"}
    name = {"name": form.name or ""} if form.type == "json_schema" else {}
    return {**form.model_dump(by_alias=True, exclude_none=True), **name}


def _show_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """Show a tool_choice with what OpenAI's clients expect in it."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools" and choice.get("mode") is None:
        return {**choice, "mode": "auto"}
    return choice or "auto"


def _show_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Show the tools that are not left out, namespaces with a description, which OpenAI's clients expect."""
    shown = []
    for tool in tools:
        if tool["type"] == "namespace":
            shown.append({**tool, "description": tool.get("description") or "", "tools": _show_tools(tool["tools"])})
        elif not is_built_in(tool["type"]):
            shown.append(tool)
    return shown
