"""GET /: the chat page. GET /assets/...: the files that it is made of, and no others."""

import quart
from quart import Blueprint, Response

from server.assets import ASSETS, PREFIX
from server.desk import Desk
from server.errors import NOTHING_HERE, Refusal


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("page", __name__)

    @routes.get("/")
    async def page() -> Response:
        return _serve("/", "The chat page is not part of this installation.")

    @routes.get(PREFIX + "<anything:name>")
    async def asset(name: str) -> Response:
        return _serve(PREFIX + name, NOTHING_HERE)

    return routes


def _serve(path: str, if_absent: str) -> Response:
    asset = ASSETS.get(path)
    if asset is None:
        raise Refusal(404, if_absent)
    if asset.is_known_as(quart.request.headers.get("If-None-Match")):
        return Response(b"", 304, dict(asset.headers))
    return Response(asset.body, 200, dict(asset.headers))
