"""All that ever runs on the device: forward (prefill and decode), draw, score, small moves. Pure functions of arrays.

Prefill and decode are one function at two shapes: rows of C queries each, C = 1 in decode. What differs is
where the tokens come from: a prompt's are in the packed input, a decoding row's newest one is on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention import AttentionBackend, AttentionInputs, LayerPages
from jaxserve.engine.batch import COUNT, LAST_TOKEN, NUM_SAMPLER_COLUMNS, POSITION, ROW, SAMPLING, Layout
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.registry import abstract_decoder, merge_params
from jaxserve.models.spec import DecoderSpec
from jaxserve.sampling.columns import unpack_columns
from jaxserve.sampling.logprobs import LogNormalizer, compute_logprobs
from jaxserve.sampling.penalties import PenaltyState, update_counts
from jaxserve.sampling.sampler import LogitsInputs, LogprobsConfig, SampleMode, SamplerOutput, sample

if TYPE_CHECKING:
    from jaxserve.models.decoder import Decoder

PROMPT_LOGPROBS_ROWS = 64  # prompt positions whose logits exist at the same time


@dataclass(frozen=True)
class ModelContext:
    """What is static about the model: how leaves make a decoder, and how its attention works."""

    spec: DecoderSpec
    dtype: np.dtype
    paths: tuple[ParamPath, ...]
    backend: AttentionBackend
    page_size: int

    def build_decoder(self, leaves: Sequence[Array | PackedWeight]) -> "Decoder":
        """The structure is worked out when the first program is traced: a start that finds all programs traces none."""
        graphdef, _ = abstract_decoder(self.spec, self.dtype)
        return merge_params(graphdef, dict(zip(self.paths, leaves, strict=True)))


def forward(
    model: ModelContext,
    layout: Layout,
    leaves: Sequence[Array | PackedWeight],
    pages: tuple[LayerPages, ...],
    last_token_R: Array,
    packed_BX: Array,
) -> tuple[tuple[LayerPages, ...], Array, Array, Array]:
    """Computes a step's tokens, leaves their keys and values in the pages.

    packed_BX as batch.py says. Donate pages. Returns the pages, logits_BV float32 of each row's last query,
    hidden_TD of all queries, and the columns that `draw` needs.
    """
    queries = max(1, layout.num_tokens)
    row_B, start_B, count_B = packed_BX[:, ROW], packed_BX[:, POSITION], packed_BX[:, COUNT]
    table_BW = packed_BX[:, layout.page_table]
    newest_B1 = last_token_R[row_B][:, None]
    token_BC = packed_BX[:, layout.tokens] if layout.num_tokens else newest_B1
    if layout.num_tokens == 1:
        token_BC = jnp.where(token_BC == LAST_TOKEN, newest_B1, token_BC)

    column_C = jnp.arange(queries, dtype=jnp.int32)
    position_BC = start_B[:, None] + column_C
    real_BC = column_C < count_B[:, None]
    page_BC = jnp.take_along_axis(
        table_BW, jnp.minimum(position_BC // model.page_size, layout.max_pages_per_row - 1), axis=1
    )
    slot_BC = jnp.where(real_BC, page_BC * model.page_size + position_BC % model.page_size, 0)
    inputs = AttentionInputs(
        position_T=position_BC.ravel(),
        slot_T=slot_BC.ravel(),
        page_table_BW=table_BW,
        length_B=jnp.where(count_B > 0, start_B + count_B, 0),
    )
    decoder = model.build_decoder(leaves)
    hidden_TD, pages = decoder(token_BC.ravel(), inputs, pages, model.backend)
    last_B = jnp.arange(packed_BX.shape[0]) * queries + jnp.maximum(count_B, 1) - 1
    with jax.named_scope("logits"):
        logits_BV = decoder.compute_logits(hidden_TD[last_B])
    return pages, logits_BV, hidden_TD, packed_BX[:, :NUM_SAMPLER_COLUMNS]


def sample_tokens(
    last_token_R: Array,
    lines: PenaltyState | None,
    logits_BV: Array,
    head_BX: Array,
    mask_BM: Array | None,
    grammar_BM: Array | None,
    wanted_BI: Array | None,
    *,
    mode: SampleMode,
    logprobs_config: LogprobsConfig,
) -> tuple[Array, PenaltyState | None, SamplerOutput]:
    """Draws a token per row and keeps it on the device as the row's newest. Donate last_token_R and lines.

    lines, mask_BM and wanted_BI come from mode PROCESSORS on, grammar_BM from LOGPROBS on, and are None below.
    """
    row_B, rows = head_BX[:, ROW], unpack_columns(head_BX[:, SAMPLING:NUM_SAMPLER_COLUMNS])
    shape = None
    if lines is not None:
        assert mask_BM is not None and wanted_BI is not None
        shape = LogitsInputs(lines, row_B, mask_BM, wanted_BI, grammar_BM)
    position_B = head_BX[:, POSITION] + head_BX[:, COUNT]
    with jax.named_scope("sample"):
        sampled = sample(logits_BV, rows, position_B, shape, mode=mode, logprobs_config=logprobs_config)
    token_B = jnp.maximum(sampled.token_B, 0)
    if lines is not None:
        lines = update_counts(lines, row_B, token_B, rows)
    return last_token_R.at[row_B].set(token_B), lines, sampled


def set_last_tokens(last_token_R: Array, row_N: Array, token_N: Array) -> Array:
    """Makes tokens that the host has chosen the newest ones of their rows. Donate last_token_R."""
    return last_token_R.at[row_N].set(token_N)


def copy_pages(pages: tuple[LayerPages, ...], from_N: Array, to_N: Array) -> tuple[LayerPages, ...]:
    """Copies whole pages in every layer; pairs of zeros copy the page that is nobody's onto itself. Donate pages."""
    return jax.tree.map(lambda pages_PX: pages_PX.at[to_N].set(pages_PX[from_N]), pages)


def compute_prompt_logprobs(
    model: ModelContext,
    logprobs_config: LogprobsConfig,
    all_logprobs: bool,
    leaves: Sequence[Array | PackedWeight],
    hidden_TD: Array,
    next_T: Array,
) -> SamplerOutput:
    """Log-probabilities of next_T after each position, as if next_T had been drawn there; whole: of every token.

    The logits of a whole chunk would be large, so they are made a few positions at a time.
    """
    decoder = model.build_decoder(leaves)

    def some(block: tuple[Array, Array]) -> Any:
        hidden_SD, next_S = block
        logits_SV = decoder.compute_logits(hidden_SD)
        scores = compute_logprobs(
            logits_SV, next_S, max_logprobs=logprobs_config.max_logprobs, is_normalized=logprobs_config.is_normalized
        )
        if not all_logprobs:
            return scores
        return *scores, LogNormalizer.from_logits(logits_SV).normalize(
            logits_SV
        ) if logprobs_config.is_normalized else logits_SV

    rows = math.gcd(PROMPT_LOGPROBS_ROWS, len(next_T))
    blocks = (hidden_TD.reshape(-1, rows, hidden_TD.shape[-1]), next_T.reshape(-1, rows))
    logprob_T, rank_T, top_id_TK, top_logprob_TK, *all_TV = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(some, blocks)
    )
    return SamplerOutput(
        next_T, logprob_T, rank_T, top_id_TK, top_logprob_TK, all_logprob_BV=all_TV[0] if all_logprobs else None
    )
