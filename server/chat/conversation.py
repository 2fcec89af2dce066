"""The messages and settings of a conversation, which can be saved in a file."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.chat.client import ChatError


def _parse_switch(text: str) -> bool:
    if text.lower() not in ("true", "on", "yes", "1", "false", "off", "no", "0"):
        raise ValueError("on or off is meant")
    return text.lower() in ("true", "on", "yes", "1")


SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "max_tokens": int,
    "seed": int,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "stop": str,
    "reasoning_effort": str,
    "enable_thinking": _parse_switch,
}


@dataclass(slots=True)
class Conversation:
    """One conversation.

    system     the system prompt, None: there is none
    messages   alternately of the user and the assistant
    settings   values by the names of SETTINGS
    """

    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def make_messages(self, text: str) -> list[dict[str, str]]:
        """Make the messages to send for a new question."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, {"role": "user", "content": text}]

    def add(self, question: str, answer: str) -> None:
        """Add a question and its answer."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def pop_last(self) -> tuple[str, str]:
        """Remove the last question and its answer, and return both. Raises ChatError if there are none."""
        if not self.messages:
            raise ChatError("nothing has been asked yet")
        question, answer = self.messages[-2]["content"], self.messages[-1]["content"]
        del self.messages[-2:]
        return question, answer

    def set(self, name: str, text: str) -> None:
        """Change a setting; an empty text removes it. Raises ChatError if the name or the value is not valid."""
        name = name.replace("-", "_")
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            raise ChatError(
                f"no setting {name}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}")
            )
        if not text:
            self.settings.pop(name, None)
            return
        try:
            self.settings[name] = SETTINGS[name](text)
        except ValueError as error:
            raise ChatError(f"{name} cannot be {text!r}: {error}") from None

    def to_request_fields(self) -> dict[str, Any]:
        """Return the settings as fields of a request."""
        fields = dict(self.settings)
        if (enable_thinking := fields.pop("enable_thinking", None)) is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": enable_thinking}
        return fields

    def save(self, path: Path) -> None:
        """Write the conversation to a file that only its owner can read. Raises ChatError if that fails."""
        content = {"system": self.system, "settings": self.settings, "messages": self.messages}
        try:
            path.touch(mode=0o600)
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ChatError(f"cannot write {path}: {error.strerror or error}") from None

    def load(self, path: Path) -> None:
        """Read a conversation that `save` wrote. Raises ChatError if the file cannot be read, or holds none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            roles = [message["role"] for message in content["messages"]]
            texts = [message["content"] for message in content["messages"]]
            settings, system = dict(content.get("settings") or {}), content.get("system")
        except OSError as error:
            raise ChatError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError):
            raise ChatError(f"{path} is no saved conversation") from None
        pairs = ["user", "assistant"] * (len(roles) // 2)
        if roles != pairs or not all(isinstance(text, str) for text in texts) or not settings.keys() <= SETTINGS.keys():
            raise ChatError(f"{path} is no saved conversation")
        self.system = system if isinstance(system, str) else None
        self.messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        self.settings = settings
