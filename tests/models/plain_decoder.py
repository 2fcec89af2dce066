"""A DecoderSpec computed in plain numpy: no cache, no batch, one token's experts after the other, in float64.

It takes the decoder's own spec and weights, so that every field of the spec is held to a second computation, those that
no family uses, too. Held to transformers, where a family does use them, in tests/models/test_parity.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import expit

from jaxserve.layers.mlp import ClampedSwiGLU
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.rope import LinearScaling, Llama3Scaling, LongRopeScaling, RopeSpec, YarnScaling
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import DecoderSpec, LayerSpec, MLPSpec, MoESpec
from tests.models.plain_parts import ACTIVATIONS, Weights
from tests.models.plain_recurrent import convolve, delta_rule, kimi_delta_rule, mamba2


def compute_logits(spec: DecoderSpec, params: Mapping[ParamPath, np.ndarray], tokens: Sequence[int]) -> np.ndarray:
    """Return the logits after every token, float64 [S, V]."""
    weights = Weights(params)
    x_SD = weights["embed", "table"][np.asarray(tokens)] * spec.embedding_multiplier
    if spec.embedding_norm is not None:
        x_SD = norm(spec.embedding_norm, weights.part("embedding_norm"), x_SD)
    input_SLP, attended = layer_inputs(spec, weights.part("layer_inputs"), tokens, x_SD), []
    before_SD = x_SD
    for index, layer in enumerate(spec.layers):
        seen_SD, before_SD = before_SD if layer.is_beside_previous else x_SD, x_SD
        x_SD = run_layer(spec, layer, weights.part("layers", index), x_SD, seen_SD, input_SLP[:, index], attended)
    x_SD = norm(spec.norm, weights.part("final_norm"), x_SD)
    table = weights["embed" if spec.tie_embeddings else "head", "table"]
    bias = weights["head", "bias"] if spec.has_head_bias else 0.0
    return softcap((x_SD @ table.T + bias) * spec.logits_multiplier, spec.logits_softcap)


def layer_inputs(spec: DecoderSpec, weights: Weights, tokens: Sequence[int], x_SD: np.ndarray) -> np.ndarray:
    """Return the inputs that layers have of their own [S, L, P]; P is 0 where they have none."""
    if spec.layer_inputs is None:
        return np.zeros((len(x_SD), spec.num_layers, 0))
    shape = (len(x_SD), spec.num_layers, spec.layer_inputs.width)
    own = weights["embed", "table"][np.asarray(tokens)].reshape(shape) * math.sqrt(spec.layer_inputs.width)
    seen = weights.linear("projection", x_SD).reshape(shape) / math.sqrt(spec.width)
    return (own + norm(spec.norm, weights.part("norm"), seen)) / math.sqrt(2)


def run_layer(
    spec: DecoderSpec,
    layer: LayerSpec,
    weights: Weights,
    x_SD: np.ndarray,
    seen_SD: np.ndarray,
    input_SP: np.ndarray,
    attended: list[tuple[Weights, np.ndarray]],
) -> np.ndarray:
    """Return the residual stream behind a layer.

    seen_SD    what attention reads: this, or the residual stream before the layer before
    input_SP   what it has as an input of its own
    attended   of every layer so far the weights and the input of its attention, to which this layer's are added
    """

    def attend(x: np.ndarray) -> np.ndarray:
        attended.append((weights.part("attention"), x))
        if isinstance(layer.attention, SharedKeysSpec):
            keys_of = attended[layer.attention.layer]
            return attention(spec.norm, layer.attention.attention, weights.part("attention"), x, keys_of)
        if isinstance(layer.attention, LatentAttentionSpec):
            return latent_attention(layer.attention, weights.part("attention"), x)
        if isinstance(layer.attention, ShortConvSpec):
            part = weights.part("attention")
            before, after, value = (part.linear(f"conv_{name}", x) for name in ("before", "after", "value"))
            mixed = convolve(part["conv_kernel"][:, 0], before * value) + part.get("conv_bias", 0.0)
            return part.linear("conv_output", after * mixed)
        if isinstance(layer.attention, GatedDeltaSpec):
            return delta_rule(spec.norm, layer.attention, weights.part("attention"), x)
        if isinstance(layer.attention, KimiDeltaSpec):
            return kimi_delta_rule(spec.norm, layer.attention, weights.part("attention"), x)
        if isinstance(layer.attention, Mamba2Spec):
            return mamba2(spec.norm, layer.attention, weights.part("attention"), x)
        return attention(spec.norm, layer.attention, weights.part("attention"), x)

    def feed_forward(x: np.ndarray) -> np.ndarray:
        if isinstance(layer.mlp, MoESpec):
            return mixture(spec.norm, layer.mlp, weights.part("mlp"), x)
        assert layer.mlp is not None
        return mlp(layer.mlp, weights.part("mlp"), x)

    output_scale = weights["output_scale"] if layer.has_output_scale else 1.0
    if layer.is_parallel:
        normed = norm(spec.norm, weights.part("attention_norm"), seen_SD)
        other = norm(spec.norm, weights.part("mlp_norm"), x_SD) if layer.has_two_norms else normed
        x_SD = x_SD + layer.residual_multiplier * (attend(normed) + feed_forward(other))
        return output_scale * add_input(spec, layer, weights, x_SD, input_SP)
    has_own_norms = isinstance(layer.mlp, MoESpec) and layer.mlp.has_own_norms
    skips_norm = {"attention": layer.skips_attention_norm, "mlp": has_own_norms}
    for name, block in (("attention", attend), ("mlp", feed_forward))[: 1 if layer.mlp is None else 2]:
        y_SD = seen_SD if name == "attention" else x_SD
        if layer.norm_place in ("pre", "sandwich") and not skips_norm[name]:
            y_SD = norm(spec.norm, weights.part(f"{name}_norm"), y_SD)
        y_SD = block(y_SD)
        if layer.norm_place in ("post", "sandwich"):
            y_SD = norm(spec.norm, weights.part(f"{name}_post_norm"), y_SD)
        x_SD = x_SD + layer.residual_multiplier * y_SD
    return output_scale * add_input(spec, layer, weights, x_SD, input_SP)


def add_input(
    spec: DecoderSpec, layer: LayerSpec, weights: Weights, x_SD: np.ndarray, input_SP: np.ndarray
) -> np.ndarray:
    """Return the residual stream with what a layer makes of its own input."""
    if spec.layer_inputs is None:
        return x_SD
    block = weights.part("layer_input")
    y_SD = block.linear("projection", ACTIVATIONS[spec.layer_inputs.activation](block.linear("gate", x_SD)) * input_SP)
    return x_SD + layer.residual_multiplier * norm(spec.norm, block.part("norm"), y_SD)


def attention(
    norms: NormSpec,
    spec: AttentionSpec,
    weights: Weights,
    x_SD: np.ndarray,
    keys_of: tuple[Weights, np.ndarray] | None = None,
) -> np.ndarray:
    """Return what one attention block makes of a whole prompt.

    keys_of   the weights and the input that keys and values are made of; None: its own
    """
    size = len(x_SD)
    key_weights, key_input_SD = keys_of or (weights, x_SD)
    query, key = weights.linear("query", x_SD), key_weights.linear("key", key_input_SD)
    value = key if spec.keys_are_values else key_weights.linear("value", key_input_SD)
    if spec.qkv_clip is not None:
        query, key, value = (np.clip(x, -spec.qkv_clip, spec.qkv_clip) for x in (query, key, value))
    if spec.qk_norm == "full":
        query, key = (norm(norms, weights.part(f"{name}_norm"), x) for name, x in (("query", query), ("key", key)))
    query, key = (x.reshape(size, -1, spec.head_dim) for x in (query, key))
    value = value.reshape(size, -1, spec.value_size)

    def normed() -> tuple[np.ndarray, np.ndarray]:
        kind = spec.head_norm or norms
        return norm(kind, weights.part("query_norm"), query), norm(kind, key_weights.part("key_norm"), key)

    if spec.value_norm is not None:
        value = norm(spec.value_norm, key_weights.part("value_norm"), value)
    value = value * spec.value_multiplier
    if spec.norms_heads and not spec.norms_after_rope:
        query, key = normed()
    if spec.rope is not None:
        query, key = rotate(spec.rope, query), rotate(spec.rope, key)
    if spec.norms_heads and spec.norms_after_rope:
        query, key = normed()
    if spec.temperature is not None:
        steps = [(position + spec.temperature.offset) // spec.temperature.interval for position in range(size)]
        query = query * (1 + spec.temperature.scale * np.log([1 + step for step in steps]))[:, None, None]
    mixed = np.zeros((size, spec.num_heads, spec.value_size))
    for head in range(spec.num_heads):
        group = head // (spec.num_heads // spec.num_kv_heads)
        for position in range(size):
            first = 0 if spec.window is None else max(0, position + 1 - spec.window)
            scores = key[first : position + 1, group] @ query[position, head] * spec.scale
            scores = softcap(scores, spec.softcap)
            if spec.has_sinks:
                scores = np.append(scores, weights["sinks"][head])
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            mixed[position, head] = shares[: position + 1 - first] @ value[first : position + 1, group]
    mixed = mixed.reshape(size, -1)
    if spec.has_output_gate:
        mixed = mixed * expit(weights.linear("output_gate", x_SD))
    return weights.linear("output", mixed)


def latent_attention(spec: LatentAttentionSpec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what one block of latent attention makes of a whole prompt: every head makes its keys and values."""
    size, heads = len(x_SD), spec.num_heads
    if spec.query_rank is None:
        query = weights.linear("query", x_SD)
    else:
        query = weights.linear(
            "query_up", norm(spec.norm, weights.part("query_norm"), weights.linear("query_down", x_SD))
        )
    query, cached = query.reshape(size, heads, -1), weights.linear("latent", x_SD)
    latent = norm(spec.norm, weights.part("latent_norm"), cached[:, : spec.latent_dim])
    rotated = cached[:, None, spec.latent_dim :]
    if spec.rope is not None:
        rotated = rotate(spec.rope, rotated)
        query[..., spec.plain_dim :] = rotate(spec.rope, query[..., spec.plain_dim :])
    mixed = np.zeros((size, heads, spec.value_dim))
    key_up, value_up = (weights[name].reshape(heads, -1, spec.latent_dim) for name in ("key_up", "value_up"))
    for head in range(heads):
        key = np.concatenate([latent @ key_up[head].T, rotated[:, 0]], axis=1)
        for position in range(size):
            scores = key[: position + 1] @ query[position, head] * spec.scale
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            mixed[position, head] = shares @ (latent[: position + 1] @ value_up[head].T)
    return weights.linear("output", mixed.reshape(size, -1))


