"""Convert messages as clients send them to messages as templates expect them.

Content becomes one string or a list of text parts, tool calls get their arguments as objects (or as JSON text, for
templates that need it), reasoning has all its names, and developer messages become system messages where the template
does not know the role. Unknown keys are left out. The caller's messages are never changed.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from jaxserve.errors import InvalidParameter

ContentFormat = Literal["string", "openai"]
Part = str | dict[str, str]  # a text, or a reference

_log = logging.getLogger(__name__)

# The part that names a tool which a search has found; templates that know it expect it unchanged.
TOOL_REFERENCE = "tool_reference"
# Content part type → the key that holds its text.
TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    TOOL_REFERENCE: "name",
}
MEDIA_PARTS = {
    "image_url": "image",
    "input_image": "image",
    "image_pil": "image",
    "image_embeds": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
    "prompt_embeds": "prompt embedding",
}


def prepare_messages(
    messages: Sequence[Mapping[str, Any]],
    content_format: ContentFormat,
    *,
    has_developer_role: bool = True,
    arguments_as_text: bool = False,
    keep_thinking_with_calls: bool = True,
    lone_text_is_string: bool = False,
    empty_content_is_none: bool = False,
) -> list[dict[str, Any]]:
    """Return new messages for the template.

    content_format             "string": texts are joined by newlines; "openai": content is a list of text parts.
    has_developer_role         False: developer and system messages become one system message at the start.
    arguments_as_text          The arguments of tool calls are JSON text instead of objects.
    keep_thinking_with_calls   False: messages with both content and tool calls have no `thinking`.
    lone_text_is_string        In the "openai" format, content of at most one text is a string.
    empty_content_is_none      Empty content of a message with tool calls is None: DeepSeek's templates show the calls
                               only then.

    Raises InvalidParameter with the name of the field that cannot be served.
    """
    if not messages:
        raise InvalidParameter("messages must hold at least one message.", "messages")
    prepared = [_prepare(message, arguments_as_text) for message in messages]
    for message in prepared:
        if not keep_thinking_with_calls and message.get("tool_calls") and any(message["content"]):
            message.pop("thinking", None)
    if not has_developer_role and any(message["role"] == "developer" for message in prepared):
        prepared = _merge_into_system(prepared)
    for message in prepared:
        is_lone_text = len(message["content"]) < 2 and all(isinstance(part, str) for part in message["content"])
        as_string = content_format == "string" or (lone_text_is_string and is_lone_text)
        message["content"] = _in_format(message, as_string)
        if empty_content_is_none and message.get("tool_calls") and not message["content"]:
            message["content"] = None
    return prepared


def _prepare(message: Any, arguments_as_text: bool) -> dict[str, Any]:
    """Return a message with its content as a list of parts. Raises InvalidParameter if it is malformed."""
    if not isinstance(message, Mapping):
        raise InvalidParameter(f"Each message must be an object, got {type(message).__name__}.", "messages")
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidParameter("Each message needs a role, which is a string.", "messages")
    prepared: dict[str, Any] = {"role": role, "content": _parts(message.get("content"))}
    if isinstance(message.get("name"), str):
        prepared["name"] = message["name"]
    if role == "tool" and isinstance(message.get("tool_call_id"), str):
        prepared["tool_call_id"] = message["tool_call_id"]
    if role == "developer" and message.get("tools"):
        prepared["tools"] = message["tools"]
    if role == "assistant":
        if calls := _tool_calls(message.get("tool_calls"), arguments_as_text):
            prepared["tool_calls"] = calls
        prepared |= _reasoning(message)
    return prepared


def _parts(content: Any) -> list[Part]:
    """Return the parts of a content, which is a string, a list or None. Raises InvalidParameter for anything else."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise InvalidParameter(
            f"content must be a string, a list of parts, or null, got {type(content).__name__}.", "messages"
        )
    return [part for item in content if (part := _part(item)) is not None]


def _part(part: Any) -> Part | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise InvalidParameter(f"A content part must be an object or a string, got {type(part).__name__}.", "messages")
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in MEDIA_PARTS if key in part), None)
    if isinstance(kind, str) and kind in MEDIA_PARTS:
        raise InvalidParameter(
            f"This model reads text only: at most 0 {MEDIA_PARTS[kind]} items are allowed, got a part of type "
            f"'{kind}'.",
            "messages",
        )
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        shown = f"'{kind[:200]}'" if isinstance(kind, str) else "missing or not a string"
        raise InvalidParameter(f"The type of a content part is {shown}; supported are {', '.join(TEXT_PARTS)}.", "type")
    text = part.get(TEXT_PARTS[kind])
    if text is None:
        _log.warning("skipped a content part of type %s without text", kind)
        return None
    if not isinstance(text, str):
        raise InvalidParameter(
            f"'{TEXT_PARTS[kind]}' of a content part must be a string, got {type(text).__name__}.", "messages"
        )
    return {"type": TOOL_REFERENCE, "name": text} if kind == TOOL_REFERENCE else text


def _in_format(message: Mapping[str, Any], as_string: bool) -> str | list[dict[str, str]]:
    parts: list[Part] = message["content"]
    has_references = any(not isinstance(part, str) for part in parts)
    if as_string or (message["role"] == "tool" and not has_references):
        return _joined(parts)
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _joined(parts: Iterable[Part]) -> str:
    return "\n".join(part if isinstance(part, str) else part["name"] for part in parts)


def _reasoning(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the reasoning under every name that templates read. Raises InvalidParameter if it is not a string."""
    text = message.get("reasoning")
    text = message.get("reasoning_content") if text is None else text
    if text is None:
        return {}
    if not isinstance(text, str):
        raise InvalidParameter(f"reasoning must be a string, got {type(text).__name__}.", "reasoning")
    return {"reasoning": text, "reasoning_content": text, "thinking": text}


def _tool_calls(calls: Any, arguments_as_text: bool) -> list[dict[str, Any]]:
    if calls is None:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise InvalidParameter(f"tool_calls must be a list, got {type(calls).__name__}.", "tool_calls")
    return [_tool_call(call, arguments_as_text) for call in calls]


def _tool_call(call: Any, arguments_as_text: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") not in ("function", None):
        raise InvalidParameter(
            "Each of tool_calls must be an object of type 'function' with an object 'function'.", "tool_calls"
        )
    text, value = _arguments(function.get("arguments"))
    known = {key: call[key] for key in ("id", "index") if key in call}
    return known | {
        "type": "function",
        "function": {**function, "arguments": text if arguments_as_text else value},
    }


def _arguments(arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return a call's arguments as JSON text and as an object; `{}` if they are neither."""
    if isinstance(arguments, Mapping):
        return json.dumps(arguments, ensure_ascii=False), dict(arguments)
    if isinstance(arguments, str) and arguments.strip():
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return arguments, value
        _log.warning("a tool call in the history has arguments that are no JSON object; the template sees {}")
    return "{}", {}


def _merge_into_system(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge all developer and system messages, with their tools, into one system message at the start."""
    texts, tools, others = [], [], []
    for message in messages:
        if message["role"] in ("system", "developer"):
            texts.append(_joined(message["content"]))
            tools += message.get("tools", [])
        else:
            others.append(message)
    system: dict[str, Any] = {"role": "system", "content": ["\n\n".join(texts)]}
    return [system | ({"tools": tools} if tools else {}), *others]
