"""The Quart application: its routes, the hooks before and after each of them, and the error handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import quart
from quart import Quart, Response
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from server.body import make_request_class
from server.config import ServerConfig
from server.cors import Cors
from server.custom_middleware import wrap_app
from server.errors import json_response, to_api_error
from server.logs import sanitize
from server.messages.errors import render_error
from server.middleware import ROUTE_KEY, OuterMiddleware
from server.openapi.document import to_openapi_path
from server.routes import (
    adapters,
    chat,
    completions,
    control,
    debug,
    docs,
    generative_scoring,
    invocations,
    messages,
    models,
    operations,
    page,
    pooling,
    render,
    responses,
    tokens,
)
from server.state import ServerState, make_request_id

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

STATE_KEY = "jaxserve.state"


class AnyPathConverter(BaseConverter):
    """URL converter for the rest of a path.

    It takes slashes and newlines, too: model names have slashes, and the names of models that do not exist may hold
    anything.
    """

    regex = "(?s:.+)"
    part_isolating = False


def create_app(llm: AsyncLLM, config: ServerConfig) -> Quart:
    """Create the application that serves `llm`, which must be ready and stays the caller's to close.

    Raises BadConfig if a middleware of `config` cannot be imported.
    """
    app = Quart("server", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=config.max_body_bytes,
        BODY_TIMEOUT=None,  # body.py has its own
        RESPONSE_TIMEOUT=None,  # the default cuts a stream after 60 s
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.merge_slashes = False
    app.url_map.converters["anything"] = AnyPathConverter
    state = ServerState(llm, config)
    app.extensions[STATE_KEY] = state
    app.request_class = make_request_class(state.body_meter)
    generating = (chat, completions, responses, messages, invocations, pooling, generative_scoring)
    for module in (*generating, render, models, adapters, tokens, operations, control, debug, page, docs):
        app.register_blueprint(module.make_blueprint(state))
    _add_hooks(app, state)
    app.asgi_app = wrap_app(OuterMiddleware(app.asgi_app, config, state.http_metrics), config.middleware)  # type: ignore[method-assign]
    return app


def get_state(app: Quart) -> ServerState:
    """Return the state that `create_app` made for this application."""
    return app.extensions[STATE_KEY]


def _add_hooks(app: Quart, state: ServerState) -> None:
    """Register what runs before and after every route. The API key is checked before anything else is answered."""
    auth, cors = state.auth, Cors(state.config)

    @app.before_request
    async def before() -> Response | None:
        """Return the reply to a CORS preflight or to a request without a key; None lets the route answer.

        Raises NotFound if the path begins with two slashes.
        """
        request = quart.request
        scope: Any = request.scope
        scope[ROUTE_KEY] = "none" if request.url_rule is None else to_openapi_path(request.url_rule.rule)
        response = cors.answer_preflight(request) or auth.challenge(request)
        if response is None and scope["path"].startswith("//"):
            raise NotFound  # the router would ignore the first slash
        return response

    @app.after_request
    async def after(response: Response) -> Response:
        """Add the CORS headers, and X-Request-Id where it is switched on."""
        cors.add_headers(quart.request, response)
        if state.config.enable_request_id_headers:
            request_id = quart.request.headers.get("X-Request-Id")
            response.headers["X-Request-Id"] = sanitize(request_id) if request_id else make_request_id()
        return response

    @app.teardown_request
    async def release_body(_: BaseException | None) -> None:
        """Free the request body, which would otherwise be kept for as long as the reply takes."""
        quart.request.body.clear()

    @app.errorhandler(Exception)
    async def handle_error(error: Exception) -> Response:
        """Turn any exception of a route into an error object."""
        api_error = to_api_error(error)
        return json_response(render_error(api_error, quart.request.path), api_error.status, api_error.headers)
