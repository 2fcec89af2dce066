"""ChatOutputSpec: what a parser must know to split a chat output into reasoning, content and tool calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The tool choice that forces a call of one function."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatOutputSpec:
    """The request as the parser of its chat output needs to know it.

    tools                 The declared tools as they were sent: {"type": "function", "function": {...}}.
    tool_choice           "none": no calls are parsed. "required" and NamedTool are enforced by a grammar.
    parallel_tool_calls   False: only the first call counts.
    include_reasoning     False: reasoning is generated but left out, and a constraint holds from the first token.
    enable_thinking       What the template was given as enable_thinking or thinking; None for nothing.
    prompt_text           The rendered prompt: its end may open a reasoning section, or have closed one.
    num_past_tool_calls   Tool calls in the conversation so far, for models that number them.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: ToolChoice = "none"
    parallel_tool_calls: bool = True
    include_reasoning: bool = True
    enable_thinking: bool | None = None
    prompt_text: str = ""
    num_past_tool_calls: int = 0

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of the declared functions, in order."""
        return tuple(tool["function"]["name"] for tool in self.tools)

    @property
    def requires_tool_call(self) -> bool:
        """Whether the output must be a tool call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)
