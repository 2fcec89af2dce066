"""The input items of a Responses request as chat messages.

Reasoning, text and calls that follow each other are one message of the assistant, as the model has written them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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
        self._turn: dict[str, Any] | None = None  # the assistant's message that may still get reasoning and calls
        self._goes_on = False  # reasoning has come last: text behind it belongs to the same message

    def add(self, item: Item, place: str) -> None:
        """Add an item. place: where it stands in the request. Raises InvalidParameter if it cannot be read."""
        kind = _find_kind(item)
        if kind is None:
            allowed = ", ".join(_KINDS)
            raise InvalidParameter(f"{place}.type must be one of {allowed}, got {preview(item.get('type'))}.", "input")
        _KINDS[kind].read(self, item, place)

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
        elif self._turn is not None and self._goes_on:
            self._turn["content"] = _join_contents(self._turn["content"], content or "")
            self._goes_on = False
        else:
            self._begin_turn(content=content or "")

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
        if not text:
            return
        if self._turn is None:
            self._begin_turn()
        assert self._turn is not None
        earlier = self._turn["reasoning"]
        self._turn["reasoning"] = text if earlier is None else f"{earlier}\n{text}"
        self._goes_on = True

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
        self._goes_on = False
        self._turn["tool_calls"].append(
            {"id": _read_string(item, "call_id", place), "type": "function", "function": function}
        )

    def _begin_turn(self, content: Any = None, reasoning: str | None = None) -> None:
        self._turn = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": []}
        self.messages.append(self._turn)
        self._goes_on = False

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


def _join_contents(first: Any, second: Any) -> Any:
    """Join the contents of two messages, each a text, an array of parts, or None."""
    if not first:
        return second
    return [part for one in (first, second) for part in ([one] if isinstance(one, str) else one)]


class _Kind(NamedTuple):
    """A type of items.

    read   adds one to a conversation
    keys   those that it reads, beside the type
    """

    read: Callable[[ItemConversation, Item, str], None]
    keys: tuple[str, ...]


_KINDS: Mapping[str, _Kind] = {
    "message": _Kind(ItemConversation.add_message, ("role", "content")),
    "reasoning": _Kind(ItemConversation.add_reasoning, ("content", "summary", "encrypted_content")),
    "function_call": _Kind(ItemConversation.add_function_call, ("call_id", "name", "namespace", "arguments")),
    "function_call_output": _Kind(ItemConversation.add_output, ("call_id", "output")),
    "custom_tool_call": _Kind(ItemConversation.add_custom_call, ("call_id", "name", "namespace", "input")),
    "custom_tool_call_output": _Kind(ItemConversation.add_output, ("call_id", "output")),
}
_PART_KEYS = ("type", "text", "refusal")


def _find_kind(item: Item) -> str | None:
    kind = item.get("type")
    if kind is None and "role" in item:
        return "message"
    return kind if isinstance(kind, str) and kind in _KINDS else None


def strip_item(item: Item) -> Item:
    """Return an item that has been read with those keys only that were, and its parts likewise, to keep it."""
    kind = _find_kind(item)
    assert kind is not None, "it has been read"
    return {"type": kind, **{key: _strip_parts(item[key]) for key in _KINDS[kind].keys if key in item}}


def _strip_parts(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{key: part[key] for key in _PART_KEYS if key in part} if isinstance(part, dict) else part for part in value]


def read_items(items: Iterable[Item], conversation: ItemConversation, place: str = "input") -> None:
    """Add items to a conversation. place: the field that they come from. Raises InvalidParameter as `add` does."""
    for number, item in enumerate(items):
        conversation.add(item, f"{place}[{number}]")
