"""GGUF metadata → config.json and generation_config.json as the model's authors would have written them.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's convert_hf_to_gguf.py, undone here.
What cannot be carried over faithfully is refused by name; a model that is nearly right is wrong.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from jaxserve.errors import BadCheckpoint, UnknownArchitecture

# GGUF architecture → (Hugging Face class, model_type). Mistral files say "llama" and are arithmetically the same.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}
SAMPLING_KEYS = {  # general.sampling.* → generation_config.json
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
# Llama 3.1 to 3.3 differ only in the factor; GGUF keeps the resulting table, not the four numbers it came from.
LLAMA3_ROPE_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True, slots=True)
class GGUFMetadata:
    """Typed access to the values of one file; every refusal names the file and the key."""

    path: Path
    values: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        name = self.get_str("general.architecture")
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise UnknownArchitecture(f"{self.path}: GGUF architecture {name!r} is not known; known are {known}.")
        return name

    def get(self, key: str, check: Callable[[Any], bool], expected: str, default: Any = None) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise BadCheckpoint(f"{self.path}: metadata {key!r} is missing.")
        if not check(value):
            raise BadCheckpoint(f"{self.path}: metadata {key!r} is {str(value)[:80]!r}; it should be {expected}.")
        return value

    def get_str(self, key: str, default: str | None = None) -> str:
        return self.get(key, lambda value: isinstance(value, str), "a string", default)

    def get_positive_int(self, key: str, default: int | None = None) -> int:
        """A positive count. A list of equal values, one a layer, counts as that value."""
        values = self.values.get(key)
        if isinstance(values, list) and values and all(value == values[0] for value in values):
            return GGUFMetadata(self.path, {key: values[0]}).get_positive_int(key)
        return self.get(key, lambda value: _is_int(value) and 0 < value < 1 << 40, "a positive number", default)

    def get_positive_float(self, key: str, default: float | None = None) -> float:
        """A finite positive number, in the shortest decimal form of the float32 it is stored as."""
        value = self.get(
            key, lambda v: _is_number(v) and math.isfinite(v) and v > 0, "a finite positive number", default
        )
        return float(str(np.float32(value)))


def build_hf_config(
    metadata: GGUFMetadata, shapes: Mapping[str, tuple[int, ...]], rope_factors: np.ndarray | None
) -> dict:
    """config.json. shapes are the file's tensors by GGUF name; rope_factors is its rope_freqs.weight, if it has one."""
    arch = metadata.architecture
    class_name, model_type = ARCHITECTURES[arch]
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise BadCheckpoint(f"{metadata.path}: tensor 'token_embd.weight' is missing or not a table.")
    heads = metadata.get_positive_int(f"{arch}.attention.head_count")
    hidden = metadata.get_positive_int(f"{arch}.embedding_length")
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata.get_positive_int(f"{arch}.feed_forward_length"),
        "num_hidden_layers": metadata.get_positive_int(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get_positive_int(f"{arch}.attention.head_count_kv", heads),
        "head_dim": metadata.get_positive_int(f"{arch}.attention.key_length", max(hidden // heads, 1)),
        "rms_norm_eps": metadata.get_positive_float(f"{arch}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": metadata.get_positive_int(f"{arch}.context_length"),
        "vocab_size": embedding[0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "rope_theta": metadata.get_positive_float(f"{arch}.rope.freq_base", 10_000.0),
    }
    _refuse_partial_rotation(metadata, config["head_dim"])
    if arch != "qwen2":  # qwen2 always has them and knows no such key
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if arch == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in shapes
    scaling = _rope_scaling(metadata, config, rope_factors)
    return config | ({"rope_scaling": scaling} if scaling else {}) | _sliding_window(metadata) | _special_ids(metadata)


def build_generation_config(metadata: GGUFMetadata) -> dict[str, Any]:
    """Sampling defaults, where the file has any, and every token that ends an answer."""
    config = {}
    for key, name in SAMPLING_KEYS.items():
        if (value := metadata.values.get(f"general.sampling.{key}")) is not None:
            config[name] = (
                int(value)
                if key == "top_k" and _is_number(value)
                else metadata.get_positive_float(f"general.sampling.{key}")
            )
    end_ids = [metadata.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    end_ids = list(dict.fromkeys(end for end in end_ids if _is_int(end)))
    if end_ids:
        config["eos_token_id"] = end_ids if len(end_ids) > 1 else end_ids[0]
    return {key: value for key, value in _special_ids(metadata).items() if key == "bos_token_id"} | config


def _refuse_partial_rotation(metadata: GGUFMetadata, head_dim: int) -> None:
    arch = metadata.architecture
    rotated = metadata.get_positive_int(f"{arch}.rope.dimension_count", head_dim)
    value_dim = metadata.get_positive_int(f"{arch}.attention.value_length", head_dim)
    if rotated != head_dim or value_dim != head_dim:
        raise BadCheckpoint(
            f"{metadata.path}: heads of {head_dim} of which {rotated} rotate, with values of {value_dim}, "
            "are not supported; all three must be equal."
        )
    if metadata.values.get(f"{arch}.expert_count"):
        raise BadCheckpoint(f"{metadata.path}: {arch} with experts is not supported.")


def _rope_scaling(metadata: GGUFMetadata, config: dict[str, Any], factors: np.ndarray | None) -> dict[str, Any] | None:
    """rope_scaling as config.json has it, or None."""
    arch = metadata.architecture
    if factors is not None:
        return _llama3_scaling(metadata.path, factors, config["rope_theta"], config["head_dim"])
    kind = metadata.get_str(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        legacy = metadata.get_positive_float(f"{arch}.rope.scale_linear", 1.0)
        return {"rope_type": "linear", "factor": legacy} if legacy != 1.0 else None
    if kind not in ("linear", "yarn"):
        raise BadCheckpoint(f"{metadata.path}: rope scaling {kind!r} is not supported; linear and yarn are.")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": metadata.get_positive_float(f"{arch}.rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.get_positive_int(
            f"{arch}.rope.scaling.original_context_length"
        )
    known = {f"{arch}.rope.scaling.{name}" for name in ("type", "factor", "original_context_length", "finetuned")}
    if extra := [key for key in metadata.values if key.startswith(f"{arch}.rope.scaling.") and key not in known]:
        raise BadCheckpoint(f"{metadata.path}: metadata {extra[0]!r} is not supported.")
    return scaling


def _llama3_scaling(path: Path, factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """The four numbers behind a table of frequency divisors; refuses a table that they do not reproduce."""
    scaling = {"rope_type": "llama3", "factor": float(np.max(factors, initial=1.0)), **LLAMA3_ROPE_SCALING}
    expected = llama3_factors(theta, head_dim, scaling)
    if (
        not np.isfinite(scaling["factor"])
        or factors.shape != expected.shape
        or not np.allclose(factors, expected, rtol=1e-4)
    ):
        raise BadCheckpoint(f"{path}: tensor 'rope_freqs.weight' is not the table of any Llama 3 model.")
    return scaling


def llama3_factors(theta: float, head_dim: int, scaling: dict[str, Any]) -> np.ndarray:
    """What Llama 3.x divides each rotary frequency by, float32[head_dim / 2]. Source: Llama 3.1's model code."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def _sliding_window(metadata: GGUFMetadata) -> dict[str, Any]:
    key = f"{metadata.architecture}.attention.sliding_window"
    if not metadata.values.get(key):
        return {}
    window = {"sliding_window": metadata.get_positive_int(key)}
    if metadata.architecture == "llama":  # Llama has no such key; Mistral is Llama with it
        return window | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    raise BadCheckpoint(f"{metadata.path}: {key} is not supported, since it does not say which layers have a window.")


def _special_ids(metadata: GGUFMetadata) -> dict[str, int]:
    ids = {name: metadata.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {f"{name}_token_id": value for name, value in ids.items() if _is_int(value)}


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
