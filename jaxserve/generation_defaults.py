"""What generation configs say: defaults of the sampler, the longest answer, and the ids that end one.

A generation config is the dictionary of a generation_config.json: the model's own, or that of a directory which the
operator names. --generation-config says whether its preferences are read; its end tokens always are, because they
describe the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.sampling_params import SamplingParams

SAMPLING_DEFAULT_KEYS = (
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "max_new_tokens",
    "skip_special_tokens",
)
KEY_TYPES: Mapping[str, Any] = {"top_k": int, "max_new_tokens": int, "skip_special_tokens": bool}  # others: numbers


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What holds where a request says nothing, and what holds whatever it says.

    values            by the config's names (DEFAULTS_READ), only what is set
    params            the same as SamplingParams, without a length
    hard_max_tokens   the operator's ceiling on answers, None: there is none
    eos_ids           every id that the files call an end
    """

    values: Mapping[str, Any]
    params: SamplingParams
    hard_max_tokens: int | None
    eos_ids: frozenset[int]

    @classmethod
    def from_configs(
        cls, config: EngineConfig, generation_config: Mapping[str, Any], model_config: Mapping[str, Any]
    ) -> "GenerationDefaults":
        """From the two configs of the model's own. Raises BadConfig for values that no request could ask for."""
        given = (
            None if config.generation_config in ("auto", "vllm") else _read_generation_config(config.generation_config)
        )
        override = {name: one for name, one in (config.override_generation_config or {}).items() if one is not None}
        read = {} if config.generation_config == "vllm" else generation_config if given is None else given
        layers = {**read, **override}
        values = {name: layers[name] for name in SAMPLING_DEFAULT_KEYS if layers.get(name) is not None}
        return cls(
            values,
            _params(values),
            hard_max_tokens=override.get("max_new_tokens", (given or {}).get("max_new_tokens")),
            eos_ids=_eos_ids(generation_config if given is None else given, model_config),
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "none"


def _params(values: Mapping[str, Any]) -> SamplingParams:
    for name, value in values.items():
        kind = KEY_TYPES.get(name, (int, float))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
            raise BadConfig(
                f"the generation config's sampling defaults cannot be used: {name} must be {wanted}, got {value!r}."
            )
    try:
        params = SamplingParams(
            **{"max_tokens" if name == "max_new_tokens" else name: value for name, value in values.items()}
        )
    except (InvalidParameter, TypeError) as error:
        raise BadConfig(f"the generation config's sampling defaults cannot be used: {error}") from None
    return replace(params, max_tokens=None)


def _eos_ids(generation_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> frozenset[int]:
    """The generation config's, the model config's where that says nothing."""
    found = generation_config.get("eos_token_id", model_config.get("eos_token_id"))
    return frozenset(found if isinstance(found, list) else () if found is None else (found,))


def _read_generation_config(directory: str) -> dict[str, Any]:
    try:
        return json.loads((Path(directory) / "generation_config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BadConfig(f"generation_config={directory!r} holds no readable generation_config.json: {error}") from None
