"""Packed weights on several devices give the logits of one, with the collectives of plain weights.

Kernels round activations. A sum over ranks is made in another order than on one device, so now and then a number is
rounded to the code beside, which changes all that follows. Without this rounding logits are equal but for float32's.
"""

from collections import Counter

import jax
import numpy as np
import pytest

from jaxserve.errors import BadConfig
from jaxserve.layers.scaled_weight import LARGEST, ScaledForm, ScaledWeight, dequantize
from tests.parallel.eight_devices.models import PACKABLE, Prefill, keep_activations, list_collectives, write

NUM_TOKENS, NUM_SUMS = 40, 5  # a sum after the embedding, and two a layer
token_T = np.random.default_rng(0).integers(0, 256, NUM_TOKENS).astype(np.int32)
FAMILIES = [("llama", False), ("qwen3_moe", False), ("qwen3_moe", True)]


@pytest.fixture(params=FAMILIES, ids=["llama", "qwen3_moe", "qwen3_moe, whole experts"])
def make(request, tmp_path):
    family, has_expert_parallelism = request.param
    directory = write(tmp_path / family, family, **PACKABLE[family])

    def make(quantization: str, size: int, scaled: ScaledForm | None = None) -> Prefill:
        sizes = {"tensor_parallel_size": size, "enable_expert_parallel": has_expert_parallelism and size > 1}
        return Prefill(directory, NUM_TOKENS, scaled=scaled, quantization=quantization, **sizes)

    return make


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_logits_are_those_of_one_device_but_for_rounded_activations(make, quantization, monkeypatch):
    keep_activations(monkeypatch)
    expected = make(quantization, 1).logits(token_T)
    for size in (2, 4, 8):
        np.testing.assert_allclose(make(quantization, size).logits(token_T), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("quantization", "size", "form"),
    [
        ("int8", 8, ScaledForm()),
        ("fp8", 4, ScaledForm()),
        ("int4", 2, ScaledForm()),
        ("int4", 2, ScaledForm(has_kernel=True)),
    ],
)
def test_scaled_weights_give_the_logits_of_one_device_with_a_part_on_each(make, quantization, size, form):
    one, split = make(quantization, 1, form), make(quantization, size, form)
    for path, weight in one.leaves.items():
        for whole, part in zip(jax.tree.leaves(weight), jax.tree.leaves(split.leaves[path]), strict=True):
            if part.shape == whole.shape:  # key heads are repeated
                np.testing.assert_array_equal(np.asarray(part), np.asarray(whole), err_msg=str(path))
    assert split.weight_bytes < (1 / size + 0.15) * one.weight_bytes
    plain = make("none", 1).logits(token_T)
    logits = one.logits(token_T)
    np.testing.assert_allclose(split.logits(token_T), logits, rtol=1e-4, atol=1e-4)
    assert 0 < np.abs(logits - plain).mean() < np.abs(plain - np.roll(plain, 1, axis=1)).mean() / 2


def test_groups_are_small_enough_for_the_inputs_of_a_rank(make):
    plain, split = make("none", 1), make("int4", 8, ScaledForm())
    groups = {weight.group for weight in split.leaves.values() if getattr(weight, "kind", None) == "int4"}
    assert 32 in groups  # one device has 128
    for path, weight in split.leaves.items():
        if isinstance(weight, ScaledWeight) and weight.shape == plain.leaves[path].shape:  # key heads are repeated
            value = np.asarray(plain.leaves[path])
            step = np.abs(value).max() / LARGEST[weight.kind]
            np.testing.assert_allclose(np.asarray(dequantize(weight)), value, rtol=0, atol=0.501 * step)
    before, after = plain.logits(token_T), split.logits(token_T)
    assert 0 < np.abs(after - before).mean() < np.abs(before - np.roll(before, 1, axis=1)).mean() / 2


def test_inputs_of_a_rank_that_no_group_divides_are_refused(make):
    with pytest.raises(BadConfig, match=r"=8 leaves each device 32 of the 256 inputs of an int4 .* no multiple of 64"):
        make("int4", 8, ScaledForm(has_kernel=True))


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_kernels_give_the_logits_of_one_device_with_the_collectives_of_plain_weights(make, quantization):
    one, eight = make(quantization, 1), make(quantization, 8)
    found = list_collectives(eight.program)
    assert Counter(op for op, _ in found) == {"all-reduce": NUM_SUMS}
    assert max(elements for _, elements in found) == NUM_TOKENS * 64
    assert eight.weight_bytes < 0.25 * one.weight_bytes
    assert np.median(np.abs(eight.logits(token_T) - one.logits(token_T))) < 1e-3
