"""The decoder computes what its spec says: every field alone, and random specs, held to plain numpy.

Families use some of the fields and are held to transformers; here are all of them, those that wait for a family, too.
The decoder runs operation by operation: a hundred specs would be compiled for minutes, and what the compiler makes of
them is seen by the families' tests.
"""

import functools
import math
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from jaxserve.layers.mlp import ClampedSwiGLU
from jaxserve.layers.moe import MOE_NORMS, RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.models import registry
from jaxserve.models.cost import decoder_cost
from jaxserve.models.family import EXPERTS, LATENT, SANDWICH, DecoderFamily, named
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec, MoESpec
from tests.models import plain_decoder
from tests.models.paged import Paged
from tests.models.specs import (
    CHANGES,
    PLAIN,
    PLAIN_ATTENTION,
    PLAIN_BASES,
    SIZES,
    SPECS,
    change,
    random_params,
)

CLAMPED = ClampedSwiGLU(alpha=1.7, limit=0.3)
LATENT_LAYERS = PLAIN_BASES[LatentAttentionSpec].layers
TOKENS = np.random.default_rng(1).integers(0, PLAIN.vocab_size, 24).tolist()
TOLERANCE = 1e-4
SWITCHED = [(kind, values) for kind, changes in CHANGES.items() for values in changes]
IDS = [f"{kind.__name__}-{'-'.join(f'{name}={value}' for name, value in values.items())}" for kind, values in SWITCHED]
MODULES = (
    "expert_gate_bias",
    "expert_up_bias",
    "expert_down_bias",
    "xielu",
    "sinks",
    "output_gate",
    "correction_bias",
    "shared_gate",
    "shared_mlp_gate",
    "shared_mlp_up",
    "shared_mlp_down",
    "value_norm",
    "output_scale",
    "router_norm",
    "latent_down",
    "latent_up",
    "expert_scale",
    "input_gate",
    "input_projection",
    "input_norm",
    *MOE_NORMS,
)
EVERY_MODULE = named(
    SANDWICH
    | EXPERTS
    | LATENT
    | {"query": "self_attn.q_proj", "query_norm": "self_attn.q_norm"}
    | {module: f"mlp.{module}" for module in MODULES}
)
RANDOM = settings(  # what fails is as clear as it gets: a smaller example would take minutes to find
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow],
)


