"""GET /debug/state, only with --enable-debug-endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from server.errors import json_response
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import InspectedEngine


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of /debug/state; it is empty unless that is switched on."""
    routes = Blueprint("debug", __name__)
    if not state.config.enable_debug_endpoints:
        return routes

    @routes.get("/debug/state")
    async def debug_state() -> Response:
        """Return the state of the engines, each between two of its steps."""
        return json_response(describe_engines(await state.llm.inspect()))

    return routes


def describe_engines(engines: Sequence[InspectedEngine]) -> dict[str, Any]:
    """Describe the engines of all replicas together; a sentence about an invariant begins with its replica."""
    invariants: dict[str, Any] = {}
    for rank, engine in enumerate(engines):
        for name, answer in engine.invariants.items():
            if answer is not True and invariants.get(name, True) is True:
                answer = f"replica {rank}: {answer}" if len(engines) > 1 else answer
                invariants[name] = answer
            else:
                invariants.setdefault(name, answer)
    groups = [group.plus(*others) for group, *others in zip(*(each.cache_groups for each in engines), strict=True)]
    page_groups = [{"name": group.name, **_count_pages(group)} for group in groups]
    total = groups[0].plus(*groups[1:])
    return {
        "invariants": invariants,
        "pages": _count_pages(total),
        "page_groups": page_groups,
        "requests": [
            {
                "id": request.request_id,
                "replica": rank,
                "state": request.state,
                "pages": request.num_pages,
                "page_ids": request.pages,
            }
            for rank, engine in enumerate(engines)
            for request in engine.requests
        ],
        "num_requests": sum(engine.num_requests for engine in engines),
        "slots": {
            "free": sum(engine.num_free_rows for engine in engines),
            "used": sum(engine.num_rows - engine.num_free_rows for engine in engines),
        },
        "is_paused": any(engine.is_paused for engine in engines),
    }


def _count_pages(group: Any) -> dict[str, int]:
    return {
        "total": group.pages_total,
        "free": group.pages_free,
        "active": group.pages_active,
        "cached": group.pages_cached,
    }
