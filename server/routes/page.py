"""GET / and /assets/...: the chat page and its files."""

import quart
from quart import Blueprint, Response

from server.assets import ASSETS, ASSETS_PREFIX
from server.errors import PATH_NOT_FOUND, ApiError
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the chat page and its files."""
    routes = Blueprint("page", __name__)

    @routes.get("/")
    async def page() -> Response:
        """Return the page."""
        return _serve_asset("/", "The chat page is not part of this installation.")

    @routes.get(ASSETS_PREFIX + "<anything:name>")
    async def asset(name: str) -> Response:
        """Return a file of the page."""
        return _serve_asset(ASSETS_PREFIX + name, PATH_NOT_FOUND)

    return routes


def _serve_asset(path: str, if_absent: str) -> Response:
    asset = ASSETS.get(path)
    if asset is None:
        raise ApiError(404, if_absent)
    if asset.matches_etag(quart.request.headers.get("If-None-Match")):
        return Response(b"", 304, dict(asset.headers))
    return Response(asset.body, 200, dict(asset.headers))
