"""The sampler on two and eight ranks: the tokens and ranks of one device from the same logits, by small exchanges."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.config import EngineConfig
from jaxserve.parallel.placement import choose_placements
from jaxserve.parallel.sharding import BY_VOCAB, WHOLE
from jaxserve.sampling import penalties
from jaxserve.sampling.columns import pack_params, unpack_columns
from jaxserve.sampling.sampler import LogitsInputs, LogprobsConfig, SampleMode, sample
from jaxserve.sampling_params import SamplingParams
from tests.parallel.eight_devices.models import list_collectives

ROWS, VOCAB, TOP, CANDIDATES = 24, 1024, 5, 8
EXACT = ("token_B", "rank_B", "top_id_BK", "candidate_id_BC")
PARAMS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 6},
    {"temperature": 1.3, "top_p": 0.6, "presence_penalty": 1.0},
    {"temperature": 1.0, "min_p": 0.1, "logit_bias": ((3, 4.0), (900, 5.0))},
]


def compile_sampler(size: int, mode: SampleMode):
    [placement] = choose_placements(EngineConfig(tensor_parallel_size=size))
    config = LogprobsConfig(TOP, "raw_logprobs", CANDIDATES)

    def run(logits_BV, columns_BS, position_B, state, mask_BM, id_BI):
        inputs = LogitsInputs(state, jnp.arange(ROWS), mask_BM, id_BI, mask_BM)
        params = unpack_columns(columns_BS)
        inputs = inputs if mode >= SampleMode.PROCESSORS else None
        return sample(logits_BV, params, position_B, inputs, mode=mode, logprobs_config=config, ranks=placement.ranks)

    specs = (BY_VOCAB, WHOLE, WHOLE, BY_VOCAB, BY_VOCAB, WHOLE)
    return placement.jit(run, specs, WHOLE).lower(*inputs(0)).compile()


def inputs(seed: int) -> tuple:
    """Random logits with equal ones among them, parameters, penalties and masks for all rows."""
    rng = np.random.default_rng(seed)
    logits_BV = np.round(rng.normal(size=(ROWS, VOCAB)) * 3, 1).astype(np.float32)
    columns = [pack_params(SamplingParams(**PARAMS[row % len(PARAMS)]), seed + row) for row in range(ROWS)]
    bias = [(3, 4.0), (900, 5.0)]
    rows = [penalties.build_row(*rng.integers(0, VOCAB, (2, 9)), bias, VOCAB) for _ in range(ROWS)]
    state = penalties.PenaltyState(*map(np.stack, zip(*rows, strict=True)))
    mask_BM = rng.integers(0, 2**32, (ROWS, VOCAB // 32), dtype=np.uint32)
    mask_BM[::2] = 0xFFFFFFFF
    ids = rng.integers(0, VOCAB, (ROWS, 3)).astype(np.int32)
    return logits_BV, np.stack(columns), rng.integers(0, 99, ROWS).astype(np.int32), state, mask_BM, ids


@pytest.mark.parametrize("mode", [SampleMode.GREEDY, SampleMode.SAMPLE, SampleMode.BEAM])
def test_every_token_is_that_of_one_device(mode):
    one, *several = (compile_sampler(size, mode) for size in (1, 2, 8))
    for seed in range(5):
        expected = jax.device_get(one(*inputs(seed)))
        for output in (jax.device_get(program(*inputs(seed))) for program in several):
            for name in EXACT:
                np.testing.assert_array_equal(getattr(output, name), getattr(expected, name), err_msg=name)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), output, expected)
    for program in several:
        sizes = [size for _, size in list_collectives(program)]
        assert (
            sizes and max(sizes) <= ROWS * CANDIDATES * 8
        )  # the best of every rank; the logits are four times as many
