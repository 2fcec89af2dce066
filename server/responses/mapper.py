"""From a Responses request to the chat request that is prepared and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from jaxserve import InvalidParameter, load_exact_json
from server.client_fields import client_fields
from server.config import ServerConfig
from server.errors import preview
from server.json_bytes import encode_kept_json
from server.responses.items import ItemConversation, read_items, strip_item
from server.responses.tool_choice import ResolvedChoice, resolve_choice
from server.responses.tools import CallableTool, ToolTable, read_tools
from server.schemas.chat import MAX_MESSAGES, ChatRequest
from server.schemas.checks import check_chat
from server.schemas.common import validate_body
from server.schemas.constraint_fields import StructuredOutputsJson
from server.schemas.responses import LOGPROBS, ResponsesRequest, TextFormat

SAME_FIELDS = (
    *("model", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "seed", "stop", "logit_bias", "skip_special_tokens", "top_logprobs", "parallel_tool_calls"),
    *("include_reasoning", "stream", "priority", "cache_salt", "request_id", "structured_outputs"),
    *("stop_token_ids", "include_stop_str_in_output", "ignore_eos", "spaces_between_special_tokens"),
    *("chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "mm_payload", "return_mm_kwargs"),
    *("vllm_xargs", "session_id"),
)
FIELD_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "messages": "input",
        "prompt": "input",
        "type": "input",
        "tool_calls": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
        "truncate_prompt_tokens": "truncation",
        "logprobs": "include",
    }
)
"""The names of a chat request's fields in a Responses request, where they differ, for errors about them."""


@dataclass(frozen=True, slots=True)
class MappedRequest:
    """A Responses request as it is run.

    chat          the chat request
    tools         the tools that may be called
    grammar_tool  the custom tool whose input the whole answer is; None: the answer is read as usual
    kept_items    the items of the request's own input as they are kept, a JSON array; None if they are not
    field_names   names of the client's fields by those of the chat request, for errors
    """

    chat: ChatRequest
    tools: ToolTable
    grammar_tool: CallableTool | None
    kept_items: bytes | None
    field_names: Mapping[str, str]

    @property
    def unenforced(self) -> list[str]:
        """Names of the grammars that the answer need not follow."""
        tools = self.tools.by_chat_name.values()
        is_parsed = self.chat.tool_choice not in (None, "none")
        return [name for tool in tools if is_parsed and (name := tool.unenforced) is not None]


def map_request(
    request: ResponsesRequest, history: Sequence[bytes], config: ServerConfig, max_model_len: int
) -> MappedRequest:
    """Make the chat request, and check it.

    history: the conversation before this request, arrays of items as JSON. max_model_len: the most tokens of a prompt
    and its answer.

    Raises InvalidParameter, or another RequestError, about the field at fault.
    """
    conversation = ItemConversation()
    if request.instructions:
        conversation.messages.append({"role": "system", "content": request.instructions})
    earlier = [item for items in history for item in load_exact_json(items)]
    read_items(earlier, conversation, "previous_response_id")
    new_items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    read_items(new_items, conversation)
    if not 1 <= len(conversation.messages) <= MAX_MESSAGES:
        raise InvalidParameter(f"input must come to 1 to {MAX_MESSAGES} messages.", "input")
    choice = resolve_choice(request.tool_choice, read_tools(request.tools or ()))
    body = {name: value for name in SAME_FIELDS if (value := getattr(request, name)) is not None}
    body |= _map_differing(request, choice, max_model_len)
    body["messages"] = conversation.messages
    chat = validate_body(ChatRequest, body)
    with client_fields(FIELD_NAMES):
        check_chat(chat, config)
    names = FIELD_NAMES if choice.grammar_tool is None else {**FIELD_NAMES, "structured_outputs": "tools"}
    kept_items = encode_kept_json([strip_item(item) for item in new_items]) if request.is_stored else None
    return MappedRequest(chat, choice.tools, choice.grammar_tool, kept_items, names)


def _map_differing(request: ResponsesRequest, choice: ResolvedChoice, max_model_len: int) -> dict[str, Any]:
    """Return the fields that a chat request has in another form."""
    text_format = _map_format(request.text.format if request.text is not None else None)
    if text_format is not None and request.structured_outputs is not None:
        message = "text.format and structured_outputs are two constraints on one answer; leave one of them out."
        raise InvalidParameter(message, "structured_outputs")
    max_tokens = request.max_output_tokens and min(request.max_output_tokens, max_model_len)
    fields = {
        "max_completion_tokens": max_tokens,
        "reasoning_effort": request.reasoning.effort if request.reasoning is not None else None,
        "truncate_prompt_tokens": -1 if request.truncation == "auto" else None,
        "logprobs": True if LOGPROBS in request.included else None,
        "tools": list(choice.tools.chat_tools) or None,
        "tool_choice": choice.chat_choice,
        "response_format": text_format,
    }
    if choice.grammar_tool is not None:
        fields |= _constrain_to(choice.grammar_tool, request.structured_outputs)
    return {name: value for name, value in fields.items() if value is not None}


def _constrain_to(tool: CallableTool, other: StructuredOutputsJson | None) -> dict[str, Any]:
    """Return the constraint of an answer that is the input of a custom tool, which has no text beside it."""
    if other is not None:
        message = "structured_outputs cannot apply to the input of a custom tool; use only one of them."
        raise InvalidParameter(message, "structured_outputs")
    key = "grammar" if tool.syntax == "lark" else "regex"
    return {"structured_outputs": {key: tool.grammar}, "response_format": None}


def _map_format(form: TextFormat | None) -> dict[str, Any] | None:
    """Return the response_format of a text.format; None for free text."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": form.type}
    fail = partial(InvalidParameter, param="text.format")
    if form.type != "json_schema":
        raise fail(f"text.format.type must be text, json_object or json_schema, got {preview(form.type)}.")
    if form.schema_ is None:
        raise fail("text.format of type json_schema needs schema, an object.")
    return {"type": form.type, "json_schema": {"name": form.name or "", "schema": form.schema_}}
