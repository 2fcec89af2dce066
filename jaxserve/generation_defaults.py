"""GenerationDefaults: sampling defaults, the longest output and the end tokens from a generation_config.json.

The file is the model's own or that of the directory in EngineConfig.generation_config. That field may also switch its
sampling defaults off; the end tokens are always read, because they describe the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxserve.config import EngineConfig
from jaxserve.errors import BadCheckpoint, BadConfig, InvalidParameter
from jaxserve.model_files import MAX_TEMPLATE_BYTES, read_model_file
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
KEY_TYPES: Mapping[str, Any] = {"top_k": int, "max_new_tokens": int, "skip_special_tokens": bool}  # others are numbers


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Values for what a request does not set, and limits for every request.

    values            Defaults under the names of the file (SAMPLING_DEFAULT_KEYS); only those that are set.
    params            The same as SamplingParams, without max_tokens.
    hard_max_tokens   No output has more tokens than this; None sets no limit.
    eos_ids           All end-of-sequence tokens that the files name.
    """

    values: Mapping[str, Any]
    params: SamplingParams
    hard_max_tokens: int | None
    eos_ids: frozenset[int]

    @classmethod
    def from_configs(
        cls, config: EngineConfig, generation_config: Mapping[str, Any], model_config: Mapping[str, Any]
    ) -> "GenerationDefaults":
        """Read the defaults from the model's generation_config.json and config.json, both as dictionaries.

        Raises BadConfig for values that no request could have, or if the given directory has no readable file;
        BadCheckpoint for end tokens that are no ids.
        """
        is_directory = config.generation_config not in ("auto", "vllm")
        given = _read_generation_config(config.generation_config) if is_directory else None
        overrides = config.override_generation_config or {}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        file = {} if config.generation_config == "vllm" else generation_config if given is None else given
        merged = {**file, **overrides}
        values = {name: merged[name] for name in SAMPLING_DEFAULT_KEYS if merged.get(name) is not None}
        return cls(
            values,
            _params(values),
            hard_max_tokens=overrides.get("max_new_tokens", (given or {}).get("max_new_tokens")),
            eos_ids=_eos_ids(generation_config if given is None else given, model_config),
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "none"


def _params(values: Mapping[str, Any]) -> SamplingParams:
    for name, value in values.items():
        key_type = KEY_TYPES.get(name, (int, float))
        if not isinstance(value, key_type) or (isinstance(value, bool) and key_type is not bool):
            expected = {bool: "true or false", int: "a whole number"}.get(key_type, "a number")
            raise BadConfig(
                f"the generation config's sampling defaults cannot be used: {name} must be {expected}, got {value!r}."
            )
    try:
        params = SamplingParams(
            **{"max_tokens" if name == "max_new_tokens" else name: value for name, value in values.items()}
        )
    except (InvalidParameter, TypeError) as error:
        raise BadConfig(f"the generation config's sampling defaults cannot be used: {error}") from None
    return replace(params, max_tokens=None)


def _eos_ids(generation_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> frozenset[int]:
    """Return the ids of the first config that names any: generation, model, or the text model in a multimodal one."""
    configs = (generation_config, model_config, model_config.get("text_config") or {})
    ids = next((config["eos_token_id"] for config in configs if "eos_token_id" in config), None)
    listed = ids if isinstance(ids, list) else () if ids is None else (ids,)
    if any(isinstance(id, bool) or not isinstance(id, int) for id in listed):
        raise BadCheckpoint(
            f"eos_token_id in generation_config.json or config.json must be a token id or a list, got {ids!r}."
        )
    return frozenset(listed)


def _read_generation_config(directory: str) -> dict[str, Any]:
    try:
        return json.loads(read_model_file(Path(directory) / "generation_config.json", MAX_TEMPLATE_BYTES))
    except (OSError, ValueError, BadCheckpoint) as error:
        raise BadConfig(f"generation_config={directory!r} holds no readable generation_config.json: {error}") from None
