"""rope_scaling of config.json from the metadata and tensors of a GGUF file.

llama.cpp keeps some scalings as numbers and others as the table that they make; tables are turned back into numbers,
or refused where that cannot be done.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.gguf_metadata import GGUFMetadata

LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)
ROPE_TENSORS = (LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS)
"""Tensors that become config."""
# Llama 3.1 to 3.3 differ only in the factor; GGUF keeps the resulting table, not the four numbers it came from.
LLAMA3_ROPE_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN_KEYS = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "yarn_attn_factor": "attention_factor"}


def read_rope_scaling(
    metadata: GGUFMetadata, config: Mapping[str, Any], factors: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Return rope_scaling as config.json has it, or None.

    config holds rope_theta, head_dim and max_position_embeddings; factors are the file's ROPE_TENSORS.
    Raises BadCheckpoint for scalings that are not known.
    """
    if LLAMA3_FACTORS in factors:
        return _llama3_scaling(metadata.path, factors[LLAMA3_FACTORS], config["rope_theta"], config["head_dim"])
    if LONG_FACTORS in factors and SHORT_FACTORS in factors:
        return _longrope_scaling(metadata, factors, config["max_position_embeddings"])
    kind = metadata.get_str(".rope.scaling.type", "none")
    if kind == "none":
        legacy = metadata.get_positive_float(".rope.scale_linear", 1.0)
        return {"rope_type": "linear", "factor": legacy} if legacy != 1.0 else None
    if kind not in ("linear", "yarn"):
        raise BadCheckpoint(
            f"{metadata.path}: rope scaling {kind!r} is not supported; linear and yarn are, and longrope with factors."
        )
    scaling: dict[str, Any] = {"rope_type": kind, "factor": metadata.get_positive_float(".rope.scaling.factor")}
    return scaling if kind == "linear" else scaling | _yarn(metadata)


def _yarn(metadata: GGUFMetadata) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "original_max_position_embeddings": metadata.get_positive_int(".rope.scaling.original_context_length")
    }
    for key, name in YARN_KEYS.items():
        if metadata.find(f".rope.scaling.{key}") is not None:
            numbers[name] = metadata.get_positive_float(f".rope.scaling.{key}")
    if metadata.find(".rope.scaling.yarn_log_multiplier"):  # llama.cpp, too, takes mscale for 1
        numbers["mscale"] = 1.0
        numbers["mscale_all_dim"] = metadata.get_positive_float(".rope.scaling.yarn_log_multiplier")
    return numbers


def _longrope_scaling(metadata: GGUFMetadata, factors: Mapping[str, np.ndarray], max_positions: int) -> dict[str, Any]:
    original_positions = metadata.get_positive_int(".rope.scaling.original_context_length")
    scaling: dict[str, Any] = {
        "rope_type": metadata.get(".rope.scaling.type", lambda kind: kind == "longrope", "longrope", "longrope"),
        "original_max_position_embeddings": original_positions,
        "short_factor": [float(str(factor)) for factor in factors[SHORT_FACTORS]],
        "long_factor": [float(str(factor)) for factor in factors[LONG_FACTORS]],
    }
    if metadata.find(".rope.scaling.attn_factor") is None:
        return scaling
    attention_factor = metadata.get_positive_float(".rope.scaling.attn_factor")
    scale = max(max_positions / original_positions, 1.0)
    usual = math.sqrt(1 + math.log(scale) / math.log(original_positions)) if original_positions > 1 else 1.0
    is_usual = np.float32(attention_factor) == np.float32(usual)  # then config.json leaves it out
    return scaling if is_usual else scaling | {"attention_factor": attention_factor}


def _llama3_scaling(path: Path, factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """Return the four numbers behind a table of frequency divisors; refuse a table that they do not reproduce."""
    scaling = {"rope_type": "llama3", "factor": float(np.max(factors, initial=1.0)), **LLAMA3_ROPE_SCALING}
    expected = llama3_factors(theta, head_dim, scaling)
    if (
        not np.isfinite(scaling["factor"])
        or factors.shape != expected.shape
        or not np.allclose(factors, expected, rtol=1e-4)
    ):
        raise BadCheckpoint(f"{path}: tensor {LLAMA3_FACTORS!r} is not the table of any Llama 3 model.")
    return scaling


def llama3_factors(theta: float, head_dim: int, scaling: dict[str, Any]) -> np.ndarray:
    """Return the divisors of Llama 3.x's rotary frequencies, float32[head_dim / 2]. Source: Llama 3.1's model code."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)
