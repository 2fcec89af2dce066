"""As much of the Hugging Face hub as a download asks for: one server, some repositories, files from memory."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """repositories: id → file name → bytes. `private` ones want TOKEN. `asked` keeps every request line."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]], private: frozenset[str] = frozenset()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.private = repositories, private
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        """Tests read `asked` instead."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        files = self.server.repositories.get(repository)
        locked = repository in self.server.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if files is None or locked:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif len(rest) > 1 and rest[1] not in ("main", "v1", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif is_api:
            self.describe(repository, rest, files)
        elif "/".join(rest[2:]) in files:
            self.send_file(files["/".join(rest[2:])])
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def describe(self, repository: str, rest: list[str], files: dict[str, bytes]) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        body = entries if rest[:1] == ["tree"] else info
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_file(self, data: bytes) -> None:
        self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running(repositories: dict[str, dict[str, bytes]], private: frozenset[str] = frozenset()) -> Iterator[Hub]:
    hub = Hub(repositories, private)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
