"""A switch of the spec that is off leaves nothing in the program: no product with one, no sum with zero.

The decoder is written once for all families, so every family would pay for the switches of the others. What is counted
is the program before the compiler, which may or may not remove what does nothing: it would have been traced, lowered
and optimised at every start, and the bits of a product could depend on it. Attention is left out, since backends have
programs of their own; what they are told is looked at instead.
"""

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxserve.attention import AttentionInputs
from jaxserve.cache.pages import ModelPages
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.rope import RopeSpec
from jaxserve.models import registry
from jaxserve.models.attention_spec import AttentionSpec, QueryTemperature
from jaxserve.models.spec import DecoderSpec, LayerSpec, MLPSpec, MoESpec
from tests.models.specs import PLAIN, change
from tests.models.tiny import tiny_config

MOVES = {"broadcast_in_dim", "constant", "convert", "reshape", "return", "transpose"}
"""Operations that are not counted: they compute nothing."""
SIGMOID = Counter(negate=1, exponential=1, add=1, divide=1)
NORM = Counter(multiply=3, reduce=1, divide=1, add=1, rsqrt=1)
ROTATION = Counter(slice=2, concatenate=1, multiply=2, add=1)


class NoAttention:
    """Gives queries, keys and values back, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def write(self, pages: Any, key_TKH: jax.Array, value_TKH: jax.Array, slot_T: jax.Array) -> Any:
        return key_TKH, value_TKH

    def attend(self, query_TNH: jax.Array, pages: Any, inputs: AttentionInputs, **told: Any) -> jax.Array:
        self.told.append(told)
        return query_TNH


def count_operations(spec: DecoderSpec, backend: NoAttention | None = None) -> Counter[str]:
    """Return how often each operation is executed in a step outside of attention; a loop's body counts once."""
    graphdef, shapes = registry.abstract_decoder(spec, jnp.float32)
    ids_T, table_BW, length_B, start_B1 = (
        jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((4,), (2, 1), (2,), (3,))
    )

    no_pages = ModelPages(((None,) * spec.num_layers,), tuple((0, layer) for layer in range(spec.num_layers)))

    def step(leaves, token_T, inputs):
        model = registry.merge_params(graphdef, leaves)
        hidden_TD, pages, _ = model(token_T, (inputs,) * spec.num_layers, no_pages, backend or NoAttention())
        return model.compute_logits(hidden_TD), pages

    inputs = AttentionInputs(ids_T, ids_T, table_BW, length_B, start_B1, max_queries_per_row=2)
    text = jax.jit(step).lower(shapes, ids_T, inputs).as_text()
    bodies = dict(re.findall(r"func\.func \w+ @(\w+)(.*?)(?=func\.func|\Z)", text, re.DOTALL))

    def count(name: str) -> Counter[str]:
        body = bodies[name]
        operations = Counter(re.findall(r"(?<!applies )(?<!#)stablehlo\.(\w+)", body))
        return sum(map(count, re.findall(r"(?<!custom_)call @(\w+)", body)), operations)

    return Counter({name: times for name, times in count("main").items() if name not in MOVES})


def times(number: int, operations: Counter[str]) -> Counter[str]:
    return Counter({name: number * count for name, count in operations.items()})


def test_a_llama_computes_what_the_paper_says_and_nothing_else():
    config = tiny_config("llama")
    spec, backend = registry.find_architecture(config).spec(config), NoAttention()
    mlp = Counter(dot_general=3, multiply=2) + SIGMOID
    layer = Counter(dot_general=4, add=2) + times(2, NORM) + times(2, ROTATION) + mlp
    angles = Counter(multiply=1, cosine=1, sine=1, dot_general=2)
    expected = times(spec.num_layers, layer) + angles + NORM + Counter(gather=1, dot_general=1)
    assert count_operations(spec, backend) == expected
    assert all((told["window"], told["softcap"], told["sinks"]) == (None, None, None) for told in backend.told)


@pytest.mark.parametrize(
    ("kind", "values", "per_layer", "once"),
    [
        (DecoderSpec, {"embedding_multiplier": 3.0}, {}, {"multiply": 1}),
        (DecoderSpec, {"logits_multiplier": 0.4}, {}, {"multiply": 1}),
        (DecoderSpec, {"logits_softcap": 2.0}, {}, {"multiply": 1, "divide": 1, "tanh": 1}),
        (DecoderSpec, {"has_head_bias": True}, {}, {"add": 1}),
        (AttentionSpec, {"qkv_clip": 0.5}, {"maximum": 3, "minimum": 3}, {}),
        (LayerSpec, {"residual_multiplier": 0.5}, {"multiply": 2}, {}),
        (LayerSpec, {"norm_place": "sandwich"}, times(2, NORM), {}),
        (AttentionSpec, {"qkv_bias": True}, {"add": 3}, {}),
        (AttentionSpec, {"output_bias": True}, {"add": 1}, {}),
        (AttentionSpec, {"has_output_gate": True}, SIGMOID + Counter(dot_general=1, multiply=1), {}),
        (
            AttentionSpec,
            {"temperature": QueryTemperature(scale=0.5, interval=4.0)},
            {"add": 2, "divide": 1, "floor": 1, "log_plus_one": 1, "multiply": 2},
            {},
        ),
        (AttentionSpec, {"has_sinks": True, "softcap": 1.5, "window": 5}, {}, {}),
        (MLPSpec, {"bias": True}, {"add": 3}, {}),
        (MoESpec, {"has_shared_gate": True}, {}, SIGMOID + Counter(dot_general=1, multiply=1)),
        (RouterSpec, {"scale": 2.5}, {}, {"multiply": 1}),
        (RouterSpec, {"has_bias": True}, {}, {"add": 1}),
        (RouterSpec, {"has_correction_bias": True}, {}, {"add": 1}),
        (RouterSpec, {"input_norm": NormSpec(1e-5)}, {}, NORM + Counter(multiply=1)),
        (MoESpec, {"has_own_norms": True}, {}, times(3, NORM)),
        (LayerSpec, {"has_output_scale": True}, {"multiply": 1}, {}),
        (AttentionSpec, {"value_norm": NormSpec(1e-5, has_scale=False)}, NORM - Counter(multiply=1), {}),
    ],
)
def test_a_switch_adds_its_own_operations_alone(kind, values, per_layer, once):
    """What it adds when it is on is its formula, so nothing of it is there when it is off."""
    on, off = count_operations(change(PLAIN, kind, values)), count_operations(PLAIN)
    assert on - off == times(PLAIN.num_layers, Counter(per_layer)) + Counter(once)
    assert not off - on


def test_keys_that_are_values_are_projected_once():
    on, off = count_operations(change(PLAIN, AttentionSpec, {"keys_are_values": True})), count_operations(PLAIN)
    assert off - on == Counter(dot_general=PLAIN.num_layers)
    assert not on - off


def test_experts_with_a_scale_of_their_own_cost_a_look_up_and_a_product():
    on, off = count_operations(change(PLAIN, RouterSpec, {"has_expert_scale": True})), count_operations(PLAIN)
    assert (on - off)["gather"] == (on - off)["multiply"] == 1
    assert not off - on


def test_pairs_that_do_not_turn_cost_nothing():
    assert count_operations(change(PLAIN, RopeSpec, {"turning_pairs": 1})) == count_operations(PLAIN)
