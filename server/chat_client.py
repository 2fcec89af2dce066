"""`jaxserve chat`: a conversation in the terminal with any OpenAI-compatible server. Standard library only.

Ctrl-C stops an answer and keeps what was said; Ctrl-D or /quit ends. When standard input is not a terminal, every line
is one message and only the answers are printed. Reasoning is dimmed, and shown on terminals alone.
"""

import http.client
import json
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

COMMANDS = """\
/reset          forget the conversation
/system TEXT    set the system prompt (without TEXT: drop it); forgets the conversation
/help           this list
/quit           leave (Ctrl-D does, too)
Ctrl-C          stop an answer"""
CONNECT_TIMEOUT_S = 10
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class ChatError(Exception):
    """Something went wrong that one sentence explains; the conversation may go on."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast an answer came: seconds to the first token, and tokens per second from there on."""

    first_token_s: float
    num_tokens: int
    tokens_per_s: float

    def __str__(self) -> str:
        speed = f" · {self.tokens_per_s:.1f} tokens/s" if self.num_tokens > 1 else ""
        return f"{self.num_tokens} token{'s' * (self.num_tokens != 1)}{speed} · first after {self.first_token_s:.2f} s"


@dataclass(slots=True)
class Client:
    """One server, and how to ask it."""

    url: str
    api_key: str | None = None
    model: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    def served_model(self) -> str:
        """The server's first model; also the way to find out that there is no server."""
        connection, response = self._request("GET", "/v1/models", None)
        with closed(connection, response):
            return json.loads(response.read())["data"][0]["id"]

    def answer(self, messages: list[dict[str, str]]) -> Generator[tuple[str, str] | Timing]:
        """Yields ("content" | "reasoning", text) as it comes, and a Timing at the end. Closing it stops the server."""
        body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}, **self.sampling}
        asked = time.perf_counter()
        connection, response = self._request("POST", "/v1/chat/completions", body | {"model": self.model})
        with closed(connection, response):
            first = last = 0.0
            num_tokens = 0
            for event in events(response):
                for choice in event.get("choices", ()):
                    for kind in ("reasoning", "content"):
                        if text := choice.get("delta", {}).get(kind):
                            last = time.perf_counter()
                            first = first or last
                            num_tokens += 1
                            yield kind, text
                if usage := event.get("usage"):
                    num_tokens = usage["completion_tokens"]
            if first:
                speed = (num_tokens - 1) / (last - first) if last > first else 0.0
                yield Timing(first - asked, num_tokens, speed)

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "localhost", parts.port, timeout=CONNECT_TIMEOUT_S)
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection.connect()
            connection.sock.settimeout(None)  # an answer may take as long as it likes
            base = parts.path.rstrip("/").removesuffix("/v1")
            connection.request(method, base + path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ChatError(
                f"no server answers at {self.url} ({error}); start one with `jaxserve serve`, or give another --url"
            ) from None
        if response.status != http.client.OK:
            with closed(connection, response):
                raise ChatError(refusal(response.status, response.read()))
        return connection, response


class closed:
    """Closes both at the end, and makes one sentence of a server that went away in the middle."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._both = (response, connection)  # a response that is read to the end of its connection owns the socket

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        for one in self._both:
            one.close()
        if isinstance(error, OSError | http.client.HTTPException | ValueError | KeyError | IndexError):
            raise ChatError(f"the server broke off, or is not an OpenAI-compatible one ({error!r})") from None


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
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


def refusal(status: int, body: bytes) -> str:
    """The server's own words about a request it did not serve."""
    if status == http.client.UNAUTHORIZED:
        return "the server wants a key: --api-key KEY, or the environment variable JAXSERVE_API_KEY"
    try:
        error = json.loads(body)["error"]
        return error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}"


class Chat:
    """The conversation and the terminal around it."""

    def __init__(self, client: Client, system: str | None) -> None:
        self.client = client
        self.system = system
        self.messages: list[dict[str, str]] = []
        self._style = sys.stdout.isatty()

    def run(self) -> int:
        """Talks until the person has had enough. Returns the exit code."""
        try:
            self.client.model = self.client.model or self.client.served_model()
        except ChatError as error:
            print(f"jaxserve chat: {error}", file=sys.stderr)
            return 1
        return self._interactive() if sys.stdin.isatty() else self._from_lines()

    def _from_lines(self) -> int:
        for line in filter(None, map(str.strip, sys.stdin)):
            try:
                self.say(line)
            except ChatError as error:
                print(f"jaxserve chat: {error}", file=sys.stderr)
                return 1
        return 0

    def _interactive(self) -> int:
        import readline  # noqa: F401  gives input() a history and arrow keys

        greeting = self._dim("Talking to ") + f"{self.client.model}"
        print(greeting + self._dim(f" at {self.client.url}; /help lists commands."))
        while True:
            try:
                line = input("\n› ").strip()
            except KeyboardInterrupt:
                print(self._dim("\n(/quit or Ctrl-D ends)"), end="")
                continue
            except EOFError:
                print()
                return 0
            if line in ("/quit", "/exit"):
                return 0
            self._obey_or_say(line)

    def _obey_or_say(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/help":
            print(self._dim(COMMANDS))
        elif command == "/reset":
            self.messages.clear()
            print(self._dim("forgotten"))
        elif command == "/system":
            self.system = rest.strip() or None
            self.messages.clear()
            print(self._dim(f"system prompt: {self.system or 'none'}"))
        elif command.startswith("/") and command[1:].isalpha():
            print(self._dim(f"no command {command}; /help lists them"))
        elif line:
            try:
                if timing := self.say(line):
                    print(self._dim(str(timing)))
            except ChatError as error:
                print(f"{self._dim('!')} {error}")

    def say(self, text: str) -> Timing | None:
        """Sends one message and prints the answer as it comes. Ctrl-C ends the answer, not the program.

        What had come by then stays in the conversation; a message that failed does not.
        """
        said: list[str] = []
        timing, has_thought = None, False
        asked = [*self.messages, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        answer = self.client.answer(system + asked)
        try:
            for piece in answer:
                if isinstance(piece, Timing):
                    timing = piece
                elif piece[0] == "reasoning":
                    has_thought = self._think(piece[1])
                else:
                    print("\n\n" * (has_thought and not said), end="")
                    said.append(piece[1])  # first: what is seen has been said
                    print(piece[1], end="", flush=True)
        except KeyboardInterrupt:
            print(self._dim(" (stopped)"), end="")
        finally:
            answer.close()
            print()
        self.messages = [*asked, {"role": "assistant", "content": "".join(said)}]
        return timing

    def _think(self, words: str) -> bool:
        """Shows a piece of reasoning to a person. Whether there was one to see it."""
        if self._style:
            print(self._dim(words), end="", flush=True)
        return self._style

    def _dim(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self._style else text
