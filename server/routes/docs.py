"""GET /openapi.json, and /docs and /redoc, the page that shows it."""

from __future__ import annotations

import functools
from pathlib import Path

import orjson
import quart
from quart import Blueprint, Response

from server.openapi.document import build_document, list_routes
from server.state import ServerState

DOCS_PAGE = Path(__file__).parent.parent / "page" / "docs.html"


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the OpenAPI document and its page; it is empty with --disable-fastapi-docs."""
    routes = Blueprint("docs", __name__)
    if state.config.disable_fastapi_docs:
        return routes

    @functools.cache
    def render_document() -> bytes:
        """Encode the document, once."""
        return orjson.dumps(build_document(state.llm, state.config, state.model_names, list_routes(quart.current_app)))

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        """Return the document."""
        return Response(render_document(), 200, content_type="application/json")

    @routes.get("/docs")
    @routes.get("/redoc")
    async def page() -> Response:
        """Return the page that shows the document."""
        return Response(DOCS_PAGE.read_bytes(), 200, content_type="text/html; charset=utf-8")

    return routes
