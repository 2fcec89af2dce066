"""How a chat answer is to be read: its reasoning, its content, its tool calls. Plain values; text/ does the reading."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The tool choice that calls one function, whatever the model would rather do."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatOutputSpec:
    """What the reader of one chat answer has to know of its request.

    tools                 the declared tools as they were sent: {"type": "function", "function": {...}}
    tool_choice           none: nothing is looked for; required and NamedTool are enforced by a grammar
    parallel_tool_calls   False: only the first call counts
    include_reasoning     False: it is thought but not told, and a constraint holds from the first token
    enable_thinking       what the template was told by enable_thinking or thinking; None: nothing
    prompt_text           as the template wrote it: whether its end opens, or has closed, a reasoning section
    num_past_tool_calls   tool calls in the conversation so far, for families that count them
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
        """Of the declared functions, in order."""
        return tuple(tool["function"]["name"] for tool in self.tools)

    @property
    def requires_tool_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)
