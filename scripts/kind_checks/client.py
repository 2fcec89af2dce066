"""Send the requests of scripts/check_kinds to one server, and take its answers apart."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

CHAT = "/v1/chat/completions"
TIMEOUT_S = 120

Outcome: TypeAlias = tuple[bool, Any]  # whether it is right, and what came


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice, whole or put together from a stream.

    status   of HTTP; anything but 200 leaves only `error`
    error    the error object, also one from the middle of a stream
    calls    (name, arguments as they were sent) of each tool call
    lines    the data lines of a stream, as httpx splits them
    """

    status: int
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str | None = None
    error: dict[str, Any] | None = None
    headers: httpx.Headers | None = None
    lines: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[str, tuple[tuple[str, str], ...], str | None]:
        """Content, calls and finish reason, which a whole reply and a streamed one share."""
        return self.content, self.calls, self.finish_reason

    def __str__(self) -> str:
        return str(self.error["message"] if self.error else self.said)

    def is_refused(self, *words: str) -> bool:
        """Return whether it is a 400 that says all of these, in its message or as its param."""
        text = json.dumps(self.error, ensure_ascii=False)
        return self.status == 400 and all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class Api:
    """One server: its address, and the number of its process."""

    url: str
    pid: int

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=TIMEOUT_S)

    def chat(self, question: str, **fields: Any) -> Reply:
        """Ask at temperature 0; `messages` among the fields replaces the question."""
        response = self.post(CHAT, _body(question, fields))
        answer = response.json()
        if response.status_code != 200:
            return Reply(response.status_code, error=answer["error"])
        choice = answer["choices"][0]
        message = choice["message"]
        calls = tuple(_call(call) for call in message.get("tool_calls") or ())
        return Reply(200, message["content"] or "", calls, choice["finish_reason"], headers=response.headers)

    def stream(self, question: str, **fields: Any) -> Reply:
        """The same as a stream."""
        body = _body(question, fields) | {"stream": True}
        with httpx.stream("POST", self.url + CHAT, json=body, timeout=TIMEOUT_S) as response:
            if response.status_code != 200:
                return Reply(response.status_code, error=json.loads(response.read())["error"])
            lines = tuple(line for line in response.iter_lines() if line and line != "data: [DONE]")
        content, finish, error, calls = "", None, None, []
        for event in (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")):
            error = event.get("error") or error
            for choice in event.get("choices", ()):
                content += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
                for call in choice["delta"].get("tool_calls") or ():
                    if call["index"] == len(calls):
                        calls.append(["", ""])
                    name, arguments = _call(call)
                    calls[call["index"]][0] += name or ""
                    calls[call["index"]][1] += arguments or ""
        told = tuple((name, arguments) for name, arguments in calls)
        return Reply(200, content, told, finish, error, lines=lines)

    def token_ids(self, text: str) -> list[int]:
        return self.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of fault, and a request that shows whether it is there.

    kind     a short name
    sent     what is sent
    server   "hermes" or "qwen3_coder": the tool parser of the server that is asked
    check    asks, and says whether the answer is right and what it is
    """

    kind: str
    sent: str
    server: str
    check: Callable[[Api], Outcome]


def tool(name: str, **function: Any) -> dict[str, Any]:
    """A declared function; without `parameters` it has none."""
    return {"type": "function", "function": {"name": name, **function}}


def forced(*tools: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that must call one of these once."""
    return {"tools": list(tools), "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 160}


def _body(question: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 120, **fields}


def _call(call: dict[str, Any]) -> tuple[str, str]:
    return call["function"].get("name"), call["function"].get("arguments")
