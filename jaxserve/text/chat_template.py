"""ChatTemplate: messages and tools to the text of the prompt."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.text.content_format import ContentUsage, analyze_content
from jaxserve.text.messages import ContentFormat, prepare_messages
from jaxserve.text.sandbox import MAX_CHARS, describe_error, render_template

# Names that chat_template_kwargs may not set: arguments of the call around the template, and the sandbox's globals.
_CALL_ARGUMENTS = (
    "tokenize chat_template return_dict return_tensors padding truncation max_length messages conversation"
)
_GLOBALS = "range namespace dict cycler joiner raise_exception strftime_now"
# Forms of messages with tool calls, the usual one first: DeepSeek's templates join the arguments as text, and that of
# gpt-oss refuses thinking in a message with content and calls.
RENDER_VARIANTS: tuple[dict[str, bool], ...] = ({}, {"arguments_as_text": True}, {"keep_thinking_with_calls": False})
RESERVED_KWARGS = frozenset(_CALL_ARGUMENTS.split() + _GLOBALS.split())


class ChatTemplate:
    """One Jinja template with its special tokens."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        *,
        content_format: Literal["auto", "string", "openai"] = "auto",
        max_chars: int = MAX_CHARS,
        timeout_s: float = math.inf,
    ) -> None:
        """Wrap a template.

        source           The Jinja source.
        special_tokens   The variables for special tokens, name → text.
        content_format   The form of content for the template: "string", "openai" (a list of text parts), or "auto":
                         what the template's loops expect, where a single text stays a string if it tests for strings.
        max_chars        The longest prompt that it may write.
        timeout_s        The longest time that it may take for one prompt.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._wanted_format: Literal["auto", "string", "openai"] = content_format
        self._max_chars = max_chars
        self._timeout_s = timeout_s

    @property
    def content_format(self) -> ContentFormat:
        """The form of content for the template. Raises InvalidParameter if the template has a syntax error."""
        return self._usage().format if self._wanted_format == "auto" else self._wanted_format

    def _usage(self) -> ContentUsage:
        try:
            return analyze_content(self.source)
        except Exception as error:
            raise _template_error(error) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for messages as clients send them.

        kwargs: further variables; where they name a parameter that is given too, the parameter is used.

        Tool calls have the first of the RENDER_VARIANTS that the template accepts, and tools get an empty description
        if the template cannot do without one.

        Raises InvalidParameter with the template's own reason for every failure.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidParameter(
                "continue_final_message and add_generation_prompt cannot both be true; set add_generation_prompt to "
                "false.",
                "continue_final_message",
            )
        variables = {"tools": None, "documents": None} | self._variables(kwargs or {})
        parameters = {"tools": list(tools) if tools else None, "documents": documents}
        variables |= {name: value for name, value in parameters.items() if value is not None}
        variables |= {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        has_calls = any(isinstance(m, Mapping) and m.get("tool_calls") for m in messages)
        variants = self._variants() if has_calls else RENDER_VARIANTS[:1]
        try:
            return self._first_success(messages, variables, variants)
        except InvalidParameter:
            described = _with_descriptions(tools or ())
            if described != list(tools or ()):
                with suppress(InvalidParameter):
                    return self._first_success(messages, variables | {"tools": described}, variants)
            raise

    def _variants(self) -> Sequence[dict[str, bool]]:
        """Return the forms to try: first with no content instead of an empty one, if the template tests for none."""
        if not self._usage().tests_for_none or "tool_calls" not in self.source:
            return RENDER_VARIANTS
        return [*({**variant, "empty_content_is_none": True} for variant in RENDER_VARIANTS), *RENDER_VARIANTS]

    def _first_success(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], variants: Sequence[dict[str, bool]]
    ) -> str:
        """Render the first variant that the template accepts. Raises InvalidParameter with the reason for the first."""
        try:
            return self._render(messages, variables, **variants[0])
        except InvalidParameter:
            for variant in variants[1:]:
                with suppress(InvalidParameter):
                    return self._render(messages, variables, **variant)
            raise

    def _variables(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if clash := sorted(RESERVED_KWARGS & kwargs.keys()):
            raise InvalidParameter(f"chat_template_kwargs cannot set {', '.join(clash)}.", "chat_template_kwargs")
        return self._special_tokens | dict(kwargs)

    def _render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], **variant: bool) -> str:
        prepared = prepare_messages(
            messages,
            self.content_format,
            has_developer_role="developer" in self.source,
            **variant,
            lone_text_is_string=self._wanted_format == "auto" and self._usage().tests_for_string,
        )
        if not variables["continue_final_message"]:
            return self._run(prepared, variables)
        return self._run_open_ended(prepared, variables)

    def _run(self, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> str:
        try:
            return render_template(self.source, {**variables, "messages": messages}, self._max_chars, self._timeout_s)
        except Exception as error:  # a template can raise anything, and the request is the cause
            raise _template_error(error) from error

    def _run_open_ended(self, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> str:
        """Render the prompt up to the end of the last message's content, found by a mark that is appended to it."""
        content = _final_text(messages[-1])
        mark = _unused_mark(messages)
        text = self._run([*messages[:-1], _with_mark(messages[-1], mark + " ")], variables)
        end = text.rfind(mark)
        if end < 0 or content.strip() not in text:
            raise InvalidParameter(
                "continue_final_message is true, but the chat template does not write the final message's content as "
                "it is.",
                "continue_final_message",
            )
        if text.startswith(mark + " ", end):
            return text[:end]
        return text[:end].rstrip()  # the template trims, so it would have trimmed the content too


