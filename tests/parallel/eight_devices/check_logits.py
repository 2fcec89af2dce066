"""Several devices give the logits of one, and exchange what the network's design says and nothing else."""

from collections import Counter
from functools import cache

import jax
import numpy as np
import pytest

from tests.parallel.eight_devices.models import FAMILIES, Prefill, list_collectives, write

NUM_TOKENS = 40  # more than the window of 20
# A sum after the embedding and two a layer; where norms are over all heads, the means of queries and keys together;
# where experts and a dense block have norms of their own, a sum of each, which XLA makes one exchange.
NUM_SUMS = {"llama": 5, "gemma3": 5, "olmo2": 7, "qwen3_moe": 5, "starcoder2": 5, "minicpm3": 5, "gpt_oss": 5}
NUM_SUMS |= {"gemma4": 5, "granitemoehybrid": 6}  # the norm of Mamba-2 has a sum, too
NUM_SUMS |= {"gemma4_e2b": 9}  # two a layer of four, and the two embeddings are one exchange
MIXTURES = ("gpt_oss", "gemma4")
FEW_SIZES = (*MIXTURES, "gemma4_e2b")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")

    @cache
    def make(family: str, size: int, has_expert_parallelism: bool = False, kv_cache_dtype: str = "auto") -> Prefill:
        sizes = {"tensor_parallel_size": size, "enable_expert_parallel": has_expert_parallelism}
        sizes |= {"kv_cache_dtype": kv_cache_dtype}
        return Prefill(write(root / family, family), NUM_TOKENS, **sizes)

    return make


CASES = [(family, size, False) for family in FAMILIES if family not in FEW_SIZES for size in (2, 4, 8)]
CASES += [("qwen3_moe", size, True) for size in (2, 4, 8)]
CASES += [(family, 2, splits_experts) for family in MIXTURES for splits_experts in (False, True)]
CASES += [("gemma4_e2b", size, False) for size in (2, 8)]
token_T = np.random.default_rng(0).integers(0, 256, NUM_TOKENS).astype(np.int32)


@pytest.fixture(scope="module")
def expected(make):
    return cache(lambda family: make(family, 1).logits(token_T))


@pytest.mark.parametrize(("family", "size", "has_expert_parallelism"), CASES)
def test_logits_are_those_of_one_device(make, expected, family, size, has_expert_parallelism):
    logits = make(family, size, has_expert_parallelism).logits(token_T)
    np.testing.assert_allclose(logits, expected(family), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "size", "has_expert_parallelism"), CASES)
def test_collectives_are_sums_of_activations(make, family, size, has_expert_parallelism):
    """Nothing as large as the pages or the logits is exchanged: no more than the activations of the tokens."""
    found = list_collectives(make(family, size, has_expert_parallelism).program)
    has_whole_groups = family == "granitemoehybrid" and size == 2
    assert Counter(op for op, _ in found) == {"all-reduce": NUM_SUMS[family] - has_whole_groups}
    assert max(elements for _, elements in found) == NUM_TOKENS * 64


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8"])
def test_each_device_has_the_8_bit_numbers_and_the_scales_of_its_own_heads(make, kv_cache_dtype):
    """The logits are those of one device, but for numbers that lie between two codes."""
    one, four = (make("olmo2", size, kv_cache_dtype=kv_cache_dtype) for size in (1, 4))
    ours = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(four.pages)]
    assert ours == [leaf.nbytes // 4 for leaf in jax.tree.leaves(one.pages)]
    np.testing.assert_allclose(four.logits(token_T), one.logits(token_T), rtol=0, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_holds_its_part_of_the_weights_alone(make, family):
    """What is not split are norms and routers, less than a twentieth; key heads are repeated."""
    assert make(family, 2).weight_bytes < 0.55 * make(family, 1).weight_bytes
