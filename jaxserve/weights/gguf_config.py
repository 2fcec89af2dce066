"""GGUF metadata → config.json and generation_config.json as the model's authors would have written them.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's converter, undone here; what
architectures differ in is in gguf_families.py.
What cannot be carried over faithfully is refused by name; a model that is nearly right is wrong.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxserve.errors import BadCheckpoint, UnknownArchitecture
from jaxserve.weights.gguf_families import FAMILIES, GGUFFamily
from jaxserve.weights.gguf_metadata import GGUFMetadata, is_int, is_number
from jaxserve.weights.gguf_ranking import read_ranking
from jaxserve.weights.gguf_rope import read_rope_scaling

SAMPLING_KEYS = {  # general.sampling.* → generation_config.json
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
NULLABLE = ("sliding_window", "final_logit_softcapping")
"""Keys of config.json in which null is not the same as nothing."""


def find_family(metadata: GGUFMetadata) -> GGUFFamily:
    """Return the reader of this architecture. Raises UnknownArchitecture, naming those that are known."""
    name = metadata.architecture
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnknownArchitecture(f"{metadata.path}: GGUF architecture {name!r} is not known; known are {known}.")
    return FAMILIES[name]


def build_hf_config(
    metadata: GGUFMetadata, shapes: Mapping[str, tuple[int, ...]], rope_factors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return config.json. shapes and rope_factors are of the file's tensors by GGUF name, the latter those that exist.

    Raises UnknownArchitecture and BadCheckpoint, naming what is missing or cannot be carried over.
    """
    family = find_family(metadata)
    embedding = shapes.get("token_embd.weight")
    if embedding is None or len(embedding) != 2:
        raise BadCheckpoint(f"{metadata.path}: tensor 'token_embd.weight' is missing or not a table.")
    heads = metadata.get_positive_int(".attention.head_count")
    hidden = metadata.get_positive_int(".embedding_length")
    head_dim = metadata.get_positive_int(".attention.key_length", max(hidden // heads, 1))
    eps_name, eps_key = (family.layer_norm_eps, "epsilon") if family.layer_norm_eps else ("rms_norm_eps", "rms_epsilon")
    config: dict[str, Any] = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata.get_positive_int(".feed_forward_length"),
        "num_hidden_layers": metadata.get_positive_int(".block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get_positive_int(".attention.head_count_kv", heads),
        "head_dim": head_dim,
        eps_name: metadata.get_positive_float(f".attention.layer_norm_{eps_key}"),
        "max_position_embeddings": metadata.get_positive_int(".context_length"),
        "vocab_size": embedding[0],
        "tie_word_embeddings": "output.weight" not in shapes,
        "rope_theta": metadata.get_positive_float(".rope.freq_base", 10_000.0),
    }
    scaling = read_rope_scaling(metadata, config, rope_factors)
    config |= {"rope_scaling": scaling} if scaling else {}
    rotated = _rotated_numbers(metadata, head_dim)
    config |= family.extra(metadata, config | {"rotated": rotated}, shapes)
    if rotated != head_dim and "partial_rotary_factor" not in config:
        raise BadCheckpoint(
            f"{metadata.path}: heads of {head_dim} of which {rotated} rotate are not supported for this architecture."
        )
    config |= read_ranking(metadata, shapes, family.class_name)
    metadata.reject_unread()
    return {key: value for key, value in config.items() if value is not None or key in NULLABLE} | _special_ids(
        metadata
    )


def _rotated_numbers(metadata: GGUFMetadata, head_dim: int) -> int:
    """Return the count of numbers of a head that rotate."""
    value_dim = metadata.get_positive_int(".attention.value_length", head_dim)
    if value_dim != head_dim:
        raise BadCheckpoint(
            f"{metadata.path}: heads of {head_dim} with values of {value_dim} are not supported; both must be equal."
        )
    return metadata.get_positive_int(".rope.dimension_count", head_dim)


def build_generation_config(metadata: GGUFMetadata) -> dict[str, Any]:
    """Return sampling defaults, where the file has any, and every token that ends an answer."""
    config = {}
    for key, name in SAMPLING_KEYS.items():
        if (value := metadata.values.get(f"general.sampling.{key}")) is not None:
            config[name] = (
                int(value)
                if key == "top_k" and is_number(value)
                else metadata.get_positive_float(f"general.sampling.{key}")
            )
    end_ids = [metadata.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    end_ids = list(dict.fromkeys(end for end in end_ids if is_int(end)))
    if end_ids:
        config["eos_token_id"] = end_ids if len(end_ids) > 1 else end_ids[0]
    return {key: value for key, value in _special_ids(metadata).items() if key == "bos_token_id"} | config


def _special_ids(metadata: GGUFMetadata) -> dict[str, int]:
    ids = {name: metadata.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {f"{name}_token_id": value for name, value in ids.items() if is_int(value)}
