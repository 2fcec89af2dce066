"""The decoder over real pages, held to transformers on tiny random weights. The bound is issue 2's: 1e-4.

Whole prompts run operation by operation: cases of equal shapes then share what is compiled, and one costs a fifth.
What the compiler makes of whole programs is seen in chunks, here and in tests/engine/test_model_families.py for every
family.
"""

from functools import cache

import jax
import numpy as np
import pytest

from jaxserve.attention import BACKENDS
from jaxserve.models import registry
from tests import oracle
from tests.models import plain_decoder
from tests.models.cases import CASES
from tests.models.paged import Paged, place
from tests.models.tiny import random_weights
from tests.models.torch_model import TorchModel

TOKENS = np.random.default_rng(1).integers(0, 272, 100).tolist()
TOLERANCE = 1e-4
ORACLE_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
CHUNKED = [
    "llama 3: shared keys, llama3 positions, tied",
    "ministral3: queries of later positions are sharper",
    "qwen2 with windows in some layers",
    "gemma2: windows in every other layer, soft caps",
    "gemma3: two rotations",
    "gemma4: two sizes of heads, keys that are values, experts beside a dense block",
    "gemma4 e2b: inputs of the layers, keys of other layers, wider blocks",
    "olmo2: norms behind the blocks",
    "granite: multipliers",
    "smollm3 with windows where nothing rotates",
    "stablelm: a quarter of each head rotates",
    "starcoder2: biases, no gate, a window",
    "phi4-mini: longrope over the trained length, part of a head",
    "deepseek v2: latent attention, groups by their best expert, yarn scales scores",
    "lfm2 with biases, a kernel of four, a final width",
    "qwen3 next: the gated delta rule, a dense layer",
    "kimi linear: a decay for every number of a key, latents that do not rotate",
    "granite 4 without experts, transformers 4",
    "falcon-h1: mamba-2 beside attention, multipliers",
    "nemotron-h: blocks in a row, experts without gates",
]


@cache
def expected_of(name: str):
    """A config, its weights, and what transformers makes of them."""
    config = CASES[name]
    weights = random_weights(config, seed=3)
    return config, weights, TorchModel(config, weights).logits(TOKENS)


@pytest.mark.parametrize("name", CASES)
def test_whole_prompt_matches_transformers(name):
    config, weights, expected = expected_of(name)
    with jax.disable_jit():
        (logits,) = Paged.of(config, weights).feed(TOKENS)
    assert np.abs(logits - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_the_plain_decoder_matches_transformers(name):
    config, weights, expected = expected_of(name)
    spec = registry.find_architecture(config).spec(config)
    assert np.abs(plain_decoder.compute_logits(spec, place(config, weights), TOKENS) - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_and_single_tokens_match_transformers(name):
    config, weights, expected = expected_of(name)
    paged = Paged.of(config, weights, backend="cpu")
    parts = [paged.feed(TOKENS[:33], columns=64), paged.feed(TOKENS[33:91], columns=64)]
    parts += [paged.feed([token]) for token in TOKENS[91:]]
    logits = np.concatenate([logits for (logits,) in parts])
    assert np.abs(logits - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["model_type"] in ORACLE_MODEL_TYPES])
def test_the_oracle_matches_transformers(name):
    config, weights, expected = expected_of(name)
    assert np.abs(oracle.logits(config, weights, TOKENS) - expected).max() < TOLERANCE


@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"tpu", "mosaic"}))  # which need a TPU
def test_rows_of_different_lengths_do_not_meet(backend):
    config, weights, expected = expected_of("mistral with a window")
    shorter, whole, shortest = Paged.of(config, weights, rows=3, backend=backend).feed(TOKENS[:50], TOKENS, TOKENS[:3])
    for logits in (shorter, whole, shortest):
        assert np.abs(logits - expected[: len(logits)]).max() < TOLERANCE


def test_the_oracle_continues_as_transformers_generates():
    config = CASES["mistral with a window"]
    weights = random_weights(config, seed=3)
    expected = TorchModel(config, weights).greedy(TOKENS[:20], 8)
    assert oracle.greedy(config, weights, TOKENS[:20], 8) == expected
