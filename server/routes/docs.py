"""GET /openapi.json, and /docs (also /redoc): the page that shows it."""

from __future__ import annotations

import functools
from pathlib import Path

import orjson
import quart
from quart import Blueprint, Response

from server.desk import Desk
from server.openapi.document import document, routes_of

PAGE = Path(__file__).parent.parent / "page" / "docs.html"


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("docs", __name__)
    if desk.config.disable_fastapi_docs:
        return routes

    @functools.cache
    def described() -> bytes:
        return orjson.dumps(document(desk.llm, desk.config, desk.names, routes_of(quart.current_app)))

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        return Response(described(), 200, content_type="application/json")

    @routes.get("/docs")
    @routes.get("/redoc")
    async def page() -> Response:
        return Response(PAGE.read_bytes(), 200, content_type="text/html; charset=utf-8")

    return routes
