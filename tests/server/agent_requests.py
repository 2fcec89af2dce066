"""Requests in the forms of coding agents.

Codex: the fields of ResponsesApiRequest in codex-rs/codex-api/src/common.rs of github.com/openai/codex, its tools in
codex-rs/core/src/tools, with the grammar of tool_apply_patch.lark. Claude Code: its source is not public; the form is
what its version 2.1.328 sends, as a proxy has recorded it (scripts/try_clients runs the program itself).
"""

from typing import Any

PATCH_GRAMMAR = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
APPLY_PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files. This is a FREEFORM tool.",
    "format": {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR},
}


def make_schema(**properties: str) -> dict[str, Any]:
    """Make the schema of an object, from the types of its properties."""
    fields = {name: {"type": kind, "description": f"The {name}."} for name, kind in properties.items()}
    return {"type": "object", "properties": fields, "required": list(fields)[:1], "additionalProperties": False}


def make_codex_request(items: list[dict[str, Any]], num_tools: int = 30) -> dict[str, Any]:
    """Make a request of Codex. items: the conversation after the first message, all of which it sends each time."""
    shell = make_schema(command="string", workdir="string", timeout_ms="number")
    mcp = [
        {"type": "function", "name": f"read_{number}", "description": "Reads.", "strict": False, "parameters": shell}
        for number in range(num_tools)
    ]
    return {
        "model": "fake/model",
        "instructions": "You are Codex, based on GPT-5.",
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "<permissions instructions>"}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rename f."}]},
            *items,
        ],
        "tools": [
            {"type": "function", "name": "shell_command", "description": "Runs.", "strict": False, "parameters": shell},
            {"type": "function", "name": "update_plan", "strict": False, "parameters": make_schema(plan="array")},
            APPLY_PATCH,
            {"type": "web_search", "external_web_access": False},
            {"type": "namespace", "name": "mcp__files__", "description": "Files.", "tools": mcp},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
        "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "1"},
    }


CLAUDE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27",
    "x-app": "cli",
    "User-Agent": "claude-cli/2.1.77 (external, cli)",
}


def make_claude_request(turns: list[dict[str, Any]], turn: int, num_tools: int = 30) -> dict[str, Any]:
    """Make a request of Claude Code. turns: all messages after the first. turn: the number of the request."""
    cached = {"cache_control": {"type": "ephemeral"}}
    reminder = "<system-reminder>Today is 2026-12-01.</system-reminder>"
    tools = [
        {
            "name": f"Tool{number}",
            "description": "Does it.",
            "input_schema": make_schema(command="string", limit="number"),
        }
        for number in range(num_tools)
    ]
    return {
        "model": "fake/model",
        "max_tokens": 3000,
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.77.{turn:03}; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are Claude Code, Anthropic's official CLI for Claude.", **cached},
            {"type": "text", "text": "You are an interactive agent.", **cached},
        ],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": reminder}, {"type": "text", "text": "Rename f."}],
            },
            {"role": "system", "content": [{"type": "text", "text": "# Environment", **cached}]},
            *turns,
        ],
        "tools": [*tools, {"name": "Bash", "description": "Runs.", "input_schema": make_schema(command="string")}],
        "metadata": {"user_id": "user_1_account_2_session_3"},
        "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "updates"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    }
