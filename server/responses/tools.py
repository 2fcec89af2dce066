"""The tools of a Responses request as functions of a chat request, and the way back from a call to its item."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxserve import InvalidParameter, dump_exact_json
from server.errors import preview

# Tools that OpenAI's servers run. Dated names, such as web_search_2025_08_26, begin with one of these.
BUILT_IN_TOOLS = (
    *("web_search", "file_search", "code_interpreter", "computer", "image_generation", "mcp", "local_shell", "shell"),
    *("apply_patch", "tool_search", "programmatic_tool_calling"),
)
CALLABLE_TOOLS = ("function", "custom", "namespace")
GRAMMAR_SYNTAXES = ("lark", "regex")
INPUT_KEY = "input"  # the argument that holds the text of a custom tool


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool that the model may call.

    kind       "function" or "custom"
    name       as the client knows it
    namespace  that it stands in; None: in none
    chat_name  as the model knows it
    syntax     of a custom tool's grammar, "" if it has none
    grammar    its definition
    """

    kind: str
    name: str
    namespace: str | None
    chat_name: str
    syntax: str = ""
    grammar: str = ""

    @property
    def unenforced(self) -> str | None:
        """The name of its grammar, if answers that choose among tools need not follow it; None: they do."""
        return f"{self.chat_name}.format" if self.syntax == "lark" else None


@dataclass(frozen=True, slots=True)
class ToolTable:
    """The tools of a request.

    by_chat_name  those that can be called
    chat_tools    the same, as a chat request has them
    ignored       types of built-in tools, which are left out
    """

    by_chat_name: Mapping[str, CallableTool] = field(default_factory=dict)
    chat_tools: tuple[dict[str, Any], ...] = ()
    ignored: tuple[str, ...] = ()

    def find(self, name: str, namespace: str | None, kind: str | None = None) -> CallableTool | None:
        """Return the tool that a client's name stands for; None if there is none. kind: None for any."""
        tool = self.by_chat_name.get(join_name(name, namespace))
        return tool if tool is not None and kind in (None, tool.kind) else None

    def select(self, tools: Iterable[CallableTool]) -> "ToolTable":
        """Return the table without all others than these."""
        names = {tool.chat_name for tool in tools}
        return ToolTable(
            {name: tool for name, tool in self.by_chat_name.items() if name in names},
            tuple(tool for tool in self.chat_tools if tool["function"]["name"] in names),
            self.ignored,
        )


def join_name(name: str, namespace: str | None) -> str:
    """Return the name that the model knows: of mcp__files and read it is mcp__files__read."""
    return name if not namespace else f"{namespace.removesuffix('__')}__{name}"


def read_tools(tools: Iterable[dict[str, Any]]) -> ToolTable:
    """Read the field tools. Raises InvalidParameter if a tool is malformed, or two have one name."""
    by_chat_name: dict[str, CallableTool] = {}
    chat_tools: list[dict[str, Any]] = []
    ignored: dict[str, None] = {}
    for tool, namespace, place in _flatten(tools):
        kind = tool.get("type")
        if kind in ("function", "custom"):
            read, chat_tool = _read_tool(tool, namespace, place)
            if read.chat_name in by_chat_name:
                raise InvalidParameter(f"tools has two tools named {preview(read.chat_name)}; rename one.", "tools")
            by_chat_name[read.chat_name] = read
            chat_tools.append({"type": "function", "function": chat_tool})
        elif isinstance(kind, str) and is_built_in(kind):
            ignored[kind] = None
        else:
            allowed = ", ".join(CALLABLE_TOOLS)
            raise InvalidParameter(f"{place}.type must be {allowed} or a built-in tool, got {preview(kind)}.", "tools")
    return ToolTable(by_chat_name, tuple(chat_tools), tuple(ignored))


def is_built_in(kind: str) -> bool:
    """Tell whether a type is that of a tool which OpenAI's servers run."""
    return any(kind == name or kind.startswith(name + "_") for name in BUILT_IN_TOOLS)


