"""A client with a key that sends requests over plain HTTP and checks the replies."""

import json
from typing import Any

import httpx

KEY = "a-key"
HELLO = [{"role": "user", "content": "Say hello."}]
FOX = [{"role": "user", "content": "Tell me a short story about a fox."}]
LENGTH, VOCABULARY, EOS = 1024, 49152, 2
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DEFAULTS = {"max_tokens": 3, "temperature": 0}
PROMPT = "The sky is"
COMMA = 28  # the token of ","
OTHER = 20001  # a token that no prompt here has
FORCED = {"logit_bias": {str(COMMA): 100}, "ignore_eos": True}  # nothing but commas


class ApiClient:
    """Sends chat and completion requests with short defaults."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Send a body: an object, or the bytes themselves."""
        options = {"content": body, "headers": {"content-type": "application/json"} | headers}
        if not isinstance(body, bytes):
            options = {"json": body, "headers": headers}
        return self.http.post(path, **options)

    def ask(self, messages: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.post(CHAT, {"messages": messages or HELLO} | DEFAULTS | fields, **(headers or {}))

    def chat(self, messages: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        reply = self.ask(messages, headers, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def choice(self, messages: Any = None, **fields: Any) -> dict[str, Any]:
        return self.chat(messages, **fields)["choices"][0]

    def text(self, messages: Any = None, **fields: Any) -> str:
        return self.choice(messages, **fields)["message"]["content"]

    def ids(self, messages: Any = None, **fields: Any) -> list[int]:
        """Return the generated token ids."""
        return self.choice(messages, return_token_ids=True, **fields)["token_ids"]

    def prompt_ids(self, messages: Any = None, **fields: Any) -> list[int]:
        """Return the token ids of the prompt."""
        fields = {"max_tokens": 1} | fields
        return self.chat(messages, None, return_token_ids=True, **fields)["prompt_token_ids"]

    def stream(self, messages: Any = None, **fields: Any) -> list[dict[str, Any]]:
        return parse_stream(self.ask(messages, stream=True, **fields))

    def complete(self, **fields: Any) -> dict[str, Any]:
        reply = self.post(COMPLETIONS, {"prompt": PROMPT} | DEFAULTS | fields)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def decode(self, ids: list[int]) -> str:
        return self.post("/detokenize", {"tokens": ids}).json()["prompt"]


def parse_stream(reply: httpx.Response) -> list[dict[str, Any]]:
    """Return the chunks of a stream, without its final [DONE]."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = reply.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: {") for frame in frames[:-2])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def check_error(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    """Check the status of an error reply and return its error object."""
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json"), reply.text
    error = reply.json()["error"]
    assert list(error) == ["message", "type", "param", "code"] and error["code"] == status
    return error


def merge_content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """Return the text of one choice of a stream."""
    own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
    return "".join(one["delta"].get("content", "") for one in own)
