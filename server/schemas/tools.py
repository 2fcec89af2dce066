"""Checks of the fields about tools, and the resolution of tool_choice."""

from typing import Any

from jaxserve import InvalidParameter, NamedTool, StructuredOutputs, ToolChoice
from server.errors import preview
from server.schemas.chat import ChatRequest, Tool
from server.schemas.constraints import resolve_constraint

TOOL_CHOICES = ("none", "auto", "required")


def check_tools(request: ChatRequest) -> None:
    """Check the fields about tools. Raises InvalidParameter about the field at fault."""
    if request.tools == []:
        raise InvalidParameter("tools must not be empty; leave it out when there are none.", "tools")
    choice = request.tool_choice
    if isinstance(choice, str) and choice not in TOOL_CHOICES:
        allowed = "none, auto, required or an object naming a function"
        raise InvalidParameter(f"tool_choice must be {allowed}, got {preview(choice)}.", "tool_choice")
    if isinstance(choice, dict):
        _check_named_choice(choice)
    if choice not in (None, "none") and not request.tools:
        raise InvalidParameter("tool_choice is only allowed together with tools.", "tool_choice")
    if isinstance(choice, dict) and choice["function"]["name"] not in [
        tool.function.name for tool in request.tools or ()
    ]:
        name = preview(choice["function"]["name"])
        raise InvalidParameter(f"tool_choice names {name}, which is not among the tools.", "tool_choice")
    if choice == "required":
        _check_definitions(request.tools or [])
    constraint = resolve_constraint(request)
    if constraint is not None and request.structured_outputs is not None and is_call_forced(request):
        raise InvalidParameter(
            "An answer that must be a tool call cannot follow structured_outputs as well; use only one of them.",
            "tool_choice",
        )


def is_call_forced(request: ChatRequest) -> bool:
    """Tell whether the answer must be a tool call."""
    return request.tool_choice == "required" or isinstance(request.tool_choice, dict)


def resolve_content_constraint(request: ChatRequest) -> StructuredOutputs | None:
    """Return the constraint of the content, of a request that has been checked.

    An answer that must be a tool call has no content, so a response_format beside it has no effect.
    """
    return None if is_call_forced(request) else resolve_constraint(request)


def resolve_tool_choice(request: ChatRequest) -> ToolChoice:
    """Return the tool choice of a request that has been checked. The default is auto if there are tools, else none."""
    choice = request.tool_choice
    if isinstance(choice, dict):
        return NamedTool(choice["function"]["name"])
    if choice is None:
        return "auto" if request.tools else "none"
    return choice  # type: ignore[return-value]  # one of TOOL_CHOICES


def _check_definitions(tools: list[Tool]) -> None:
    """Check $defs: the calls that may be made become one schema, in which their definitions share one namespace."""
    definitions: dict[str, Any] = {}
    for tool in tools:
        defs = (tool.function.parameters or {}).get("$defs")
        for name, body in defs.items() if isinstance(defs, dict) else ():
            if definitions.setdefault(name, body) != body:
                raise InvalidParameter(
                    f"tools have two different $defs under the name {preview(name)}; rename one of them.", "tools"
                )


def _check_named_choice(choice: dict[str, Any]) -> None:
    if choice.get("type") != "function":
        raise InvalidParameter('tool_choice must have type "function".', "tool_choice")
    function = choice.get("function")
    if not isinstance(function, dict):
        raise InvalidParameter("tool_choice must name a function.", "tool_choice.function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidParameter("tool_choice.function.name must be a non-empty string.", "tool_choice.function.name")
