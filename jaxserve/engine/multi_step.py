"""Decode steps of several tokens in one program: a loop on the device, without the host between two tokens.

Between two tokens the loop does what two steps do: `forward` and `sample_tokens` are those of one step, so every row
gets the tokens that it gets one by one. A row ends as on the host, at its length or at a token that ends it; the loop
ends with the last row. vLLM called this multi-step scheduling (--num-scheduler-steps).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.cache.pages import ModelPages
from jaxserve.engine.device_state import RowState
from jaxserve.engine.step import ModelContext, forward, sample_tokens
from jaxserve.engine.step_inputs import InputLayout, SampleInputs
from jaxserve.layers.adapted import FactorStacks
from jaxserve.layers.quant import PackedWeight
from jaxserve.sampling.packed_output import Columns, PackedOutput, list_columns
from jaxserve.sampling.penalties import PenaltyState, num_words
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

NO_LOGPROBS = LogprobsConfig()


class _Loop(NamedTuple):
    """What one pass of the loop leaves to the next one.

    pages, rows, penalties   The device state.
    num_steps                int32, the number of passes so far.
    is_active_B              bool, the rows that need another token.
    token_BK                 int32, the tokens so far.
    count_B                  int32, the number of tokens of each row.
    """

    pages: ModelPages
    rows: RowState
    penalties: PenaltyState | None
    num_steps: Array
    is_active_B: Array
    token_BK: Array
    count_B: Array


def decode_steps(
    model: ModelContext,
    layout: InputLayout,
    num_tokens: int,
    mode: SampleMode,
    pages: ModelPages,
    weights: Sequence[Array | PackedWeight],
    rows: RowState,
    penalties: PenaltyState | None,
    buffer_X: Array,
    stacks: Sequence[FactorStacks] | None = None,
) -> tuple[ModelPages, RowState, PenaltyState | None, PackedOutput]:
    """Compute up to num_tokens tokens for each row, at least one. Donate pages, rows and penalties.

    The pages for all of them are in the page tables. The other arguments are those of `forward` and `sample_tokens`;
    no token is masked, and mode is below LOGPROBS. Returns the state, and an output with the columns of
    `list_multi_step_columns`; what is behind the tokens of a row has no meaning.
    """
    inputs, padding_row = layout.unpack(buffer_X), len(rows.length_R) - 1
    assert inputs.stops_BX is not None and mode < SampleMode.LOGPROBS
    row_B, end_B, stop_id_BS = inputs.row_B, inputs.stops_BX[:, 0], inputs.stops_BX[:, 1:]

    def needs_pass(loop: _Loop) -> Array:
        return (loop.num_steps == 0) | ((loop.num_steps < num_tokens) & jnp.any(loop.is_active_B))

    def run_pass(loop: _Loop) -> _Loop:
        pages, logits_BV, sample_inputs, _ = forward(model, layout, loop.pages, weights, loop.rows, buffer_X, stacks)
        # Between two programs there is a barrier, too: products and sampler round as they do there.
        logits_BV = jax.lax.optimization_barrier(logits_BV)
        # A row that has ended computes its newest token again, at the same position, until the loop ends; what is
        # sampled for it goes where padding goes.
        sample_inputs = replace(sample_inputs, row_B=jnp.where(loop.is_active_B, row_B, padding_row))
        if mode >= SampleMode.PROCESSORS:
            sample_inputs = _without_masks(sample_inputs, logits_BV.shape[1])
        rows, penalties, packed = sample_tokens(
            loop.rows,
            loop.penalties,
            logits_BV,
            sample_inputs,
            mode=mode,
            logprobs_config=NO_LOGPROBS,
            columns=list_columns(mode, NO_LOGPROBS, logits_BV.shape[1]),
            ranks=model.ranks,
        )
        token_B = packed.packed_BX[:, 0]
        has_all_B = sample_inputs.position_B + 1 >= end_B
        has_ended_B = has_all_B | (token_B < 0) | (token_B[:, None] == stop_id_BS).any(1)
        return _Loop(
            pages,
            rows,
            penalties,
            loop.num_steps + 1,
            loop.is_active_B & ~has_ended_B,
            loop.token_BK.at[:, loop.num_steps].set(token_B),
            loop.count_B + loop.is_active_B,
        )

    start = _Loop(
        pages,
        rows,
        penalties,
        num_steps=jnp.int32(0),
        is_active_B=row_B < padding_row,
        token_BK=jnp.zeros((len(row_B), num_tokens), jnp.int32),
        count_B=jnp.zeros(len(row_B), jnp.int32),
    )
    loop = jax.lax.while_loop(needs_pass, run_pass, start)
    packed_BX = jnp.concatenate([loop.token_BK, loop.count_B[:, None]], axis=1)
    return loop.pages, loop.rows, loop.penalties, PackedOutput(packed_BX, None)


def list_multi_step_columns(num_tokens: int) -> Columns:
    """Return the columns of the output of `decode_steps`."""
    return ("token_BK", num_tokens), ("count_B", 1)


def _without_masks(inputs: SampleInputs, num_columns: int) -> SampleInputs:
    """Return the inputs of mode PROCESSORS for rows that may sample any of so many tokens."""
    num_rows = len(inputs.row_B)
    return replace(
        inputs,
        mask_BM=jnp.full((num_rows, num_words(num_columns)), 0xFFFFFFFF, jnp.uint32),
        logprob_token_id_BI=jnp.zeros((num_rows, MAX_LOGPROB_TOKEN_IDS), jnp.int32),
    )
