"""A client of OpenAI-compatible servers that streams answers. It uses the standard library only."""

import http.client
import json
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Request fields that the chat page sends, too, unless the user sets them.
PAGE_DEFAULTS = json.loads(
    (Path(__file__).parents[1] / "page" / "assets" / "defaults.json").read_text(encoding="utf-8")
)
MAX_TOKENS: int = PAGE_DEFAULTS["max_tokens"]  # default of an answer
REPETITION_DETECTION: dict[str, int] = PAGE_DEFAULTS["repetition_detection"]
SOCKET_SCHEME = "unix:"  # unix:/path/of/a/socket
CONNECT_TIMEOUT_S = 10


class ChatError(Exception):
    """An error that one sentence explains, and after which the conversation may continue."""


@dataclass(frozen=True, slots=True)
class AnswerSummary:
    """The end of an answer, and its speed.

    finish_reason   as the server gives it
    first_token_s   seconds from the request to the first token; 0: there was none
    num_tokens      tokens of the answer
    tokens_per_s    tokens a second after the first one; 0: there were fewer than two
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
    """A connection to one server, and the fields of the requests to it.

    url                  http://, https:// or unix:/path/of/a/socket
    api_key              sent as a bearer token
    model                name of the model; None: the server's first
    fields               request fields of every question; they win over the defaults
    max_model_len        as `fetch_model` has learnt it; None: the server does not tell
    model_sampling       the model's default sampling parameters, as `fetch_model` has learnt them
    detects_repetition   the field repetition_detection is sent
    """

    url: str
    api_key: str | None = None
    model: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    max_model_len: int | None = None
    model_sampling: dict[str, Any] | None = None
    detects_repetition: bool = True

    def fetch_model(self) -> None:
        """Ask the server for its first model and its limits. Raises ChatError if no server answers."""
        connection, response = self._request("GET", "/v1/models", None)
        with _ClosingResponse(connection, response):
            first = json.loads(response.read())["data"][0]
        self.model = self.model or first["id"]
        self.max_model_len = first.get("max_model_len")
        self.model_sampling = first.get("default_sampling_params")

    def make_body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Make the body of a request: the defaults, with the fields that were set."""
        max_tokens = MAX_TOKENS if self.max_model_len is None else min(MAX_TOKENS, self.max_model_len)
        defaults: dict[str, Any] = {"max_tokens": max_tokens}
        fallback = PAGE_DEFAULTS["sampling_without_metadata"]
        if self.model_sampling is not None and not fallback.keys() & self.model_sampling.keys():
            defaults |= fallback
        for name, value in PAGE_DEFAULTS["sampling_by_model"].get(self.model, {}).items():
            if name not in (self.model_sampling or {}):
                defaults[name] = value
        if self.detects_repetition:
            defaults["repetition_detection"] = REPETITION_DETECTION
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self.model, "messages": messages, **stream, **defaults, **self.fields}

    def stream_answer(self, messages: list[dict[str, str]]) -> Generator[tuple[str, str] | AnswerSummary]:
        """Yield ("content" or "reasoning", text) as it comes, then an AnswerSummary. Closing it aborts the answer.

        Raises ChatError if the server refuses the request, or the connection breaks.
        """
        started_s = time.perf_counter()
        connection, response = self._request_answer(messages)
        with _ClosingResponse(connection, response):
            first_s = last_s = 0.0
            num_tokens, reason = 0, None
            for event in parse_events(response):
                for choice in event.get("choices", ()):
                    reason = choice.get("finish_reason") or reason
                    for kind in ("reasoning", "content"):
                        if text := choice.get("delta", {}).get(kind):
                            last_s = time.perf_counter()
                            first_s = first_s or last_s
                            num_tokens += 1
                            yield kind, text
                if usage := event.get("usage"):
                    num_tokens = usage["completion_tokens"]
            speed = (num_tokens - 1) / (last_s - first_s) if last_s > first_s else 0.0
            yield AnswerSummary(reason, first_s - started_s if first_s else 0.0, num_tokens, speed)

    def _request_answer(
        self, messages: list[dict[str, str]]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a question. A server that refuses the field repetition_detection is not sent it again."""
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
            connection.sock.settimeout(None)  # there is no limit for the time of an answer
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
        """Make a connection, which is not open yet, and the prefix of all paths."""
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
    """A context that closes both at its end, and turns a connection that broke into a ChatError."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        # Both: a response that lasts to the end of its connection owns the socket.
        self._closeables = (response, connection)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        for closeable in self._closeables:
            closeable.close()
        if isinstance(error, OSError | http.client.HTTPException | ValueError | KeyError | IndexError):
            raise ChatError(f"the server broke off, or is not an OpenAI-compatible one ({error!r})") from None


def parse_events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON of each server-sent event, until [DONE]. Raises ChatError if one is an error."""
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
    """Return the server's message about a request that it refused."""
    if status == http.client.UNAUTHORIZED:
        return "the server wants a key: --api-key KEY, or the environment variable JAXSERVE_API_KEY"
    try:
        error = json.loads(body)["error"]
        return error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}"
