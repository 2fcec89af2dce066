"""Recurrent blocks of the plain decoder, one token after the other."""

import numpy as np
from scipy.special import expit

from jaxserve.layers.norms import NormSpec
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.mamba2_spec import Mamba2Spec
from tests.models.plain_parts import ACTIVATIONS, Weights


def delta_rule(norms: NormSpec, spec: GatedDeltaSpec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what one block of the gated delta rule makes of a whole prompt."""
    size, heads = len(x_SD), spec.num_value_heads
    mixed = np.concatenate([weights.linear(f"delta_{name}", x_SD) for name in ("query", "key", "value")], axis=-1)
    query, key, value = np.split(
        ACTIVATIONS["silu"](convolve(weights["delta_conv"][:, 0], mixed)), [spec.key_width, 2 * spec.key_width], axis=-1
    )
    query, key = (x.reshape(size, -1, spec.key_dim).repeat(heads // spec.num_key_heads, axis=1) for x in (query, key))
    query, key = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (query, key))
    value, rate = value.reshape(size, heads, -1), expit(weights.linear("delta_rate", x_SD))
    step = np.logaddexp(0, weights.linear("delta_decay", x_SD) + weights["delta_bias"])
    decay = step * np.exp(weights["delta_log_a"])
    out, state = np.zeros_like(value), np.zeros((heads, spec.key_dim, spec.value_dim))
    for position in range(size):
        state = state * np.exp(-decay[position])[:, None, None]
        known = np.einsum("nk,nkv->nv", key[position], state)
        state = state + np.einsum("nk,nv,n->nkv", key[position], value[position] - known, rate[position])
        out[position] = np.einsum("nk,nkv->nv", query[position], state) * spec.key_dim**-0.5
    out = out / np.sqrt((out * out).mean(-1, keepdims=True) + norms.eps) * weights["delta_norm"]
    return weights.linear(
        "delta_output", out.reshape(size, -1) * ACTIVATIONS["silu"](weights.linear("delta_gate", x_SD))
    )


def kimi_delta_rule(norms: NormSpec, spec: KimiDeltaSpec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what one block of Kimi's delta rule makes of a whole prompt."""

    def cut(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, spec.num_heads, spec.head_dim)

    query, key, value = (
        cut(ACTIVATIONS["silu"](convolve(weights[f"kda_{name}_conv"][:, 0], weights.linear(f"kda_{name}", x_SD))))
        for name in ("query", "key", "value")
    )
    query, key = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (query, key))
    rate = expit(weights.linear("kda_rate", x_SD))
    step = weights.linear("kda_decay_up", weights.linear("kda_decay_down", x_SD)) + weights["kda_bias"]
    decay = np.exp(-cut(np.logaddexp(0, step)) * np.exp(weights["kda_log_a"][0]))
    out, state = np.zeros_like(value), np.zeros((spec.num_heads, spec.head_dim, spec.head_dim))
    for position in range(len(x_SD)):
        state = state * decay[position][..., None]
        known = np.einsum("nk,nkv->nv", key[position], state)
        state = state + np.einsum("nk,nv,n->nkv", key[position], value[position] - known, rate[position])
        out[position] = np.einsum("nk,nkv->nv", query[position], state) * spec.head_dim**-0.5
    out = out / np.sqrt((out * out).mean(-1, keepdims=True) + norms.eps) * weights["kda_norm"]
    gate = expit(weights.linear("kda_gate_up", weights.linear("kda_gate_down", x_SD)))
    return weights.linear("kda_output", out.reshape(len(x_SD), -1) * gate)


def mamba2(norms: NormSpec, spec: Mamba2Spec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what one block of Mamba-2 makes of a whole prompt."""
    size, heads, per_group = len(x_SD), spec.num_heads, spec.num_heads // spec.num_groups
    value, key, query, step, gate = (
        weights.linear(f"mamba_{name}", x_SD) * getattr(spec.multipliers, name)
        for name in ("value", "key", "query", "step", "gate")
    )
    mixed = []
    for name, x in (("value", value), ("key", np.concatenate([key, query], axis=-1))):
        bias = weights.get(f"mamba_{name}_conv_bias", 0.0)
        mixed.append(ACTIVATIONS["silu"](convolve(weights[f"mamba_{name}_conv"][:, 0], x) + bias))
    value = mixed[0].reshape(size, heads, -1)
    key, query = (x.reshape(size, spec.num_groups, -1).repeat(per_group, axis=1) for x in np.split(mixed[1], 2, -1))
    step = np.logaddexp(0, step + weights["mamba_bias"])
    out, state = np.zeros_like(value), np.zeros((heads, spec.state_dim, spec.head_dim))
    for position in range(size):
        state = state * np.exp(-step[position] * np.exp(weights["mamba_log_a"]))[:, None, None]
        state = state + np.einsum("nk,nv,n->nkv", key[position], value[position], step[position])
        out[position] = np.einsum("nk,nkv->nv", query[position], state)
    out = (out + value * weights["mamba_skip"][:, None]).reshape(size, -1)
    gate = ACTIVATIONS["silu"](gate)
    out = out * gate if spec.norm_place != "before_gate" else out
    if spec.norm_place != "none":
        out = out.reshape(size, spec.num_groups, -1)
        out = (out / np.sqrt((out * out).mean(-1, keepdims=True) + norms.eps)).reshape(size, -1) * weights["mamba_norm"]
    out = out * gate if spec.norm_place == "before_gate" else out
    return weights.linear("mamba_output", out) * spec.multipliers.output


def convolve(kernel_DL: np.ndarray, x_SD: np.ndarray) -> np.ndarray:
    """Return the causal convolution of every channel over the last L tokens."""
    num_taps = kernel_DL.shape[1]
    padded = np.concatenate([np.zeros((num_taps - 1, x_SD.shape[1])), x_SD])
    return np.sum([padded[tap : tap + len(x_SD)] * kernel_DL[:, tap] for tap in range(num_taps)], axis=0)
