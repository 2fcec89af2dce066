"""Messages as the template gets them: plain dictionaries, with text parts only and tool arguments as objects."""

import json
import logging
from typing import Any

from jaxserve import InvalidParameter, Unsupported
from server.errors import shown
from server.schemas.chat import Message, Part

log = logging.getLogger(__name__)

MAX_PARTS = 65536
TEXT_KEYS = {  # part type → the key that holds its text
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
MODALITIES = {
    "image_url": "image",
    "input_image": "image",
    "image_pil": "image",
    "image_embeds": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
    "prompt_embeds": "prompt_embeds",
}


def for_template(messages: list[Message]) -> list[dict[str, Any]]:
    """The conversation for AsyncLLM.render_chat. Raises a RequestError for content that is no text."""
    if sum(len(message.content) for message in messages if isinstance(message.content, list)) > MAX_PARTS:
        raise InvalidParameter(f"messages has more than {MAX_PARTS} content parts.", "messages")
    return [_one(message) for message in messages]


def text_of(message: Message) -> str:
    """A message's text, its parts one to a line."""
    content = _content(message)
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _one(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.role == "tool":
        turn["content"] = text_of(message)
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    reasoning = message.reasoning if message.reasoning is not None else message.reasoning_content
    if message.role == "assistant":
        if reasoning is not None:
            turn["reasoning"] = turn["reasoning_content"] = reasoning
        if message.tool_calls:
            turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return turn


def _content(message: Message) -> str | list[dict[str, str]]:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts = [_text(part) for part in message.content]
    return [{"type": "text", "text": text} for text in texts if text is not None]


def _text(part: Part) -> str | None:
    """A part's text; None when it has none to show."""
    if isinstance(part, str):
        return part
    kind = part.get("type") or next((key for key in MODALITIES if key in part), None)
    if isinstance(kind, str) and kind in MODALITIES:
        raise Unsupported(f"At most 0 {MODALITIES[kind]}(s) may be provided: this model reads text only.", "messages")
    if not isinstance(kind, str) or kind not in TEXT_KEYS:
        raise InvalidParameter(
            f"A content part has type {shown(kind)}; supported are {', '.join(TEXT_KEYS)}.", param="type"
        )
    text = part.get(TEXT_KEYS[kind])
    if text is None:
        log.warning("a content part of type %s has no text and is skipped", kind)
    elif not isinstance(text, str):
        raise InvalidParameter(f"The text of a content part must be a string, got {shown(text)}.", param="messages")
    return text


def _tool_call(call: Any) -> dict[str, Any]:
    """A call of an earlier turn. Arguments that are no JSON object become {}: a broken call in the history would
    otherwise make every later turn fail."""
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise InvalidParameter('Each of tool_calls must be an object of type "function".', "tool_calls")
    function = call.get("function")
    if not isinstance(function, dict):
        raise InvalidParameter("Each of tool_calls must have an object named function.", "tool_calls")
    return {**call, "type": "function", "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(text: Any) -> dict[str, Any]:
    try:
        value = text if isinstance(text, dict) else json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        log.warning("the arguments of a tool call in the history are no JSON object and are left out")
        return {}
    return value