def mlp(spec: MLPSpec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what a dense feed-forward block makes of every token."""
    up = weights.linear("up", x_SD)
    activate = xielu(weights.part("xielu")) if spec.activation == "xielu" else ACTIVATIONS[spec.activation]
    hidden = activate(weights.linear("gate", x_SD) * spec.gate_multiplier) * up if spec.is_gated else activate(up)
    return weights.linear("down", hidden) * spec.output_multiplier


def xielu(weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """Return xIELU with these weights, as its paper writes it."""
    (alpha_p,), (alpha_n,) = np.log1p(np.exp(weights["alphas"]))
    beta, eps = weights["constants"]

    def activate(x: np.ndarray) -> np.ndarray:
        below = (alpha_n + beta) * (np.expm1(np.minimum(x, eps)) - x)
        return np.where(x > 0, alpha_p * x**2, below) + beta * x

    return activate


def mixture(norms: NormSpec, spec: MoESpec, weights: Weights, x_SD: np.ndarray) -> np.ndarray:
    """Return what a mixture of experts makes of every token, one token after the other."""
    experts, router = weights.part("experts"), spec.router
    bias_E = weights["correction_bias"] if router.has_correction_bias else None
    scale_E = weights["expert_scale"] if router.has_expert_scale else None
    routed_SD = x_SD
    if router.input_norm is not None:
        routed_SD = norm(router.input_norm, weights.part("router_norm"), x_SD) / math.sqrt(x_SD.shape[1])

    def own_norm(name: str, x: np.ndarray) -> np.ndarray:
        return norm(norms, weights.part(name), x) if spec.has_own_norms else x

    input_SD = own_norm("expert_norm", x_SD) if spec.latent is None else weights.linear("latent_down", x_SD)
    y_SD = np.zeros_like(input_SD)
    for x, y, logits in zip(input_SD, y_SD, weights.linear("router", routed_SD), strict=True):
        for expert, weight in choose_experts(router, logits, bias_E, scale_E).items():
            if router.weighs_inputs:
                y += run_expert(spec, experts, expert, weight * x)
            else:
                y += weight * run_expert(spec, experts, expert, x)
    if spec.latent is not None:
        y_SD = weights.linear("latent_up", y_SD)
    if spec.shared is None:
        return y_SD
    shared_SD = mlp(spec.shared, weights.part("shared"), own_norm("shared_norm", x_SD))
    if spec.has_shared_gate:
        shared_SD = shared_SD * expit(weights.linear("shared_gate", x_SD))
    return own_norm("expert_post_norm", y_SD) + own_norm("shared_post_norm", shared_SD)


def run_expert(spec: MoESpec, weights: Weights, expert: int, x: np.ndarray) -> np.ndarray:
    """Return what one expert makes of one token."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[name][expert] + (weights[f"{name}_bias"][expert] if spec.bias else 0.0)

    if not spec.is_gated:
        return linear("down", ACTIVATIONS[spec.activation](linear("up", x)))
    gate, up, activation = linear("gate", x), linear("up", x), spec.activation
    if isinstance(activation, ClampedSwiGLU):
        gate, up = np.minimum(gate, activation.limit), np.minimum(np.maximum(up, -activation.limit), activation.limit)
        return linear("down", gate * expit(activation.alpha * gate) * (up + 1))
    return linear("down", ACTIVATIONS[activation](gate) * up)


def choose_experts(
    router: RouterSpec, logits: np.ndarray, bias: np.ndarray | None = None, scale: np.ndarray | None = None
) -> dict[int, float]:
    """Return the experts of one token and their weights, from the router's logits for it."""
    if router.score == "near_best":
        return weigh_near_best(router, logits, scale)
    scores = np.exp(logits) / np.exp(logits).sum() if router.score == "softmax" else expit(logits)
    choice = scores if bias is None else scores + bias
    groups = np.array_split(np.arange(len(scores)), router.num_groups)
    num_best = 1 if router.group_score == "best" else 2
    groups.sort(key=lambda experts: -np.sort(choice[experts])[-num_best:].sum())
    allowed = np.concatenate(groups[: router.top_groups]) if router.num_groups > 1 else np.arange(len(scores))
    chosen = sorted(allowed, key=lambda expert: -choice[expert])[: router.top_k]
    total = scores[chosen].sum() if router.renormalize else 1.0
    scales = np.full(len(scores), router.scale) * (1.0 if scale is None else scale)
    return {int(expert): scales[expert] * scores[expert] / total for expert in chosen}


def weigh_near_best(router: RouterSpec, logits: np.ndarray, scale: np.ndarray | None) -> dict[int, float]:
    """Return the best experts, each weighed among those that are left and near it."""
    left, weights = dict(enumerate(logits.tolist())), dict[int, float]()
    for _ in range(router.top_k):
        chosen = max(left, key=lambda expert: left[expert])
        best = left[chosen]
        near = [x for x in left.values() if best - x <= router.nearness * max(abs(x), best)]
        weights[chosen] = 1 / np.exp(np.array(near) - best).sum()
        del left[chosen]
    total = sum(weights.values()) if router.renormalize else 1.0
    scales = np.full(len(logits), router.scale) * (1.0 if scale is None else scale)
    return {expert: scales[expert] * weight / total for expert, weight in weights.items()}


def norm(spec: NormSpec, weights: Weights, x: np.ndarray) -> np.ndarray:
    """Return the normed x, over its last axis."""
    if spec.kind in ("layer", "layer_plus_one"):
        x = x - x.mean(-1, keepdims=True)
    scale = weights.get("scale", 1.0) + (
        1.0 if spec.kind in ("rms_plus_one", "layer_plus_one") and spec.has_scale else 0.0
    )
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + spec.eps) * scale + weights.get("bias", 0.0)


