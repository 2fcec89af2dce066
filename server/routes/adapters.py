"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, only with --allow-runtime-lora-updating.

Who may call them may have any directory of this machine looked at, so they are switched off by default.
"""

from __future__ import annotations

from quart import Blueprint, Response

from jaxserve import AdapterNotFound, RequestError
from server.errors import ApiError, preview, truncate
from server.schemas.adapters import LoadAdapterRequest, UnloadAdapterRequest
from server.state import ServerState

INVALID_INPUT = "InvalidUserInput"  # vLLM's word


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the adapters' routes; it is empty unless adapters may be changed while the server runs."""
    routes = Blueprint("adapters", __name__)
    if not state.config.allow_runtime_lora_updating:
        return routes

    @routes.post("/v1/load_lora_adapter")
    async def load() -> Response:
        """Read an adapter, which requests may name from then on."""
        request, _ = await state.reader.read(LoadAdapterRequest)
        name, path = require(request.lora_name, "lora_name"), require(request.lora_path, "lora_path")
        if name in state.model_names:
            raise ApiError(400, f"{preview(name)} is the name of the model.", type=INVALID_INPUT, param="lora_name")
        try:
            await state.llm.load_adapter(name, path, replace=bool(request.load_inplace))
        except AdapterNotFound as error:
            raise ApiError(404, str(error), param=error.param) from None
        except RequestError as error:
            raise ApiError(400, str(error), type=INVALID_INPUT, param=error.param) from None
        return make_text(f"Success: LoRA adapter '{name}' added successfully.")

    @routes.post("/v1/unload_lora_adapter")
    async def unload() -> Response:
        """Remove an adapter; requests that run keep it."""
        request, _ = await state.reader.read(UnloadAdapterRequest)
        name = require(request.lora_name, "lora_name")
        if not state.llm.unload_adapter(name):
            raise ApiError(404, f"There is no adapter {preview(name)}.", param="lora_name")
        return make_text(f"Success: LoRA adapter '{name}' removed successfully.")

    return routes


def require(value: str | None, field: str) -> str:
    """Return the value of a field. Raises ApiError (400) if it is missing or empty."""
    if not value:
        raise ApiError(400, f"{field} must be given and not empty.", type=INVALID_INPUT, param=field)
    return value


def make_text(text: str) -> Response:
    """Make the reply of vLLM, a line of text."""
    return Response(truncate(text), 200, content_type="text/plain; charset=utf-8")
