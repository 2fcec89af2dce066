"""adapter_config.json of PEFT: ranks and scales of an adapter, and everything that would change the model otherwise.

Keys are those of LoraConfig in PEFT 0.18 (src/peft/tuners/lora/config.py). A key that is neither served nor known to
change nothing is refused by its name.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.protocol import read_json

CONFIG_FILE = "adapter_config.json"
# Keys that say nothing about the products, or only how the factors came about. The tensors of the file tell which
# modules and layers are adapted.
IGNORED_KEYS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
        *("peft_version", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("runtime_config", "qalora_group_size", "init_lora_weights", "ensure_weight_tying"),
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"),
    )
)
REFUSED_KEYS = {
    "use_dora": "DoRA, which rescales whole matrices",
    "modules_to_save": "modules that are replaced as a whole",
    "trainable_token_indices": "changed token embeddings",
    "target_parameters": "changed parameters of experts",
    "fan_in_fan_out": "matrices that are stored [in, out]",
    "layer_replication": "repeated layers",
    "lora_bias": "biases",
    "megatron_config": "layers of Megatron",
    "use_qalora": "QALoRA, which groups inputs",
    "use_bdlora": "block-diagonal factors",
    "alora_invocation_tokens": "an adapter that begins at certain tokens",
    "arrow_config": "a router between adapters",
}
# Initialisations that leave the model's own matrices as they are. Others subtract from them what the factors begin
# with, so an adapter that was not converted when it was saved belongs to a changed model.
NEUTRAL_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal", "true", "false")
MAX_RANK = 4096


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The ranks and scales of an adapter.

    path            The file.
    rank, alpha     Those of modules that no pattern matches.
    is_rank_stabilized   The scale is alpha / sqrt(rank) instead of alpha / rank (rsLoRA, arXiv 2312.03732).
    rank_pattern, alpha_pattern   Those of modules whose names end with the key, a regular expression.
    targets         The names of the adapted modules, where they are listed; else empty.
    """

    path: Path
    rank: int
    alpha: float
    is_rank_stabilized: bool = False
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    targets: tuple[str, ...] = ()

    @property
    def max_rank(self) -> int:
        """The largest rank that a module may have."""
        return max(self.rank, *(self.rank_pattern or {}).values(), 0)

    def get_rank(self, module: str) -> int:
        """Return the rank of a module of the model, such as model.layers.0.self_attn.q_proj."""
        return _match(self.rank_pattern or {}, module, self.rank)

    def get_scale(self, module: str) -> float:
        """Return the factor of a module's product."""
        rank, alpha = self.get_rank(module), _match(self.alpha_pattern or {}, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_peft_config(directory: Path) -> PeftConfig:
    """Read and check the adapter_config.json of a directory.

    Raises BadCheckpoint if it is missing or damaged, or names something that is not served.
    """
    path = directory / CONFIG_FILE
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise _refuse(path, "peft_type", config.get("peft_type"), 'only "LORA" is served')
    if config.get("bias", "none") != "none":
        raise _refuse(path, "bias", config["bias"], 'biases of an adapter are not served, only "none" is')
    init = config.get("init_lora_weights")
    if init not in NEUTRAL_INITIALISATIONS:
        text = "it belongs to a changed model; save it with path_initial_model_for_weight_conversion"
        raise _refuse(path, "init_lora_weights", init, text)
    for key, value in config.items():
        if key in REFUSED_KEYS and value:
            raise _refuse(path, key, value, f"{REFUSED_KEYS[key]} are not served; merge the adapter into the model")
        if key not in IGNORED_KEYS and key not in REFUSED_KEYS and value:
            raise _refuse(path, key, value, "the key is not known here")
    targets = config.get("target_modules")
    return PeftConfig(
        path,
        _read_rank(path, "r", config.get("r", 8)),
        _read_number(path, "lora_alpha", config.get("lora_alpha", 8)),
        is_rank_stabilized=bool(config.get("use_rslora")),
        rank_pattern={
            key: _read_rank(path, "rank_pattern", value) for key, value in _read_pattern(path, config, "rank_pattern")
        },
        alpha_pattern={
            key: _read_number(path, "alpha_pattern", value)
            for key, value in _read_pattern(path, config, "alpha_pattern")
        },
        targets=tuple(map(str, targets)) if isinstance(targets, list) else (),
    )


def _read_rank(path: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise _refuse(path, key, value, f"a rank is an integer from 1 to {MAX_RANK}")
    return value


def _read_number(path: Path, key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _refuse(path, key, value, "it must be a number")
    return float(value)


def _read_pattern(path: Path, config: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise _refuse(path, key, pattern, "it must be an object of names and numbers")
    for name in pattern:
        try:
            re.compile(name)
        except re.error:
            raise _refuse(path, key, name, "it must be a regular expression") from None
    return list(pattern.items())


def _match(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first key that is the end of a module's name, as PEFT's get_pattern_key finds it."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _refuse(path: Path, key: str, value: Any, reason: str) -> BadCheckpoint:
    return BadCheckpoint(f"{path} has {key}={str(value)[:100]!r}: {reason}.")
