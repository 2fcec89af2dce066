"""--middleware: ASGI classes around the app."""

from typing import Any

from server import cli
from server.config import ServerConfig
from server.flags import read_arguments, select_fields
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT, Api


class Marking:
    """Adds its name to the header x-seen of every response."""

    name = b"inner"

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-seen", self.name)]
            await send(message)

        await self.app(scope, receive, marked)


class Outer(Marking):
    name = b"outer"


async def test_middleware_wraps_the_app_the_first_innermost() -> None:
    words = ["--middleware", f"{__name__}.Marking", "--middleware", f"{__name__}.Outer"]
    settings = select_fields(ServerConfig, read_arguments(cli._make_serve_parser(), words))
    for path in ("/v1/chat/completions", "/nowhere"):
        response = await Api(FakeLLM("Hi"), **settings).client.post(path, json=CHAT)
        assert response.headers.getlist("x-seen") == ["inner", "outer"]
