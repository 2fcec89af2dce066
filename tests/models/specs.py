"""DecoderSpecs that between them use every field: one for each field and kind of value, and random ones of all."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy, booleans, builds, integers, just, none, sampled_from

from jaxserve.layers.mlp import Activation, ClampedSwiGLU
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormKind, NormSpec
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.rope import LinearScaling, Llama3Scaling, LongRopeScaling, RopeSpec, YarnScaling
from jaxserve.models.attention_spec import AttentionSpec, QueryTemperature
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.spec import DecoderSpec, LayerInputSpec, LayerSpec, MLPSpec, MoESpec, NormPlace

VOCAB, WIDTH, HEADS, HEAD_DIM, HIDDEN, EXPERTS = 40, 32, 4, 8, 24, 8

PLAIN_ATTENTION = AttentionSpec(
    num_heads=HEADS, num_kv_heads=2, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5, rope=RopeSpec(100.0), qk_norm="head"
)
PLAIN_LATENT = LatentAttentionSpec(
    num_heads=HEADS,
    query_rank=12,
    latent_dim=10,
    plain_dim=6,
    rotary_dim=4,
    value_dim=5,
    scale=10**-0.5,
    rope=RopeSpec(100.0, is_interleaved=True),
    norm=NormSpec(1e-6),
)
PLAIN_MLP = MLPSpec(hidden=HIDDEN)
PLAIN_MOE = MoESpec(num_experts=EXPERTS, hidden=HIDDEN // 2, router=RouterSpec(top_k=3), shared=PLAIN_MLP)
PLAIN = DecoderSpec(
    architecture_name="Plain",
    vocab_size=VOCAB,
    width=WIDTH,
    max_position_embeddings=128,
    norm=NormSpec(1e-5),
    layers=(
        LayerSpec(attention=PLAIN_ATTENTION, mlp=PLAIN_MLP),
        LayerSpec(attention=PLAIN_ATTENTION, mlp=PLAIN_MOE),
    ),
)
PLAIN_BASES = {
    LatentAttentionSpec: replace(PLAIN, layers=(LayerSpec(attention=PLAIN_LATENT, mlp=PLAIN_MLP),)),
}
"""Specs with what PLAIN has not."""
SIZES = {
    (DecoderSpec, name)
    for name in ("architecture_name", "vocab_size", "width", "max_position_embeddings", "layers", "norm")
} | {
    *((AttentionSpec, name) for name in ("num_heads", "num_kv_heads", "head_dim")),
    *(
        (LatentAttentionSpec, name)
        for name in ("num_heads", "latent_dim", "plain_dim", "rotary_dim", "value_dim", "norm")
    ),
    *((MoESpec, name) for name in ("num_experts", "hidden", "router")),
    *((LayerSpec, name) for name in ("attention", "mlp")),
    (MLPSpec, "hidden"),
    (LayerSpec, "is_beside_previous"),
    (DecoderSpec, "dense"),
    (DecoderSpec, "is_bidirectional"),
}
"""Fields that are sizes, names or other specs, which every spec has; one that Falcon-H1 shows, since it concerns the
layer before, too; and those of models that pool, which have no logits and are shown in tests/pooling."""

CHANGES: dict[type, list[dict[str, Any]]] = {
    DecoderSpec: [
        {"tie_embeddings": True},
        {"has_head_bias": True},
        {"embedding_multiplier": 3.0},
        {"embedding_norm": NormSpec(0.3)},
        {"embedding_norm": NormSpec(0.3, has_scale=False)},
        {"logits_multiplier": 0.4},
        {"logits_softcap": 2.0},
        {"layer_inputs": LayerInputSpec(width=6, vocab_size=VOCAB)},
        {"layer_inputs": LayerInputSpec(width=6, vocab_size=VOCAB + 3, activation="gelu_tanh")},
    ],
    NormSpec: [
        {"eps": 0.1},
        {"kind": "rms_plus_one"},
        {"kind": "layer"},
        {"kind": "layer", "has_bias": True},
        {"kind": "layer_plus_one"},
        {"has_scale": False},
    ],
    LayerSpec: [
        {"mlp": None},
        {"norm_place": "post"},
        {"norm_place": "sandwich"},
        {"is_parallel": True},
        {"is_parallel": True, "has_two_norms": True},
        {"residual_multiplier": 0.5},
        {"has_output_scale": True},
        {"skips_attention_norm": True},
        {"skips_attention_norm": True, "norm_place": "sandwich"},
    ],
    AttentionSpec: [
        {"scale": 0.6},
        {"rope": None},
        {"window": 5},
        {"softcap": 1.5},
        {"qkv_bias": True},
        {"output_bias": True},
        {"qkv_clip": 0.5},
        {"qk_norm": "none"},
        {"qk_norm": "full"},
        {"qk_norm": "each"},
        {"norms_after_rope": True},
        {"head_norm": NormSpec(0.3, has_scale=False)},
        {"temperature": QueryTemperature(scale=0.5, interval=4.0, offset=1)},
        {"has_sinks": True},
        {"has_output_gate": True},
        {"has_output_gate": True, "qkv_bias": True},
        {"keys_are_values": True},
        {"value_dim": 6},
        {"value_multiplier": 0.5},
        {"value_norm": NormSpec(0.3, has_scale=False)},
    ],
    LatentAttentionSpec: [
        {"scale": 0.6},
        {"rope": None},
        {"query_rank": None},
        {"has_bias": True},
    ],
    RopeSpec: [
        {"theta": 10_000.0},
        {"scaling": LinearScaling(2.0)},
        {"rotary_dim": 4},
        {"is_interleaved": True},
        {"is_interleaved": True, "rotary_dim": 4},
        {"turning_pairs": 1},
    ],
    MLPSpec: [
        *({"activation": activation} for activation in get_args(Activation) if activation != "silu"),
        {"is_gated": False},
        {"bias": True},
        {"gate_multiplier": 0.5},
        {"output_multiplier": 0.5},
    ],
    MoESpec: [
        {"activation": "gelu"},
        {"activation": ClampedSwiGLU(alpha=1.7, limit=0.3)},
        {"is_gated": False},
        {"bias": True},
        {"shared": None},
        {"has_shared_gate": True},
        {"has_own_norms": True},
        {"latent": 20},
    ],
    RouterSpec: [
        {"top_k": 1},
        {"score": "sigmoid"},
        {"score": "near_best", "nearness": 0.5, "renormalize": False},
        {"renormalize": False},
        {"scale": 2.5},
        {"weighs_inputs": True},
        {"has_bias": True},
        {"has_correction_bias": True},
        {"has_expert_scale": True},
        {"input_norm": NormSpec(0.3)},
        {"num_groups": 4, "top_groups": 2},
        {"num_groups": 4, "top_groups": 2, "group_score": "best"},
    ],
}
"""For each spec, changes of PLAIN, or of PLAIN_BASES, that show in its logits, at least one for each field."""


def change(spec: Any, kind: type, values: Mapping[str, Any]) -> Any:
    """Return a spec in which every spec of this kind has these values, itself and those inside of it."""
    if isinstance(spec, tuple):
        return tuple(change(each, kind, values) for each in spec)
    if not is_dataclass(spec) or isinstance(spec, type):
        return spec
    inner = {field.name: change(getattr(spec, field.name), kind, values) for field in fields(spec)}
    return replace(spec, **inner | (dict(values) if isinstance(spec, kind) else {}))


def random_params(shapes: Mapping[ParamPath, Any], seed: int = 0) -> dict[ParamPath, np.ndarray]:
    """Return weights for leaves of these shapes, spread wide enough that each of them shows in the logits."""
    rng = np.random.default_rng(seed)
    params = {}
    for path, leaf in shapes.items():
        spread = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 and path[-1] != "table" else 0.5
        params[path] = rng.standard_normal(leaf.shape, np.float32) * np.float32(spread) + (path[-1] == "scale")
    return params


def _ropes(rotary_dim: int | None) -> SearchStrategy[RopeSpec]:
    """Rotations of so many numbers of a head."""
    factors = st.tuples(*[sampled_from([1.0, 1.5, 4.0])] * ((rotary_dim or HEAD_DIM) // 2))
    longrope = builds(
        LongRopeScaling,
        short_factors=factors,
        long_factors=factors,
        original_positions=just(64),
        attention_factor=sampled_from([1.0, 1.2]),
        max_positions=sampled_from([64, 65]),
    )
    yarn = builds(YarnScaling, just(4.0), just(16), just(2.0), just(0.5), sampled_from([1.0, 1.2]), booleans())
    llama3 = just(Llama3Scaling(4.0, 1.0, 4.0, 16))
    return builds(
        RopeSpec,
        theta=sampled_from([100.0, 10_000.0]),
        scaling=none() | just(LinearScaling(2.0)) | llama3 | yarn | longrope,
        rotary_dim=just(rotary_dim),
        is_interleaved=booleans(),
        turning_pairs=none() | just(1),
    )


_ATTENTIONS = builds(
    lambda qk_norm, value_dim, **values: AttentionSpec(
        qk_norm=qk_norm[0],
        norms_after_rope=qk_norm[1],
        head_norm=qk_norm[2],
        value_dim=None if values["keys_are_values"] else value_dim,
        **values,
    ),
    num_heads=just(HEADS),
    num_kv_heads=sampled_from([2, HEADS]),
    head_dim=just(HEAD_DIM),
    scale=sampled_from([HEAD_DIM**-0.5, 0.6]),
    rope=none() | sampled_from([None, HEAD_DIM // 2, HEAD_DIM]).flatmap(_ropes),
    window=none() | sampled_from([1, 5, 100]),
    softcap=none() | just(1.5),
    qkv_bias=booleans(),
    output_bias=booleans(),
    qk_norm=sampled_from(
        [
            ("none", False, None),
            ("full", False, None),
            ("head", False, None),
            ("head", True, None),
            ("head", True, NormSpec(0.1, has_scale=False)),
            ("each", False, None),
            ("each", True, NormSpec(0.1, "layer")),
        ]
    ),
    qkv_clip=none() | just(0.5),
    temperature=none() | builds(QueryTemperature, scale=just(0.5), interval=just(4.0), offset=integers(0, 3)),
    has_sinks=booleans(),
    has_output_gate=booleans(),
    keys_are_values=booleans(),
    value_norm=none() | builds(NormSpec, eps=just(0.1), has_scale=booleans()),
    value_dim=none() | just(6),
    value_multiplier=sampled_from([1.0, 0.5]),
)
_LATENTS = builds(
    LatentAttentionSpec,
    num_heads=just(HEADS),
    query_rank=none() | just(12),
    latent_dim=just(10),
    plain_dim=sampled_from([6, 8]),
    rotary_dim=just(HEAD_DIM),
    value_dim=sampled_from([5, 8]),
    scale=sampled_from([0.3, 0.6]),
    rope=none() | _ropes(None),
    norm=builds(NormSpec, eps=sampled_from([1e-6, 0.1])),
    has_bias=booleans(),
)
_ACTIVATIONS = sampled_from(get_args(Activation))
_SHARED = builds(
    lambda is_gated, gate_multiplier, **values: MLPSpec(
        is_gated=is_gated, gate_multiplier=gate_multiplier if is_gated else 1.0, **values
    ),
    hidden=just(HIDDEN),
    activation=_ACTIVATIONS,
    is_gated=booleans(),
    bias=booleans(),
    gate_multiplier=sampled_from([1.0, 0.5]),
    output_multiplier=sampled_from([1.0, 0.5]),
)
_MLPS = _SHARED | builds(MLPSpec, hidden=just(HIDDEN), activation=just("xielu"), is_gated=booleans())
ROUTERS: SearchStrategy[RouterSpec] = builds(
    lambda groups, **values: RouterSpec(num_groups=groups[0], top_groups=groups[1], group_score=groups[2], **values),
    top_k=sampled_from([1, 3]),
    score=sampled_from(["softmax", "sigmoid"]),
    renormalize=booleans(),
    scale=sampled_from([1.0, 2.5]),
    weighs_inputs=booleans(),
    has_bias=booleans(),
    has_correction_bias=booleans(),
    has_expert_scale=booleans(),
    input_norm=none() | builds(NormSpec, eps=just(0.1), has_scale=booleans()),
    groups=sampled_from([(1, 1, "best_two"), (2, 1, "best_two"), (4, 2, "best_two"), (4, 2, "best")]),
)
_MIXTURES = builds(
    lambda shared, is_gated, latent, **values: MoESpec(
        shared=shared[0],
        has_shared_gate=shared[1] == "gated",
        has_own_norms=shared[1] == "normed",
        latent=None if shared[1] == "normed" else latent,
        is_gated=is_gated or isinstance(values["activation"], ClampedSwiGLU),
        **values,
    ),
    num_experts=just(EXPERTS),
    hidden=just(HIDDEN // 2),
    router=ROUTERS,
    activation=_ACTIVATIONS | builds(ClampedSwiGLU, alpha=just(1.7), limit=sampled_from([0.3, 7.0])),
    is_gated=booleans(),
    latent=none() | just(20),
    bias=booleans(),
    shared=just((None, "plain")) | st.tuples(_SHARED, sampled_from(["plain", "gated", "normed"])),
)


def _fitting(mlp: MLPSpec | MoESpec, *, is_parallel: bool, has_mlp: bool) -> MLPSpec | MoESpec | None:
    """Return the feed-forward block as such a layer may have it."""
    if not has_mlp and not is_parallel:
        return None
    return replace(mlp, has_own_norms=False) if isinstance(mlp, MoESpec) and is_parallel else mlp


_LAYERS = builds(
    lambda place, mlp, has_mlp, skips_norm, **values: LayerSpec(
        norm_place=place[0],
        is_parallel=place[1] > 0,
        has_two_norms=place[1] > 1,
        mlp=_fitting(mlp, is_parallel=place[1] > 0, has_mlp=has_mlp),
        skips_attention_norm=skips_norm and place in (("pre", 0), ("sandwich", 0)),
        **values,
    ),
    attention=_ATTENTIONS | _LATENTS,
    mlp=_MLPS | _MIXTURES,
    has_mlp=sampled_from([True, True, False]),
    skips_norm=booleans(),
    place=st.tuples(sampled_from(get_args(NormPlace)), just(0)) | sampled_from([("pre", 1), ("pre", 2)]),
    residual_multiplier=sampled_from([1.0, 0.5]),
    has_output_scale=booleans(),
)
_NORMS = builds(
    lambda kind, **values: NormSpec(kind=kind[0], has_bias=kind[1], **values),
    kind=st.tuples(sampled_from(get_args(NormKind)), just(False))
    | sampled_from([("layer", True), ("layer_plus_one", True)]),
    eps=sampled_from([1e-6, 0.1]),
    has_scale=booleans(),
)
SPECS: SearchStrategy[DecoderSpec] = builds(
    lambda head, **values: DecoderSpec(tie_embeddings=head == "tied", has_head_bias=head == "biased", **values),
    head=sampled_from(["tied", "own", "biased"]),
    architecture_name=just("Random"),
    vocab_size=just(VOCAB),
    width=just(WIDTH),
    max_position_embeddings=just(128),
    norm=_NORMS,
    layers=st.lists(_LAYERS, min_size=1, max_size=2).map(tuple),
    embedding_multiplier=sampled_from([1.0, 3.0]),
    embedding_norm=none() | builds(NormSpec, eps=just(0.1), has_scale=booleans()),
    logits_multiplier=sampled_from([1.0, 0.4]),
    logits_softcap=none() | just(2.0),
    layer_inputs=none() | builds(LayerInputSpec, width=just(6), vocab_size=just(VOCAB), activation=_ACTIVATIONS),
)
