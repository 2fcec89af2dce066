"""--hf-overrides: the operator's keys over those of config.json."""

import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from jaxserve.engine.opened_model import merge_overrides
from jaxserve.errors import UnknownArchitecture


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": {"b": 1}, "c": 1}, {"a": 2, "c": None}, {"a": 2}),
    ],
)
def test_keys_are_laid_over_level_by_level(below: dict, above: dict, merged: dict) -> None:
    before = repr(below)
    assert merge_overrides(below, above) == merged
    assert repr(below) == before


def test_a_longer_context_by_an_overridden_rope_is_served_and_an_unknown_key_refused(tiny_model) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "low_freq_factor": None, "high_freq_factor": None}
    small = {"model": str(tiny_model), "max_num_seqs": 1, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 300}
    built = build(EngineConfig(**small, hf_overrides={"rope_parameters": rope, "max_position_embeddings": 2048}))
    built.engine.close()
    assert built.spec.max_position_embeddings == 2048
    ropes = {layer.attention.rope for layer in built.spec.layers}
    assert {type(rope.scaling).__name__ for rope in ropes} == {"YarnScaling"}
    with pytest.raises(UnknownArchitecture, match="rope_type"):
        build(EngineConfig(**small, hf_overrides={"rope_parameters": {"rope_type": "odd"}}))
