"""FakeOpenAI: an OpenAI-compatible server that sends given words, to test the page, the terminal and benchmarks."""

import json
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from server.assets import ASSETS


class FakeOpenAI:
    """Answers every chat with `words`, one chunk each, behind `thoughts`, one reasoning chunk each.

    hold_after     after that many words the answer waits for `resume`
    refusal        (status, message) for every chat instead of an answer
    unknown_field  a field that is refused by name
    breaks_off     the answer ends with an error event
    param          the field that a refusal names
    calls          (name, pieces of its arguments) of each function that the answer calls behind its words
    finish_reason  of every answer, instead of what follows from the request
    card           what the card of the model says
    unseen_tokens  what usage counts on top of the words
    hung_up        set when a client left in the middle of an answer
    chats          the bodies of all chats so far
    """

    def __init__(self, *words: str, api_key: str | None = None, port: int = 0) -> None:
        self.words = words
        self.thoughts: tuple[str, ...] = ()
        self.api_key = api_key
        self.hold_after: int | None = None
        self.refusal: tuple[int, str] | None = None
        self.unknown_field: str | None = None
        self.breaks_off = False
        self.param: str | None = None
        self.calls: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self.finish_reason: str | None = None
        self.card: dict[str, Any] = {"id": "fake-model", "max_model_len": 4096}
        self.unseen_tokens = 0
        self.resume = threading.Event()
        self.hung_up = threading.Event()
        self.chats: list[dict[str, Any]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.thread = threading.Thread(target=self._http.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def words_for(self, chat: dict[str, Any]) -> Iterable[str]:
        """Return the words that answer this chat; subclasses override it."""
        return self.words

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.resume.set()
        self._http.shutdown()
        self._http.server_close()
        self.thread.join()


def _handler(fake: FakeOpenAI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def do_GET(self) -> None:
            if asset := ASSETS.get(self.path):
                self._send(200, asset.body, asset.headers)
            elif self.path == "/v1/models" and self._may():
                self._json(200, {"object": "list", "data": [fake.card]})
            elif self.path != "/v1/models":
                self._json(404, {"error": {"message": "not here"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._may():
                return
            if self.path == "/tokenize":
                count = num_words(body["messages"])
                self._json(200, {"count": count, "tokens": list(range(count))})
                return
            fake.chats.append(body)
            if fake.unknown_field in body:
                self._json(400, {"error": {"message": f"Unrecognized request argument: {fake.unknown_field}"}})
                return
            if fake.refusal:
                status, message = fake.refusal
                self._json(status, {"error": {"message": message, "code": status, "param": fake.param}})
                return
            try:
                self._stream(body)
            except ConnectionError:
                fake.hung_up.set()
                self.close_connection = True

        def _may(self) -> bool:
            if fake.api_key and self.headers.get("Authorization") != f"Bearer {fake.api_key}":
                self._json(401, {"error": "Unauthorized"})
                return False
            return True

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            prompt_tokens = fake.unseen_tokens + num_words(body["messages"])
            self._event(choice({"role": "assistant", "content": ""}), None)
            for thought in fake.thoughts:
                self._event(choice({"reasoning": thought}), None)
            sent = 0
            for sent, word in enumerate(fake.words_for(body), 1):
                if sent - 1 == fake.hold_after:
                    fake.resume.wait(30)
                self._event(choice({"content": word}), usage(prompt_tokens, sent))
            for index, (name, pieces) in enumerate(fake.calls):
                self._event(
                    choice({"tool_calls": [{"index": index, "id": f"call-{index}", **function(name, "")}]}), None
                )
                for piece in pieces:
                    self._event(choice({"tool_calls": [{"index": index, **function(None, piece)}]}), None)
            if fake.breaks_off:
                self._write(b'data: {"error": {"message": "the engine has ended", "code": 500}}\n\n')
            else:
                reason = fake.finish_reason or ("length" if body.get("max_tokens") == sent else "stop")
                self._event(choice({}, reason), usage(prompt_tokens, sent))
                self._event(None, usage(prompt_tokens, sent))
            self._write(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def _event(self, choice: dict[str, Any] | None, usage: dict[str, int] | None) -> None:
            chunk = {"object": "chat.completion.chunk", "choices": [choice] if choice else [], "usage": usage}
            self._write(f"data: {json.dumps(chunk)}\n\n".encode())

        def _write(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def _json(self, status: int, value: Any) -> None:
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def num_words(messages: list[dict[str, Any]]) -> int:
    return sum(len((message["content"] or "").split()) for message in messages)


def function(name: str | None, arguments: str) -> dict[str, Any]:
    return {"function": {"arguments": arguments, **({"name": name} if name else {})}}


def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
