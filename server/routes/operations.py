"""For those who run it: health, version, load, metrics."""

from quart import Blueprint, Response

import jaxserve
from server.desk import Desk
from server.errors import json_response
from server.metrics import Exposition


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("operations", __name__)
    own = {
        "rejected": lambda: desk.visits.num_rejected,
        "event_loop_lag_seconds": desk.lag.read,
        "open_connections": lambda: len(desk.connections),
    }
    exposition = Exposition(desk.llm, desk.names[0], (desk.http, desk.tools), own)

    @routes.get("/health")
    @routes.route("/ping", methods=["GET", "POST"])
    async def health() -> Response:
        return Response(b"", 200 if desk.is_ready else 503, content_type="text/plain")

    @routes.get("/live")
    async def live() -> Response:
        return Response(b"", 200, content_type="text/plain")

    @routes.get("/version")
    async def version() -> Response:
        return json_response({"version": jaxserve.__version__})

    @routes.get("/load")
    async def load() -> Response:
        return json_response({"server_load": len(desk.visits) if desk.config.enable_server_load_tracking else 0})

    @routes.get("/metrics")
    async def metrics() -> Response:
        body, content_type = exposition.text()
        return Response(body, 200, content_type=content_type)

    return routes
