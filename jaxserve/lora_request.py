"""LoRARequest: an adapter by its name and place, as callers of the notebook API name it."""

from dataclasses import dataclass

from jaxserve.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """An adapter for a request of LLM, in the form of vLLM.

    lora_name     Its name.
    lora_int_id   A number from 1 on, which vLLM tells adapters apart by; here the name and the files do.
    lora_path     The directory of its files, which are read at the first request.

    Raises InvalidParameter if the name is empty or the number is not positive.
    """

    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self) -> None:
        if not self.lora_name:
            raise InvalidParameter("lora_request has no lora_name.", "lora_request")
        if self.lora_int_id < 1:
            raise InvalidParameter(f"lora_int_id must be at least 1, got {self.lora_int_id}.", "lora_request")
