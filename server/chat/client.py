"""Ask an OpenAI-compatible server for an answer, streamed. Standard library only."""

import http.client
import json
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What the chat page sends, too, where the person says nothing.
PAGE_DEFAULTS = json.loads(
    (Path(__file__).parents[1] / "page" / "assets" / "defaults.json").read_text(encoding="utf-8")
)
MAX_TOKENS: int = PAGE_DEFAULTS["max_tokens"]  # of an answer
REPETITION_DETECTION: dict[str, int] = PAGE_DEFAULTS["repetition_detection"]
SOCKET_SCHEME = "unix:"  # unix:/path/of/a/socket
CONNECT_TIMEOUT_S = 10


class ChatError(Exception):
    """Something went wrong that one sentence explains; the conversation may go on."""


@dataclass(frozen=True, slots=True)
class AnswerSummary:
    """How an answer ended, and how fast it came.

    finish_reason is the server's. Seconds count to the first token, tokens per second from there on; both are 0 where
    nothing was written.
    """

    finish_reason: str | None
    first_token_s: float = 0.0
    num_tokens: int = 0
    tokens_per_s: float = 0.0

    def __str__(self) -> str:
        speed = f" · {self.tokens_per_s:.1f} tokens/s" if self.num_tokens > 1 else ""
        return f"{self.num_tokens} token{'s' * (self.num_tokens != 1)}{speed} · first after {self.first_token_s:.2f} s"


@dataclass(slots=True)
class ChatClient:
    """One server, and how to ask it.

    fields: request fields of every question, over the defaults. max_model_len and model_sampling, the model's own
    defaults: what the server says, once it was asked; None: it does not say.
    """

    url: str
    api_key: str | None = None
    model: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    max_model_len: int | None = None
    model_sampling: dict[str, Any] | None = None
    detects_repetition: bool = True

    def fetch_model(self) -> None:
        """Learn the server's first model, unless one was named. Raises ChatError where there is no server."""
        connection, response = self._request("GET", "/v1/models", None)
        with _ClosingResponse(connection, response):
            first = json.loads(response.read())["data"][0]
        self.model = self.model or first["id"]
        self.max_model_len = first.get("max_model_len")
        self.model_sampling = first.get("default_sampling_params")

    def make_body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the request: the defaults, and over them what was set."""
        longest = MAX_TOKENS if self.max_model_len is None else min(MAX_TOKENS, self.max_model_len)
        defaults: dict[str, Any] = {"max_tokens": longest}
        usual = PAGE_DEFAULTS["sampling_without_metadata"]
        if self.model_sampling is not None and not usual.keys() & self.model_sampling.keys():
            defaults |= usual
        for name, value in PAGE_DEFAULTS["sampling_by_model"].get(self.model, {}).items():
            if name not in (self.model_sampling or {}):
                defaults[name] = value
        if self.detects_repetition:
            defaults["repetition_detection"] = REPETITION_DETECTION
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self.model, "messages": messages, **stream, **defaults, **self.fields}

    def stream_answer(self, messages: list[dict[str, str]]) -> Generator[tuple[str, str] | AnswerSummary]:
        """Yield ("content" | "reasoning", text) as it comes, and an AnswerEnd. Closing it stops the server.

        Raises ChatError for a refusal, and where the server goes away.
        """
        asked = time.perf_counter()
        connection, response = self._request_answer(messages)
        with _ClosingResponse(connection, response):
            first = last = 0.0
            num_tokens, reason = 0, None
            for event in parse_events(response):
                for choice in event.get("choices", ()):
                    reason = choice.get("finish_reason") or reason
                    for kind in ("reasoning", "content"):
                        if text := choice.get("delta", {}).get(kind):
                            last = time.perf_counter()
                            first = first or last
                            num_tokens += 1
                            yield kind, text
                if usage := event.get("usage"):
                    num_tokens = usage["completion_tokens"]
            speed = (num_tokens - 1) / (last - first) if last > first else 0.0
            yield AnswerSummary(reason, first - asked if first else 0.0, num_tokens, speed)

    def _request_answer(
        self, messages: list[dict[str, str]]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Other servers may not know repetition_detection: one that refuses it by name is not told of it again."""
        try:
            return self._request("POST", "/v1/chat/completions", self.make_body(messages))
        except ChatError as error:
            if not self.detects_repetition or "repetition_detection" not in str(error):
                raise
            self.detects_repetition = False
            return self._request("POST", "/v1/chat/completions", self.make_body(messages))

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection, base = self._make_connection()
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection.connect()
            connection.sock.settimeout(None)  # an answer may take as long as it likes
            connection.request(method, base + path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ChatError(
                f"no server answers at {self.url} ({error}); start one with `jaxserve serve`, or give another --url"
            ) from None
        if response.status != http.client.OK:
            with _ClosingResponse(connection, response):
                raise ChatError(parse_error(response.status, response.read()))
        return connection, response

    def _make_connection(self) -> tuple[http.client.HTTPConnection, str]:
        """A connection that is not open yet, and what stands before every path."""
        if self.url.startswith(SOCKET_SCHEME):
            return _UnixHTTPConnection(self.url.removeprefix(SOCKET_SCHEME)), ""
        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "localhost", parts.port, timeout=CONNECT_TIMEOUT_S)
        return connection, parts.path.rstrip("/").removesuffix("/v1")


class _UnixHTTPConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _ClosingResponse:
    """Closes both at the end, and makes one sentence of a server that went away in the middle."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._both = (response, connection)  # a response that is read to the end of its connection owns the socket

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        for one in self._both:
            one.close()
        if isinstance(error, OSError | http.client.HTTPException | ValueError | KeyError | IndexError):
            raise ChatError(f"the server broke off, or is not an OpenAI-compatible one ({error!r})") from None


def parse_events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event, until [DONE]. An error event ends the answer."""
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise ChatError(event["error"].get("message", "the server gave no reason"))
        yield event


def parse_error(status: int, body: bytes) -> str:
    """The server's own words about a request it did not serve."""
    if status == http.client.UNAUTHORIZED:
        return "the server wants a key: --api-key KEY, or the environment variable JAXSERVE_API_KEY"
    try:
        error = json.loads(body)["error"]
        return error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}"
