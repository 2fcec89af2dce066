"""Renders one chat answer as a message, or as the delta of one.

This module alone decides which of the parts that the output parser found are shown, and what stands for an empty one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jaxserve import NamedTool, TextDelta, ToolCallDelta, ToolChoice


@dataclass(frozen=True, slots=True)
class MessageRenderer:
    """The rendering of one request's answers.

    role                   role of the messages
    echo                   text in front of each answer; None: nothing is echoed, and content may be null
    tool_choice            as the request has it
    shows_reasoning        False: reasoning is left out
    has_legacy_reasoning   reasoning is also given under its old name, reasoning_content
    """

    role: str
    echo: str | None
    tool_choice: ToolChoice
    shows_reasoning: bool
    has_legacy_reasoning: bool

    @property
    def is_call_forced(self) -> bool:
        """Whether the answer must be a tool call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    def render_message(self, choice: TextDelta) -> dict[str, Any]:
        """Render a whole answer. There is no key tool_calls without a call."""
        calls = merge_tool_calls(choice.tool_calls)
        reasoning = (choice.reasoning or None) if self.shows_reasoning else None
        return {
            "role": self.role,
            "content": self._render_content(choice, has_calls=bool(calls)),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            **({"tool_calls": [_render_call(call) for call in calls]} if calls else {}),
            "reasoning": reasoning,
            **({"reasoning_content": reasoning} if self.has_legacy_reasoning else {}),
        }

    def render_delta(self, delta: TextDelta) -> dict[str, Any]:
        """Render what is new; empty if nothing of it is shown."""
        rendered: dict[str, Any] = {}
        if delta.reasoning and self.shows_reasoning:
            rendered["reasoning"] = delta.reasoning
            if self.has_legacy_reasoning:
                rendered["reasoning_content"] = delta.reasoning
        if delta.text and not self.is_call_forced:
            rendered["content"] = delta.text
        if delta.tool_calls:
            rendered["tool_calls"] = [_render_call_delta(call) for call in merge_tool_calls(delta.tool_calls)]
        return rendered

    def _render_content(self, choice: TextDelta, *, has_calls: bool) -> str | None:
        """Render the content: null if there is nothing before a call, or nothing after the reasoning.

        An answer that must be a call has the empty string, also if it was cut off.
        """
        if self.is_call_forced:
            return self.echo or ""
        text = choice.text
        is_null = not text.strip() if has_calls else not text and bool(choice.reasoning or choice.num_reasoning_tokens)
        if self.echo is not None:
            return self.echo if is_null else self.echo + text
        return None if is_null else text


def merge_tool_calls(deltas: Iterable[ToolCallDelta]) -> list[ToolCallDelta]:
    """Merge the deltas of each call into one, in the order of the calls."""
    by_index: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [replace(parts[0], arguments="".join(part.arguments for part in parts)) for parts in by_index.values()]


def _render_call(call: ToolCallDelta) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _render_call_delta(call: ToolCallDelta) -> dict[str, Any]:
    """Render a delta of a call: the first one has all its keys, later ones only more of its arguments."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_render_call(call)}
