"""Every family on four devices has the logits of one: its tiny checkpoint, with sizes that four can divide."""

import numpy as np
import pytest

from tests.models.tiny import FAMILIES, load_script
from tests.parallel.eight_devices.models import Prefill

NUM_TOKENS = 40
token_T = np.random.default_rng(0).integers(0, 256, NUM_TOKENS).astype(np.int32)
script = load_script("make_tiny_model")


@pytest.mark.parametrize("family", FAMILIES)
def test_four_devices_are_one(family, tmp_path):
    more_heads = {"linear_num_key_heads": 4} if "linear_num_key_heads" in script.tiny_config(family) else {}
    directory = script.write(tmp_path / "model", family, seed=5, **more_heads)
    one, four = (Prefill(directory, NUM_TOKENS, tensor_parallel_size=size).logits(token_T) for size in (1, 4))
    np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-4)
