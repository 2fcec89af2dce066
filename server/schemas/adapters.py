"""The bodies of POST /v1/load_lora_adapter and POST /v1/unload_lora_adapter."""

from pydantic import BaseModel, ConfigDict

from server.schemas.common import Int
from server.schemas.fields import honoured, no_effect

_LOAD = "test_adapter_routes.py::test_an_adapter_is_loaded_listed_used_and_removed"


class LoadAdapterRequest(BaseModel):
    """The body of POST /v1/load_lora_adapter."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    lora_name: str | None = honoured(
        "The name by which requests choose the adapter.", is_required=True, is_nullable=True, test=_LOAD
    )
    lora_path: str | None = honoured(
        "The directory of its files, on the server's machine.", is_required=True, is_nullable=True, test=_LOAD
    )
    load_inplace: bool | None = honoured(
        "Replaces an adapter of the same name.",
        default=False,
        test="test_adapter_routes.py::test_a_name_is_taken_until_load_inplace_replaces_it",
    )


class UnloadAdapterRequest(BaseModel):
    """The body of POST /v1/unload_lora_adapter."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    lora_name: str | None = honoured("The name of the adapter.", is_required=True, is_nullable=True, test=_LOAD)
    lora_int_id: Int | None = no_effect(note="adapters are told apart by their names", test=_LOAD)
