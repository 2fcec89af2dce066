"""The field tool_choice of a Responses request, as a chat request has it."""

from dataclasses import dataclass
from typing import Any

from jaxserve import InvalidParameter
from server.errors import preview
from server.responses.tools import CallableTool, ToolTable, is_built_in

MODES = ("auto", "required")


@dataclass(frozen=True, slots=True)
class ResolvedChoice:
    """The tools that may be called, and the choice among them.

    tools        those that may be called
    chat_choice  the tool_choice of the chat request
    grammar_tool the custom tool that must be called, if it has a grammar: the whole answer follows that, and is its
                 input; None in any other case
    """

    tools: ToolTable
    chat_choice: Any
    grammar_tool: CallableTool | None = None


def resolve_choice(choice: str | dict[str, Any] | None, tools: ToolTable) -> ResolvedChoice:
    """Resolve a tool_choice. Raises InvalidParameter if it is malformed, or asks for a tool that is left out.

    What it says about the names of functions is checked as that of the chat request.
    """
    if isinstance(choice, dict):
        return _resolve_object(choice, tools)
    if choice == "required":
        return _force(tools)
    if choice in (None, "auto"):
        return ResolvedChoice(tools, "auto" if tools.by_chat_name else None)
    return ResolvedChoice(tools, choice)


def _resolve_object(choice: dict[str, Any], tools: ToolTable) -> ResolvedChoice:
    kind = choice.get("type")
    if kind == "allowed_tools":
        return _resolve_allowed(choice, tools)
    if isinstance(kind, str) and is_built_in(kind):
        raise InvalidParameter(f"tool_choice asks for {preview(kind)}, which this server cannot run.", "tool_choice")
    if kind not in ("function", "custom"):
        message = f"tool_choice must have the type function, custom or allowed_tools, got {preview(kind)}."
        raise InvalidParameter(message, "tool_choice")
    tool = _find_chosen(choice, tools)
    if tool.grammar:
        return ResolvedChoice(tools, "none", tool)
    return ResolvedChoice(tools, {"type": "function", "function": {"name": tool.chat_name}})


def _find_chosen(choice: dict[str, Any], tools: ToolTable) -> CallableTool:
    kind, name, namespace = choice["type"], choice.get("name"), choice.get("namespace")
    if not isinstance(namespace, str | None):
        raise InvalidParameter(
            f"tool_choice.namespace must be a string, got {preview(namespace)}.", "tool_choice.namespace"
        )
    if not tools.by_chat_name:
        raise InvalidParameter("tool_choice names a tool, and is only allowed together with tools.", "tool_choice")
    tool = tools.find(name, namespace) if isinstance(name, str) else None
    if tool is None:
        message = f"tool_choice.name must be the name of one of the tools, got {preview(name)}."
        raise InvalidParameter(message, "tool_choice.name")
    if tool.kind != kind:
        message = f"tool_choice.type must be {tool.kind}, as that of the tool {preview(name)} is, got {preview(kind)}."
        raise InvalidParameter(message, "tool_choice.type")
    return tool


def _force(tools: ToolTable) -> ResolvedChoice:
    """Force a call of any tool. If there is only one, and it has a grammar, the answer follows that."""
    callable_tools = list(tools.by_chat_name.values())
    if not callable_tools:
        left_out = f"; this server cannot run {', '.join(tools.ignored)}" if tools.ignored else ""
        message = f"tool_choice required needs a tool of the type function or custom{left_out}."
        raise InvalidParameter(message, "tool_choice")
    if len(callable_tools) == 1 and callable_tools[0].grammar:
        return ResolvedChoice(tools, "none", callable_tools[0])
    return ResolvedChoice(tools, "required")


def _resolve_allowed(choice: dict[str, Any], tools: ToolTable) -> ResolvedChoice:
    """Leave only the allowed tools. Those that cannot be run are no reason to refuse, as among the tools."""
    mode, allowed = choice.get("mode"), choice.get("tools")
    if mode is None:
        mode = "auto"
    if mode not in MODES or not isinstance(allowed, list) or not all(isinstance(one, dict) for one in allowed):
        message = "tool_choice of the type allowed_tools needs mode (auto or required) and tools, an array of objects."
        raise InvalidParameter(message, "tool_choice")
    selected: list[CallableTool] = []
    for one in allowed:
        kind, name, namespace = one.get("type"), one.get("name"), one.get("namespace")
        if isinstance(kind, str) and is_built_in(kind):
            continue
        tool = tools.find(name, namespace) if isinstance(name, str) and isinstance(namespace, str | None) else None
        if tool is None:
            raise InvalidParameter(f"tool_choice allows {preview(name)}, which is not among the tools.", "tool_choice")
        selected.append(tool)
    return resolve_choice(mode, tools.select(selected))
