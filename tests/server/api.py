"""An app around a FakeLLM, and a JSON client of it that checks every reply against the OpenAPI document."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quart.testing.client import QuartClient

from server.app import create_app
from server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.server.openapi_checker import OpenApiChecker

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class ApiReply:
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The JSON of the stream's events; that the last one is [DONE] is checked."""
        assert self.text.splitlines() == self.text[:-1].split("\n"), "a reader of lines would cut an event"
        frames = [frame for frame in self.text.split("\n\n") if frame]
        assert all(frame.startswith("data: ") for frame in frames)
        assert frames[-1] == "data: [DONE]"
        return [json.loads(frame[len("data: ") :]) for frame in frames[:-1]]

    @property
    def named_events(self) -> list[Any]:
        """The JSON of the events of a stream whose events have names; that each says its own type is checked."""
        assert self.text.splitlines() == self.text[:-1].split("\n"), "a reader of lines would cut an event"
        events = []
        for frame in filter(None, self.text.split("\n\n")):
            name, data = frame.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
        return events


class Api:
    """An app, and requests to it. A reply that its OpenAPI document does not allow fails the test."""

    def __init__(self, llm: FakeLLM, **config: Any) -> None:
        self.llm = llm
        self.app = create_app(llm, ServerConfig(**config))
        self.client: QuartClient = self.app.test_client()

    @cached_property
    def document(self) -> OpenApiChecker:
        return OpenApiChecker.from_app(self.app)

    async def call(self, method: str, path: str, body: Any = None, **how: Any) -> ApiReply:
        """Send a request. body: an object that is sent as JSON, or bytes."""
        headers = {"Content-Type": "application/json"} | how.pop("headers", {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        response = await self.client.open(path, method=method, data=data, headers=headers, **how)
        text = await response.get_data(as_text=True)
        self.document.check_reply(method, path, response.status_code, response.headers, text)
        return ApiReply(response.status_code, response.headers, text)

    async def get(self, path: str, **how: Any) -> ApiReply:
        return await self.call("GET", path, **how)

    async def post(self, path: str, body: Any, **how: Any) -> ApiReply:
        return await self.call("POST", path, body, **how)

    async def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> ApiReply:
        return await self.post("/v1/chat/completions", {**CHAT, **fields}, headers=headers or {})

    async def respond(self, headers: dict[str, str] | None = None, **fields: Any) -> ApiReply:
        return await self.post("/v1/responses", {"input": "Hi", **fields}, headers=headers or {})

    async def message(self, headers: dict[str, str] | None = None, **fields: Any) -> ApiReply:
        body = {"model": "fake/model", "max_tokens": 30, **CHAT, **fields}
        return await self.post("/v1/messages", body, headers=headers or {})

    async def complete(self, **fields: Any) -> ApiReply:
        return await self.post("/v1/completions", {"prompt": "ab", **fields})