def _flatten(tools: Iterable[dict[str, Any]]) -> Iterable[tuple[dict[str, Any], str | None, str]]:
    """Yield each tool with its namespace and its place in the request."""
    for number, tool in enumerate(tools):
        place = f"tools[{number}]"
        if tool.get("type") != "namespace":
            yield tool, None, place
            continue
        name, inner = _read_name(tool, place), tool.get("tools")
        _read_description(tool, place)
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            raise InvalidParameter(f"{place}.tools must be an array of tools.", "tools")
        for inner_number, one in enumerate(inner):
            if one.get("type") == "namespace":
                raise InvalidParameter(f"{place}.tools must not have a namespace in a namespace.", "tools")
            yield one, name, f"{place}.tools[{inner_number}]"


def _read_tool(tool: dict[str, Any], namespace: str | None, place: str) -> tuple[CallableTool, dict[str, Any]]:
    """Return a function or custom tool, and the function that the model is shown for it."""
    name, kind = _read_name(tool, place), tool["type"]
    description = _read_description(tool, place)
    chat_name = join_name(name, namespace)
    if kind == "custom":
        syntax, grammar = _read_format(tool.get("format"), place)
        chat_tool = _describe_custom(chat_name, description, syntax, grammar)
        return CallableTool(kind, name, namespace, chat_name, syntax, grammar), chat_tool
    parameters = tool.get("parameters")
    if not isinstance(parameters, dict | None):
        raise InvalidParameter(f"{place}.parameters must be a JSON schema, an object.", "tools")
    fields = {"name": chat_name, "description": description, "parameters": parameters}
    fields["strict"] = True if tool.get("strict") is True else None
    return CallableTool(kind, name, namespace, chat_name), {key: one for key, one in fields.items() if one is not None}


def _read_name(tool: dict[str, Any], place: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidParameter(f"{place}.name must be a non-empty string.", "tools")
    return name


def _read_description(tool: dict[str, Any], place: str) -> str | None:
    description = tool.get("description")
    if not isinstance(description, str | None):
        raise InvalidParameter(f"{place}.description must be a string.", "tools")
    return description


def _read_format(form: Any, place: str) -> tuple[str, str]:
    """Return the syntax and definition of a custom tool's grammar, two empty strings for free text."""
    if form is None or (isinstance(form, dict) and form.get("type") == "text"):
        return "", ""
    if not isinstance(form, dict) or form.get("type") != "grammar":
        raise InvalidParameter(f"{place}.format must have the type text or grammar.", "tools")
    syntax, definition = form.get("syntax"), form.get("definition")
    if syntax not in GRAMMAR_SYNTAXES:
        raise InvalidParameter(f"{place}.format.syntax must be lark or regex, got {preview(syntax)}.", "tools")
    if not isinstance(definition, str) or not definition.strip():
        raise InvalidParameter(f"{place}.format.definition must be a grammar.", "tools")
    return syntax, definition


def _describe_custom(name: str, description: str | None, syntax: str, grammar: str) -> dict[str, Any]:
    """Make a function with one argument, the text. A regular expression is enforced as its pattern."""
    text: dict[str, Any] = {"type": "string", "description": "The whole input of the tool, as plain text."}
    lines = [description] if description else []
    if syntax == "lark":
        lines.append(f"The input follows this Lark grammar:\n{grammar}")
    elif syntax == "regex":
        text["pattern"] = f"^(?:{grammar})$"
    fields = {"name": name, "description": "\n\n".join(lines)} if lines else {"name": name}
    schema = {"type": "object", "properties": {INPUT_KEY: text}, "required": [INPUT_KEY], "additionalProperties": False}
    return {**fields, "parameters": schema, **({"strict": True} if syntax == "regex" else {})}


def make_custom_arguments(text: str) -> str:
    """Make the arguments with which the model is shown an earlier call of a custom tool."""
    return dump_exact_json({INPUT_KEY: text})
