"""A plain numpy decoder: no cache, no batch, no cleverness. Everything fast is held to it.

It reads Hugging Face's words itself, config.json and checkpoint names, so that a mistake in a translator shows.
Float64 inside: its own rounding is never the difference. Held to transformers in tests/models/test_parity.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]
DEFAULT_HEAD_DIM = {"qwen3": 128}


def logits(config: Mapping[str, Any], weights: Weights, tokens: Sequence[int]) -> np.ndarray:
    """The logits after every token, float64 [S, V]."""
    table = wide(weights["model.embed_tokens.weight"])
    x_SD = table[np.asarray(tokens)]
    rotation = angles(config, len(tokens))
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        part = {name.removeprefix(at): wide(array) for name, array in weights.items() if name.startswith(at)}
        normed = rms(x_SD, part["input_layernorm.weight"], config)
        x_SD = x_SD + attention(config, part, normed, rotation, window(config, layer))
        normed = rms(x_SD, part["post_attention_layernorm.weight"], config)
        gate = linear(part, "mlp.gate_proj", normed)
        x_SD = x_SD + linear(part, "mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(part, "mlp.up_proj", normed))
    x_SD = rms(x_SD, wide(weights["model.norm.weight"]), config)
    return x_SD @ (table if config.get("tie_word_embeddings") else wide(weights["lm_head.weight"])).T


def greedy(config: Mapping[str, Any], weights: Weights, prompt: Sequence[int], count: int) -> list[int]:
    """The `count` best next tokens, one after the other, each from the whole sequence before it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits(config, weights, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def attention(config, part: Weights, x_SD: np.ndarray, rotation, window: int | None) -> np.ndarray:
    size = len(x_SD)
    query, key, value = (
        linear(part, f"self_attn.{name}_proj", x_SD).reshape(size, -1, head_dim(config)) for name in "qkv"
    )
    if "self_attn.q_norm.weight" in part:
        query = rms(query, part["self_attn.q_norm.weight"], config)
        key = rms(key, part["self_attn.k_norm.weight"], config)
    query, key = rotate(query, rotation), rotate(key, rotation)
    position = np.arange(size)
    seen_SS = position[:, None] >= position
    if window is not None:
        seen_SS &= position[:, None] - position < window
    mixed = np.empty_like(query)
    for head in range(query.shape[1]):
        shared = head * key.shape[1] // query.shape[1]
        score_SS = np.where(seen_SS, query[:, head] @ key[:, shared].T / math.sqrt(head_dim(config)), -np.inf)
        weight_SS = np.exp(score_SS - score_SS.max(-1, keepdims=True))
        mixed[:, head] = weight_SS / weight_SS.sum(-1, keepdims=True) @ value[:, shared]
    return linear(part, "self_attn.o_proj", mixed.reshape(size, -1))


def linear(part: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ part[f"{name}.weight"].T + part.get(f"{name}.bias", 0.0)


def rms(x: np.ndarray, scale: np.ndarray, config) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.get("rms_norm_eps", 1e-6)) * scale


def wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64)


def head_dim(config) -> int:
    derived = DEFAULT_HEAD_DIM.get(config["model_type"], config["hidden_size"] // config["num_attention_heads"])
    return config.get("head_dim") or derived


def window(config, layer: int) -> int | None:
    """How far back the layer sees, itself included; None: everything."""
    if config["model_type"] == "mistral":
        return config.get("sliding_window", 4096)
    if not config.get("use_sliding_window"):
        return None
    types = config.get("layer_types")
    slides = types[layer] == "sliding_attention" if types else layer >= config.get("max_window_layers", 28)
    return config["sliding_window"] if slides else None


def rotate(x_SNH: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """As complex numbers: the first half real, the second imaginary, turned by the angle."""
    first, second = np.split(x_SNH, 2, axis=-1)
    turned = (first + 1j * second) * (rotation[0] + 1j * rotation[1])[:, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def angles(config, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine [S, H/2], scaled as the config says."""
    rope = {"rope_theta": config.get("rope_theta", 10_000.0)} | dict(
        config.get("rope_parameters") or config.get("rope_scaling") or {}
    )
    width, theta = head_dim(config), rope["rope_theta"]
    plain = theta ** -(np.arange(0, width, 2) / width)
    kind = rope.get("rope_type", rope.get("type", "default"))
    magnitude = 1.0
    if kind == "default":
        frequency = plain
    elif kind == "linear":
        frequency = plain / rope["factor"]
    else:
        trained = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
        turns = trained * plain / (2 * math.pi)  # of each wave within the trained length
        if kind == "llama3":
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            keep = np.clip((turns - low) / (high - low), 0, 1)
        else:
            assert kind == "yarn", kind
            magnitude = rope.get("attention_factor") or 0.1 * math.log(rope["factor"]) + 1
            keep = yarn_keep(rope, width, theta, trained)
        frequency = plain * keep + plain / rope["factor"] * (1 - keep)
    angle = np.arange(size)[:, None] * frequency
    return np.cos(angle) * magnitude, np.sin(angle) * magnitude


def yarn_keep(rope, width: int, theta: float, trained: int) -> np.ndarray:
    """The share of each frequency that stays as trained."""

    def dimension(turns: float) -> float:
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(rope.get("beta_fast") or 32), dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    return 1 - np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