def compute(spec: DecoderSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the decoder's logits for TOKENS, and those of plain numpy."""
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    params = random_params(shapes)
    with jax.disable_jit():
        (logits,) = Paged(spec, {path: jnp.asarray(value) for path, value in params.items()}, capacity=32).feed(TOKENS)
    return logits, plain_decoder.compute_logits(spec, params, TOKENS)


@functools.cache
def compute_plain(spec: DecoderSpec) -> np.ndarray:
    return compute(spec)[1]


@pytest.mark.parametrize(("kind", "values"), SWITCHED, ids=IDS)
def test_each_field_alone_does_what_it_says(kind, values):
    plain = PLAIN_BASES.get(kind, PLAIN)
    logits, expected = compute(change(plain, kind, values))
    assert np.abs(logits - expected).max() < TOLERANCE
    assert np.abs(expected - compute_plain(plain)).max() > 100 * TOLERANCE, "this change does not show"


def test_every_field_of_every_spec_is_changed_above():
    changed = {(kind, name) for kind, values in SWITCHED for name in values}
    assert changed | SIZES == {(kind, field.name) for kind in CHANGES for field in fields(kind)}


@RANDOM
@given(spec=SPECS)
def test_fields_together_do_what_they_say(spec):
    logits, expected = compute(spec)
    assert np.abs(logits - expected).max() < TOLERANCE


@RANDOM
@given(spec=SPECS)
def test_every_leaf_is_loaded_and_counted(spec):
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    params = DecoderFamily(lambda config: spec, EVERY_MODULE).params(spec)
    assert {path: param.shape for path, param in params.items()} == {path: leaf.shape for path, leaf in shapes.items()}
    sources = [(source.name, source.rows) for param in params.values() for source in param.origins[0].sources]
    assert len(set(sources)) == len(sources)
    cost = decoder_cost(spec)
    sizes = {path: math.prod(param.shape) for path, param in params.items()}
    assert cost.unpacked == sum(size for path, size in sizes.items() if path[-1] in ("key_up", "value_up"))
    assert cost.body - cost.unpacked == sum(size for path, size in sizes.items() if path[-1] == "kernel")
    assert sum(each.num_layers * each.num_experts * each.weights for each in cost.experts) == sum(
        size for path, size in sizes.items() if "experts" in path and not str(path[-1]).endswith("_bias")
    )
    assert cost.head == sizes["embed", "table"]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DecoderSpec, {"has_head_bias": True, "tie_embeddings": True}, "has_head_bias is True with tie"),
        (DecoderSpec, {"is_bidirectional": True, "layers": LATENT_LAYERS}, "is_bidirectional is True with layers that"),
        (LayerSpec, {"has_two_norms": True}, "has_two_norms is True without"),
        (LayerSpec, {"attention": SharedKeysSpec(attention=PLAIN_ATTENTION, layer=0)}, "layer 0 reads keys of layer 0"),
        (LayerSpec, {"is_beside_previous": True}, "layer 0 is beside the previous one"),
        (LayerSpec, {"skips_attention_norm": True, "norm_place": "post"}, "skips_attention_norm is True; it needs"),
        (LayerSpec, {"skips_attention_norm": True, "is_parallel": True}, "skips_attention_norm is True; it needs"),
        (LayerSpec, {"mlp": None, "is_parallel": True}, "is_parallel is True without a feed-forward block"),
        (MLPSpec, {"is_gated": False, "gate_multiplier": 0.5}, "gate_multiplier is 0.5 without a gate"),
        (MoESpec, {"is_gated": False, "activation": CLAMPED}, "is_gated is False with a clamped activation"),
        (MLPSpec, {"activation": "xielu"}, "shared.activation is 'xielu'"),
        (NormSpec, {"has_bias": True}, "has_bias is True with kind 'rms'"),
        (AttentionSpec, {"norms_after_rope": True, "qk_norm": "full"}, "norms_after_rope is True with qk_norm 'full'"),
        (AttentionSpec, {"head_norm": NormSpec(1.0), "qk_norm": "full"}, "head_norm is given with qk_norm 'full'"),
        (AttentionSpec, {"value_dim": 9}, "value_dim is 9"),
        (AttentionSpec, {"value_dim": 6, "keys_are_values": True}, "value_dim is 6"),
        (RouterSpec, {"score": "near_best", "has_correction_bias": True}, "score is 'near_best' with"),
        (LayerSpec, {"is_parallel": True, "norm_place": "post"}, "is_parallel is True with norm_place 'post'"),
        (MoESpec, {"has_shared_gate": True, "shared": None}, "has_shared_gate is True without"),
        (MoESpec, {"has_own_norms": True, "shared": None}, "has_own_norms is True; it needs a shared block"),
        (MoESpec, {"has_own_norms": True, "has_shared_gate": True}, "has_own_norms is True; it needs a shared block"),
        (MoESpec, {"has_own_norms": True, "latent": 20}, "has_own_norms is True with latent 20"),
        (MoESpec, {"router": RouterSpec(top_k=9)}, "top_k is 9"),
        (MoESpec, {"router": RouterSpec(top_k=3, num_groups=4)}, "top_k is 3"),
        (MoESpec, {"router": RouterSpec(top_k=1, num_groups=8)}, "num_groups is 8"),
        (MoESpec, {"router": RouterSpec(top_k=1, num_groups=3)}, "num_groups is 3"),
    ],
)
def test_a_spec_that_nothing_computes_is_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        change(PLAIN, kind, values)