def softcap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def rotate(rope: RopeSpec, x_SNH: np.ndarray) -> np.ndarray:
    """Return the heads of a whole prompt, their pairs of numbers rotated as complex numbers."""
    size = rope.rotary_dim or x_SNH.shape[-1]
    first, second = (
        (slice(0, size, 2), slice(1, size, 2))
        if rope.is_interleaved
        else (
            slice(0, size // 2),
            slice(size // 2, size),
        )
    )
    frequency, magnitude = frequencies(rope, size)
    if rope.turning_pairs is not None:
        frequency = np.where(np.arange(size // 2) < rope.turning_pairs, frequency, 0)
    turn_SR = magnitude * np.exp(1j * np.arange(len(x_SNH))[:, None] * frequency)
    pair_SNR = (x_SNH[..., first] + 1j * x_SNH[..., second]) * turn_SR[:, None, :]
    rotated = x_SNH.copy()
    rotated[..., first], rotated[..., second] = pair_SNR.real, pair_SNR.imag
    return rotated


def frequencies(rope: RopeSpec, size: int) -> tuple[np.ndarray, float]:
    """Return radians a position for each pair of numbers, and the factor of sines and cosines."""
    plain = rope.theta ** -(np.arange(0, size, 2) / size)
    match rope.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor):
            return plain / factor, 1.0
        case Llama3Scaling() as scaling:
            turns = scaling.original_positions * plain / (2 * math.pi)  # of each wave within the trained length
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = np.clip((turns - low) / (high - low), 0, 1)
            return plain * kept + plain / scaling.factor * (1 - kept), 1.0
        case YarnScaling() as scaling:
            kept = yarn_kept(scaling, rope.theta, size)
            return plain * kept + plain / scaling.factor * (1 - kept), scaling.attention_factor
        case LongRopeScaling() as scaling:
            is_long = scaling.max_positions > scaling.original_positions
            return plain / (scaling.long_factors if is_long else scaling.short_factors), scaling.attention_factor


def yarn_kept(scaling: YarnScaling, theta: float, size: int) -> np.ndarray:
    """Return the share of each frequency that stays as trained."""

    def dimension(turns: float) -> float:
        return size * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    return 1 - np.clip((np.arange(size // 2) - low) / max(high - low, 0.001), 0, 1)
