"""One chat answer in the contract's words: a whole message, or what is new of it. Which of the parts that a reader
found are told, and what an empty one is, is decided here alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jaxserve import NamedTool, TextDelta, ToolCallDelta, ToolChoice


@dataclass(frozen=True, slots=True)
class Speech:
    """How the answers of one request are told.

    echo              text in front of each answer; None: nothing is echoed, and content may be null
    tells_reasoning   False: it is kept back, although it was thought
    copies_reasoning  it stands under its old name, too
    """

    role: str
    echo: str | None
    tool_choice: ToolChoice
    tells_reasoning: bool
    copies_reasoning: bool

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def message(self, choice: TextDelta) -> dict[str, Any]:
        """The whole answer. There is no key tool_calls without a call."""
        calls = joined(choice.tool_calls)
        reasoning = (choice.reasoning or None) if self.tells_reasoning else None
        return {
            "role": self.role,
            "content": self._content(choice, has_calls=bool(calls)),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            **({"tool_calls": [_whole_call(call) for call in calls]} if calls else {}),
            "reasoning": reasoning,
            **({"reasoning_content": reasoning} if self.copies_reasoning else {}),
        }

    def delta(self, delta: TextDelta) -> dict[str, Any]:
        """What is new; empty when that is nothing which may be told."""
        told: dict[str, Any] = {}
        if delta.reasoning and self.tells_reasoning:
            told["reasoning"] = delta.reasoning
            if self.copies_reasoning:
                told["reasoning_content"] = delta.reasoning
        if delta.text and not self.must_call:
            told["content"] = delta.text
        if delta.tool_calls:
            told["tool_calls"] = [_call_piece(call) for call in joined(delta.tool_calls)]
        return told

    def _content(self, choice: TextDelta, *, has_calls: bool) -> str | None:
        """Null: nothing stands before a call, or nothing came after the reasoning. An answer that must be a call has
        the empty string, also when it was cut off."""
        if self.must_call:
            return self.echo or ""
        text = choice.text
        is_null = not text.strip() if has_calls else not text and bool(choice.reasoning or choice.num_reasoning_tokens)
        if self.echo is not None:
            return self.echo if is_null else self.echo + text
        return None if is_null else text


def joined(deltas: Iterable[ToolCallDelta]) -> list[ToolCallDelta]:
    """The same news with one delta for each call, in their order."""
    by_index: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [replace(pieces[0], arguments="".join(piece.arguments for piece in pieces)) for pieces in by_index.values()]


def _whole_call(call: ToolCallDelta) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_piece(call: ToolCallDelta) -> dict[str, Any]:
    """The first one of a call has all its keys, later ones only more of its arguments."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_whole_call(call)}
