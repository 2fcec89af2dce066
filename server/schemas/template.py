"""Checks and defaults of the fields that shape a prompt, for every endpoint that reads messages."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxserve import InvalidParameter, dump_exact_json
from server.config import RESERVED_TEMPLATE_KWARGS, ServerConfig
from server.schemas.chat import Message, Tool

MAX_PARTS = 65536
MAX_TEMPLATE_KWARGS_BYTES = 64 * 1024
MAX_TOOLS_BYTES = 4 * 1024 * 1024


class TemplateFields(Protocol):
    """The fields of a prompt that chat and /tokenize have in common."""

    @property
    def tools(self) -> list[Tool] | None:
        """The tools that the template may show."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The request's own chat template."""
        ...

    @property
    def chat_template_kwargs(self) -> dict[str, Any] | None:
        """Further variables of the template."""
        ...

    @property
    def mm_processor_kwargs(self) -> dict[str, Any] | None:
        """Arguments of a multimodal processor."""
        ...

    @property
    def media_io_kwargs(self) -> dict[str, dict[str, Any]] | None:
        """Arguments of the readers of media."""
        ...

    @property
    def adds_generation_prompt(self) -> bool:
        """Whether the prompt ends with the beginning of an assistant message."""
        ...

    @property
    def continues_final_message(self) -> bool:
        """Whether the answer continues the last message."""
        ...


def check_messages(messages: list[Message]) -> None:
    """Check the number of content parts, and of calls. Raises InvalidParameter if there are more than MAX_PARTS."""
    num_parts = sum(len(message.content) for message in messages if isinstance(message.content, list))
    num_calls = sum(len(message.tool_calls or ()) for message in messages)
    if max(num_parts, num_calls) > MAX_PARTS:
        raise InvalidParameter(f"messages has more than {MAX_PARTS} content parts or tool calls.", "messages")


def check_template_fields(request: TemplateFields, config: ServerConfig) -> None:
    """Check the fields of a prompt. Raises InvalidParameter about the field at fault."""
    if request.continues_final_message and request.adds_generation_prompt:
        raise InvalidParameter(
            "continue_final_message and add_generation_prompt cannot both be true; add_generation_prompt defaults to "
            "true, so send it as false.",
            "continue_final_message",
        )
    kwargs = request.chat_template_kwargs or {}
    if request_template(request) is not None and not config.trust_request_chat_template:
        param = "chat_template" if request.chat_template is not None else "chat_template_kwargs"
        raise InvalidParameter(_needs_flag("chat_template", "--trust-request-chat-template"), param)
    if not isinstance(kwargs.get("chat_template"), str | None):
        raise InvalidParameter("chat_template_kwargs.chat_template must be a string.", "chat_template_kwargs")
    for name in sorted(RESERVED_TEMPLATE_KWARGS & kwargs.keys()):
        raise InvalidParameter(f"chat_template_kwargs may not contain {name}.", "chat_template_kwargs")
    for name in ("mm_processor_kwargs", "media_io_kwargs"):
        if getattr(request, name) and not config.trust_request_mm_kwargs:
            raise InvalidParameter(_needs_flag(name, "--trust-request-mm-kwargs"), name)
    variables = {name: value for name, value in kwargs.items() if name != "chat_template"}
    _check_size("chat_template_kwargs", variables, MAX_TEMPLATE_KWARGS_BYTES)
    num_tools = len(request.tools or ())
    if num_tools > config.max_tools:
        raise InvalidParameter(f"tools has {num_tools} tools; at most {config.max_tools} are allowed.", "tools")
    _check_size("tools", dump_tools(request.tools), MAX_TOOLS_BYTES)


def request_template(request: TemplateFields) -> str | None:
    """Return the chat template of the request itself: the field, or the one in chat_template_kwargs."""
    template = (request.chat_template_kwargs or {}).get("chat_template")
    return template if request.chat_template is None else request.chat_template


def dump_tools(tools: list[Tool] | None) -> list[dict[str, Any]] | None:
    """Return the tools as templates print them: what was sent, with type, name, description and parameters first."""
    return None if tools is None else [tool.model_dump(exclude_unset=True) for tool in tools]


def merge_template_kwargs(kwargs: Mapping[str, Any] | None, effort: str | None, config: ServerConfig) -> dict[str, Any]:
    """Return the further variables of the template: the server's defaults, replaced by the request's.

    A reasoning effort sets enable_thinking, unless the request sets it itself.
    """
    merged = {name: value for name, value in (kwargs or {}).items() if name != "chat_template"}
    thinking = {}
    effort = map_reasoning_effort(effort, config)
    if effort is not None:
        thinking = {"enable_thinking": effort != "none"}
        merged["reasoning_effort"] = effort
    return {**(config.default_chat_template_kwargs or {}), **thinking, **merged}


def map_reasoning_effort(effort: str | None, config: ServerConfig) -> Any:
    """Return the value that the template gets for a reasoning_effort."""
    return None if effort is None else (config.reasoning_effort_map or {}).get(effort, effort)


def _needs_flag(field: str, flag: str) -> str:
    return f"{field} of a request is only used with {flag}, which this server does not have."


def _check_size(name: str, value: Any, limit: int) -> None:
    if value and len(dump_exact_json(value).encode()) > limit:
        raise InvalidParameter(f"{name} is larger than {limit} bytes.", name)
