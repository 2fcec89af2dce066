"""The input items of a Responses request as chat messages.

Reasoning, text and calls that follow each other are one message of the assistant, as the model has written them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxserve import InvalidParameter
from server.errors import preview
from server.responses.reasoning_seal import open_reasoning
from server.responses.tools import join_name, make_custom_arguments

ROLES = ("user", "assistant", "system", "developer")
Item = Mapping[str, Any]


class ItemConversation:
    """The chat messages of items that are added one after the other.

    messages: as the body of a chat request has them.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None  # the assistant's message that may still get calls

    def add(self, item: Item, place: str) -> None:
        """Add an item. place: where it stands in the request. Raises InvalidParameter if it cannot be read."""
        kind = item.get("type", "message" if "role" in item else None)
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            allowed = ", ".join(_READERS)
            raise InvalidParameter(f"{place}.type must be one of {allowed}, got {preview(kind)}.", "input")
        read(self, item, place)

    def add_message(self, item: Item, place: str) -> None:
        """Add an item of the type message. Raises InvalidParameter if it is malformed."""
        role, content = item.get("role"), item.get("content")
        if role not in ROLES:
            raise InvalidParameter(f"{place}.role must be one of {', '.join(ROLES)}, got {preview(role)}.", "input")
        if not isinstance(content, str | list | None):
            raise InvalidParameter(f"{place}.content must be a string or an array of parts.", "input")
        if isinstance(content, list) and not all(isinstance(part, str | dict) for part in content):
            raise InvalidParameter(f"{place}.content must have parts that are objects.", "input")
        if role != "assistant":
            self._append({"role": role, "content": content})
        elif self._turn is None or self._turn["content"] is not None or self._turn["tool_calls"]:
            self._begin_turn(content=content or "")
        else:
            self._turn["content"] = content or ""

    def add_reasoning(self, item: Item, place: str) -> None:
        """Add an item of the type reasoning. Raises InvalidParameter if it is malformed, or not this server's."""
        text = _join_texts(item.get("content"), f"{place}.content")
        sealed = item.get("encrypted_content")
        if not text and isinstance(sealed, str):
            opened = open_reasoning(sealed)
            if opened is None:
                raise InvalidParameter(
                    f"{place}.encrypted_content was not made by this server; leave the item out.", "input"
                )
            text = opened
        text = text or _join_texts(item.get("summary"), f"{place}.summary")
        if text:
            self._begin_turn(reasoning=text)

    def add_function_call(self, item: Item, place: str) -> None:
        """Add an item of the type function_call. Raises InvalidParameter if it is malformed."""
        arguments = item.get("arguments")
        if not isinstance(arguments, str | None):
            raise InvalidParameter(f"{place}.arguments must be a string of JSON.", "input")
        self._add_call(item, place, arguments or "{}")

    def add_custom_call(self, item: Item, place: str) -> None:
        """Add an item of the type custom_tool_call."""
        self._add_call(item, place, make_custom_arguments(_read_string(item, "input", place, may_be_empty=True)))

    def add_output(self, item: Item, place: str) -> None:
        """Add the output of a call, which is text or an array of parts. Raises InvalidParameter if it is malformed."""
        output = item.get("output")
        if not isinstance(output, str | list):
            raise InvalidParameter(f"{place}.output must be a string or an array of parts.", "input")
        if isinstance(output, list) and not all(isinstance(part, str | dict) for part in output):
            raise InvalidParameter(f"{place}.output must have parts that are objects.", "input")
        self._append({"role": "tool", "tool_call_id": _read_string(item, "call_id", place), "content": output})

    def _add_call(self, item: Item, place: str, arguments: str) -> None:
        namespace = item.get("namespace")
        if not isinstance(namespace, str | None):
            raise InvalidParameter(f"{place}.namespace must be a string.", "input")
        name = join_name(_read_string(item, "name", place), namespace)
        function = {"name": name, "arguments": arguments}
        if self._turn is None:
            self._begin_turn()
        assert self._turn is not None
        self._turn["tool_calls"].append(
            {"id": _read_string(item, "call_id", place), "type": "function", "function": function}
        )

    def _begin_turn(self, content: Any = None, reasoning: str | None = None) -> None:
        self._turn = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": []}
        self.messages.append(self._turn)

    def _append(self, message: dict[str, Any]) -> None:
        self._turn = None
        self.messages.append(message)


def _read_string(item: Item, key: str, place: str, *, may_be_empty: bool = False) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise InvalidParameter(f"{place}.{key} must be a{'' if may_be_empty else ' non-empty'} string.", "input")
    return value


def _join_texts(parts: Any, place: str) -> str:
    """Join the texts of parts such as those of a reasoning item. Raises InvalidParameter if they are none."""
    if parts is None:
        return ""
    if not isinstance(parts, list):
        raise InvalidParameter(f"{place} must be an array.", "input")
    texts = [text for part in parts if isinstance(part, dict) and isinstance(text := part.get("text"), str)]
    if len(texts) < len(parts):
        raise InvalidParameter(f"{place} must have parts with a text.", "input")
    return "\n".join(texts)


_READERS: Mapping[str, Callable[[ItemConversation, Item, str], None]] = {
    "message": ItemConversation.add_message,
    "reasoning": ItemConversation.add_reasoning,
    "function_call": ItemConversation.add_function_call,
    "function_call_output": ItemConversation.add_output,
    "custom_tool_call": ItemConversation.add_custom_call,
    "custom_tool_call_output": ItemConversation.add_output,
}


def read_items(items: Iterable[Item], conversation: ItemConversation, place: str = "input") -> None:
    """Add items to a conversation. place: the field that they come from. Raises InvalidParameter as `add` does."""
    for number, item in enumerate(items):
        conversation.add(item, f"{place}[{number}]")
