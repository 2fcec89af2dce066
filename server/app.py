"""The HTTP app: routes, what stands before and after them, and errors in our own shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import quart
from quart import Quart, Response
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from server.auth import Gatekeeper
from server.body import request_class
from server.config import ServerConfig
from server.cors import Cors
from server.desk import Desk, fresh_id
from server.errors import refusal_for
from server.gate import ROUTE, Gate
from server.logs import clean
from server.middleware import wrap
from server.openapi.document import path_of
from server.routes import chat, completions, docs, models, operations, page, render, tokens

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

DESK = "jaxserve.desk"


class Anything(BaseConverter):
    """The rest of a path, slashes, newlines and all: model names have slashes, and wrong ones may have anything."""

    regex = "(?s:.+)"
    part_isolating = False


def create_app(llm: AsyncLLM, config: ServerConfig) -> Quart:
    """The app that serves `llm`, which must be ready and stays the caller's to close."""
    app = Quart("server", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=config.max_body_bytes,
        BODY_TIMEOUT=None,  # ours, in body.py
        RESPONSE_TIMEOUT=None,  # the default cuts a stream after 60 s
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.merge_slashes = False
    app.url_map.converters["anything"] = Anything
    desk = Desk(llm, config)
    app.extensions[DESK] = desk
    app.request_class = request_class(desk.bodies)
    for room in (chat, completions, render, models, tokens, operations, page, docs):
        app.register_blueprint(room.blueprint(desk))
    _stand_around(app, desk)
    app.asgi_app = wrap(Gate(app.asgi_app, config, desk.http), config.middleware)  # type: ignore[method-assign]
    return app


def desk_of(app: Quart) -> Desk:
    return app.extensions[DESK]


def _stand_around(app: Quart, desk: Desk) -> None:
    """What happens before and after every route. A key is asked for before anything else is said."""
    gatekeeper, cors = Gatekeeper(desk.config), Cors(desk.config)

    @app.before_request
    async def enter() -> Response | None:
        request = quart.request
        scope: Any = request.scope
        scope[ROUTE] = "none" if request.url_rule is None else path_of(request.url_rule.rule)
        refusal = cors.preflight(request) or gatekeeper.refuse(request)
        if refusal is None and scope["path"].startswith("//"):
            raise NotFound  # the router would look past the first slash
        return refusal

    @app.after_request
    async def leave(response: Response) -> Response:
        cors.mark(quart.request, response)
        if desk.config.enable_request_id_headers:
            label = quart.request.headers.get("X-Request-Id")
            response.headers["X-Request-Id"] = clean(label) if label else fresh_id()
        return response

    @app.teardown_request
    async def let_go(_: BaseException | None) -> None:
        """A body is not kept for as long as its answer takes."""
        quart.request.body.clear()

    @app.errorhandler(Exception)
    async def refuse(error: Exception) -> Response:
        return refusal_for(error).response()
