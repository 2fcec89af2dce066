"""An adapter on several devices gives the logits of the model that it is merged into, with the sums of the model alone.

Its factors are split as the matrices are, and what each rank computes of a change is added to the matrix's own product
before that is summed.
"""

from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.parallel.eight_devices.models import PACKABLE, Prefill, keep_activations, list_collectives, write
from tests.weights.peft_writer import write_adapter

NUM_TOKENS, RANK, NUM_SLOTS, NUM_SUMS = 40, 5, 2, 5
token_T = np.random.default_rng(0).integers(0, 256, NUM_TOKENS).astype(np.int32)
CASES = [("llama", 2), ("llama", 8), ("gemma3", 4), ("minicpm3", 2), ("granitemoehybrid", 4), ("qwen3_moe", 8)]


def make_pair(root, family, **others):
    """Return a model, an adapter of it, and the model that they make together."""
    directory = write(root / family, family, **others)
    weights = load_file(directory / "model.safetensors")
    own = {name: value for name, value in weights.items() if ".experts." not in name and "kv_b_proj" not in name}
    written = write_adapter(root / "adapter", own, rank=RANK, seed=1)
    merged = write(root / "merged", family, **others)
    save_file(written.merge(weights), merged / "model.safetensors")
    return directory, (written.directory, 8, NUM_SLOTS), merged


@pytest.mark.parametrize(("family", "size"), CASES)
def test_logits_are_those_of_the_merged_model(tmp_path, family, size):
    directory, adapter, merged = make_pair(tmp_path, family)
    one, several = (
        Prefill(directory, NUM_TOKENS, adapter),
        Prefill(directory, NUM_TOKENS, adapter, tensor_parallel_size=size),
    )
    expected = Prefill(merged, NUM_TOKENS).logits(token_T)
    assert np.abs(Prefill(directory, NUM_TOKENS).logits(token_T) - expected).max() > 0.1
    np.testing.assert_allclose(one.logits(token_T), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(several.logits(token_T), expected, rtol=1e-4, atol=1e-4)
    sums = Counter(list_collectives(Prefill(directory, NUM_TOKENS, tensor_parallel_size=size).program))
    assert Counter(list_collectives(several.program)) == sums, "no exchange is larger, and there is none more"


def test_logits_on_packed_weights_are_those_of_one_device(tmp_path, monkeypatch):
    keep_activations(monkeypatch)
    directory, adapter, _ = make_pair(tmp_path, "llama", **PACKABLE["llama"])
    one, several = (
        Prefill(directory, NUM_TOKENS, adapter, quantization="int8", tensor_parallel_size=size) for size in (1, 4)
    )
    np.testing.assert_allclose(several.logits(token_T), one.logits(token_T), rtol=1e-4, atol=1e-4)
