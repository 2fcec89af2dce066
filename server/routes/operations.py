"""GET /health, /ping, /live, /version, /load and /metrics, for the operation of a server."""

from quart import Blueprint, Response

import jaxserve
from server.errors import json_response
from server.metrics import MetricsExposition
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of health, version, load and metrics."""
    routes = Blueprint("operations", __name__)
    server_values = {
        "event_loop_lag_seconds": state.loop_lag.read,
        "open_connections": lambda: len(state.connections),
    }
    collectors = (state.http_metrics, state.tool_metrics, state.pooling_metrics)
    exposition = MetricsExposition(state.llm, state.model_names[0], collectors, server_values)

    @routes.get("/health")
    @routes.route("/ping", methods=["GET", "POST"])
    async def health() -> Response:
        """Answer 200 if a new request could be served, else 503."""
        return Response(b"", 200 if state.is_ready else 503, content_type="text/plain")

    @routes.get("/live")
    async def live() -> Response:
        """Answer 200 while the process runs."""
        return Response(b"", 200, content_type="text/plain")

    @routes.get("/version")
    async def version() -> Response:
        """Return the version."""
        return json_response({"version": jaxserve.__version__})

    @routes.get("/load")
    async def load() -> Response:
        """Return the number of running requests, if that is switched on."""
        return json_response({"server_load": len(state.slots) if state.config.enable_server_load_tracking else 0})

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        body, content_type = exposition.render(await state.llm.read_device_memory())
        return Response(body, 200, content_type=content_type)

    return routes
