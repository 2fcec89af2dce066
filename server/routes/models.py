"""GET /v1/models and /v1/models/{name}."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from server.errors import json_response
from server.sampling import get_max_model_len
from server.state import OWNED_BY, ServerState

if TYPE_CHECKING:
    from jaxserve import LoadedAdapter


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the model list."""
    routes = Blueprint("models", __name__)
    cards = {name: make_model_card(name, state) for name in state.model_names}

    def make_cards() -> dict[str, dict[str, Any]]:
        """Make the cards of the model, and of the adapters that are loaded now."""
        return cards | {loaded.module.name: make_adapter_card(loaded, state) for loaded in state.llm.adapters}

    @routes.get("/v1/models")
    async def models() -> Response:
        """List the served names."""
        return json_response({"object": "list", "data": list(make_cards().values())})

    @routes.get("/v1/models/<anything:name>")
    async def model(name: str) -> Response:
        """Describe one served name."""
        state.check_model(name)
        return json_response(make_cards()[name])

    return routes


def make_adapter_card(loaded: LoadedAdapter, state: ServerState) -> dict[str, Any]:
    """Make the object that describes an adapter."""
    module = loaded.module
    return make_model_card(module.name, state) | {
        "created": loaded.created_s,
        "root": module.path,
        "parent": module.base_name or state.model_names[0],
        "max_model_len": None,
    }


def make_model_card(name: str, state: ServerState) -> dict[str, Any]:
    """Make the object that describes one served name."""
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": state.created,
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
        "created": state.created,
        "owned_by": OWNED_BY,
        "root": state.llm.config.model,
        "parent": None,
        "max_model_len": get_max_model_len(state.llm),
        "default_sampling_params": dict(state.llm.sampling_defaults),
        "permission": [permission],
    }
