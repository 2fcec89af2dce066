"""GET /v1/models and /v1/models/{id}."""

import secrets
from typing import Any

from quart import Blueprint, Response

from server.desk import OWNER, Desk
from server.errors import json_response
from server.sampling import context_tokens


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("models", __name__)
    cards = {name: card(name, desk) for name in desk.names}

    @routes.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": list(cards.values())})

    @routes.get("/v1/models/<anything:name>")
    async def model(name: str) -> Response:
        desk.check_model(name)
        return json_response(cards[name])

    return routes


def card(name: str, desk: Desk) -> dict[str, Any]:
    """One served name, as clients list it."""
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": desk.created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": desk.created,
        "owned_by": OWNER,
        "root": desk.llm.config.model,
        "parent": None,
        "max_model_len": context_tokens(desk.llm),
        "default_sampling_params": dict(desk.llm.sampling_defaults),
        "permission": [permission],
    }
