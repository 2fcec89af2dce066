"""The content blocks of a Messages request as chat messages."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxserve import InvalidParameter, dump_exact_json
from server.errors import preview
from server.responses.reasoning_seal import open_reasoning
from server.schemas.messages import MessageParam

# Claude Code begins its system text with such a line, whose value changes with each turn: no prefix would ever be the
# same. It is for Anthropic's accounting, and its API takes the line out, too.
BILLING_LINE = "x-anthropic-billing-header:"
ROLES = ("user", "assistant", "system")
# Around a system message among the others, which becomes part of the turn before it; Claude Code marks its notes so.
# Of 70 models' templates 4 refuse one that is not the first, 8 leave it out, and 4 leave out the first instead.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
ERROR_MARK = "Error:"  # in front of the content of a tool_result whose is_error is true: templates know no such flag
Block = Mapping[str, Any]


def read_system(system: str | Iterable[Block] | None) -> str:
    """Return the system text, "" if there is none. Blocks are separated by an empty line.

    Raises InvalidParameter if a block is none of text.
    """
    if system is None or isinstance(system, str):
        return _strip_billing(system or "")
    texts = [_read_text(block, f"system[{number}]", "system") for number, block in enumerate(system)]
    return "\n\n".join(text for text in map(_strip_billing, texts) if text)


def _strip_billing(text: str) -> str:
    while text.startswith(BILLING_LINE):
        text = text.partition("\n")[2].lstrip("\n")
    return text


def read_messages(messages: Iterable[MessageParam]) -> list[dict[str, Any]]:
    """Return chat messages. Raises InvalidParameter if a role or block cannot be read."""
    read: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if message.role not in ROLES:
            allowed = ", ".join(ROLES)
            raise InvalidParameter(f"{place}.role must be one of {allowed}, got {preview(message.role)}.", "messages")
        if message.role == "system":
            _read_late_system(message, read, place)
        elif isinstance(message.content, str):
            read.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            read.append(_read_assistant(message.content, place))
        else:
            read += _read_user(message.content, place)
    return read


def _read_late_system(message: MessageParam, read: list[dict[str, Any]], place: str) -> None:
    """Add a system message to the user's message before it, to the system message if there is none yet."""
    blocks = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content
    texts = [_read_text(block, f"{place}.content[{number}]", "messages") for number, block in enumerate(blocks)]
    role = "user" if any(one["role"] != "system" for one in read) else "system"
    wrap = REMINDER.format if role == "user" else str
    parts = [{"type": "text", "text": wrap(text)} for text in texts]
    if not read or read[-1]["role"] != role:
        read.append({"role": role, "content": parts})
        return
    before = read[-1]["content"]
    read[-1]["content"] = [*([{"type": "text", "text": before}] if isinstance(before, str) else before), *parts]


def _read_assistant(blocks: Iterable[Block], place: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    thinking: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        where, kind = f"{place}.content[{number}]", block.get("type")
        if kind == "thinking":
            thinking.append(_read_thinking(block, where))
        elif kind == "tool_use":
            calls.append(_read_call(block, where))
        elif kind == "text":
            content.append({"type": "text", "text": _read_text(block, where, "messages")})
        elif kind != "redacted_thinking":  # nobody but its author can read that
            raise _type_error(where, ("text", "thinking", "redacted_thinking", "tool_use"), kind)
    return {
        "role": "assistant",
        "content": content or None,
        "reasoning": "\n".join(filter(None, thinking)) or None,
        "tool_calls": calls,
    }


def _read_user(blocks: Iterable[Block], place: str) -> list[dict[str, Any]]:
    """Return the messages of a user's blocks: results of tools are messages of their own, in the same order."""
    read: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        where = f"{place}.content[{number}]"
        if block.get("type") == "tool_result":
            read.append(_read_result(block, where))
            continue
        part = _read_part(block, where, ("text", "image", "tool_result"))
        if read and read[-1]["role"] == "user":
            read[-1]["content"].append(part)
        else:
            read.append({"role": "user", "content": [part]})
    return read


def _read_result(block: Block, place: str) -> dict[str, Any]:
    content, call_id = block.get("content"), block.get("tool_use_id")
    if not isinstance(call_id, str):
        raise InvalidParameter(f"{place}.tool_use_id must be a string.", "messages")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        allowed = ("text", "image", "tool_reference")
        content = [_read_part(part, f"{place}.content[{number}]", allowed) for number, part in enumerate(content)]
    elif not isinstance(content, str | None):
        raise InvalidParameter(f"{place}.content must be a string or an array of blocks.", "messages")
    if block.get("is_error") is True:
        text = {"type": "text", "text": ERROR_MARK}
        content = [text, *content] if isinstance(content, list) else f"{ERROR_MARK} {content or ''}"
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _read_part(block: Block, place: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Return a content part of chat. Images are left to the check of those."""
    kind = block.get("type")
    if kind not in allowed:
        raise _type_error(place, allowed, kind)
    if kind == "image":
        return {"type": "image_url", "image_url": block.get("source")}
    if kind == "tool_reference":
        return {"type": "tool_reference", "name": block.get("tool_name")}
    return {"type": "text", "text": _read_text(block, place, "messages")}


def _read_call(block: Block, place: str) -> dict[str, Any]:
    name, call_id, given = block.get("name"), block.get("id"), block.get("input")
    if not (isinstance(name, str) and name and isinstance(call_id, str) and isinstance(given, dict | None)):
        raise InvalidParameter(f"{place} must have id and name, strings, and input, an object.", "messages")
    arguments = dump_exact_json(given or {})
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _read_thinking(block: Block, place: str) -> str:
    """Return the text of a thinking block, from its signature where it was left out."""
    text, signature = block.get("thinking"), block.get("signature")
    if not isinstance(text, str):
        raise InvalidParameter(f"{place}.thinking must be a string.", "messages")
    opened = open_reasoning(signature) if not text and isinstance(signature, str) else None
    return opened or text


def _read_text(block: Block, place: str, param: str) -> str:
    text = block.get("text")
    if block.get("type") != "text" or not isinstance(text, str):
        raise InvalidParameter(f"{place} must be a block of the type text, with a text.", param)
    return text


def _type_error(place: str, allowed: Iterable[str], kind: Any) -> InvalidParameter:
    allowed_types = ", ".join(allowed)
    return InvalidParameter(f"{place}.type may be {allowed_types}, got {preview(kind)}.", "messages")
