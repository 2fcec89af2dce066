"""Routes that control the server, only in dev mode (--server-dev-mode).

/sleep, /wake_up and /is_sleeping are not offered: weights are loaded once, at the start, and nothing can load them
again later. /collective_rpc would call any method by its name.
"""

import dataclasses
from typing import Any, TypeVar

import quart
from quart import Blueprint, Response

import jaxserve
from server.control import PauseMode
from server.errors import ApiError, json_response, preview
from server.schemas.control import AbortRequest
from server.state import ServerState

BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
T = TypeVar("T")


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the control routes; it is empty unless the server is in dev mode."""
    routes = Blueprint("control", __name__)
    if not state.config.server_dev_mode:
        return routes

    @routes.get("/server_info")
    async def server_info() -> Response:
        """Return the settings in effect, without keys."""
        settings = {"engine": list_settings(state.llm.config), "server": list_settings(state.config)}
        as_text = read_choice("config_format", {"text": True, "json": False}, "text")
        config = "\n".join(f"{name}: {value}" for name, value in settings.items()) if as_text else settings
        return json_response({"version": jaxserve.__version__, "vllm_config": config})

    @routes.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> Response:
        """Forget all cached prefixes, unless requests run."""
        reset_running = read_choice("reset_running_requests", BOOLEANS, "false")
        success = await state.llm.reset_prefix_cache(reset_running_requests=reset_running)
        return json_response({"success": success})

    @routes.post("/pause")
    async def pause() -> Response:
        """Pause the server; answered when nothing is computed any more."""
        await state.control.pause(read_choice("mode", {mode.value: mode for mode in PauseMode}, "abort"))
        return json_response({"status": "paused"})

    @routes.post("/resume")
    async def resume() -> Response:
        """Let a paused server go on."""
        await state.control.resume()
        return json_response({"status": "resumed"})

    @routes.get("/is_paused")
    async def is_paused() -> Response:
        """Tell whether the server is paused, or about to be."""
        return json_response({"is_paused": state.control.mode is not None})

    @routes.post("/abort_requests")
    async def abort_requests() -> Response:
        """End unfinished requests of the same key by their ids."""
        request, _ = await state.reader.read(AbortRequest)
        caller = state.auth.identify(quart.request) if state.config.api_key else None
        return json_response({"status": "aborted", "aborted": state.control.abort(request.request_ids, caller)})

    return routes


def read_choice(name: str, choices: dict[str, T], default: str) -> T:
    """Return what a word in the query of the current request stands for.

    Raises ApiError (400) for another word.
    """
    word = quart.request.args.get(name, default)
    if word.lower() not in choices:
        raise ApiError(400, f"{name} must be one of {', '.join(choices)}, not {preview(word)}.", param=name)
    return choices[word.lower()]


def list_settings(config: Any) -> dict[str, Any]:
    """Return the fields of a config as JSON values, without those that its repr hides: they are secret."""
    return {field.name: _to_json(getattr(config, field.name)) for field in dataclasses.fields(config) if field.repr}


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_json(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