class ChatTemplates:
    """The templates of a checkpoint by name ("default", "tool_use", …), of which each request uses one."""

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        content_format: Literal["auto", "string", "openai"] = "auto",
        timeout_s: float = math.inf,
    ) -> None:
        self._sources = dict(templates)
        self._templates = {
            name: ChatTemplate(source, special_tokens, content_format=content_format, timeout_s=timeout_s)
            for name, source in templates.items()
        }

    @property
    def default_source(self) -> str | None:
        """The source of the template that messages without tools are rendered by; None: there is none."""
        return self._sources.get("default") or (next(iter(self._sources.values())) if len(self._sources) == 1 else None)

    def select(self, *, has_tools: bool) -> ChatTemplate:
        """Return the tool_use template if there are tools and it exists, else the default, else the only one.

        Raises InvalidParameter if there is none.
        """
        if has_tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        if "default" in self._templates:
            return self._templates["default"]
        if len(self._templates) == 1:
            return next(iter(self._templates.values()))
        known = f"only {', '.join(sorted(self._templates))} and no default" if self._templates else "none"
        raise InvalidParameter(f"The model has no chat template to use ({known}); use --chat-template.", "messages")


def read_template(value: str) -> str:
    """Return the template of --chat-template, whose value is the text itself or the path of a file.

    Raises BadConfig if it is neither.
    """
    if "{%" in value or "{{" in value:
        return value
    path = Path(os.path.expanduser(value))
    try:
        return path.read_text(encoding="utf-8-sig")  # a byte order mark would be part of every prompt
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(
            f"chat_template {value!r} is neither Jinja text nor a readable file ({type(error).__name__})."
        ) from error


def _with_descriptions(tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the tools, with an empty description and empty parameters where they have none."""
    defaults = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return [
        {**tool, "function": {**defaults, **function}}
        if isinstance(function := tool.get("function"), Mapping)
        else tool
        for tool in tools
    ]


def _template_error(error: Exception) -> InvalidParameter:
    return InvalidParameter(f"The chat template failed: {describe_error(error)}", "messages")


def _final_text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return content[-1].get("text", "") if content else ""


def _with_mark(message: Mapping[str, Any], mark: str) -> dict[str, Any]:
    content = message["content"]
    if content is None or isinstance(content, str):
        return {**message, "content": (content or "") + mark}
    is_text = bool(content) and content[-1]["type"] == "text"
    last = {"type": "text", "text": _final_text(message) + mark}
    return {**message, "content": [*(content[:-1] if is_text else content), last]}


def _unused_mark(messages: list[dict[str, Any]]) -> str:
    """Return a word that no message contains, so that no user can write the mark."""
    all_text, number = json.dumps(messages, ensure_ascii=False, default=str), 0
    while (mark := f"CONTINUEFROMHERE{number}") in all_text:
        number += 1
    return mark
