"""The functions that run on the device: the forward pass, sampling, prompt log-probabilities, and small updates.

They are pure functions of arrays. Prefill and decode are one function at two shapes: rows of C queries each, C = 1 in
decode. The tokens of a prompt come with the packed input, those of decode rows are on the device.
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
from jaxserve.cache.groups import CacheGroup, index_groups
from jaxserve.engine.batch import COUNT, LAST_TOKEN, NUM_SAMPLER_COLUMNS, POSITION, ROW, SAMPLING, Layout
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.registry import abstract_decoder, merge_params
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import ONE_RANK, Ranks
from jaxserve.sampling.columns import unpack_columns
from jaxserve.sampling.logprobs import LogNormalizer, compute_logprobs
from jaxserve.sampling.penalties import PenaltyState, update_counts
from jaxserve.sampling.sampler import LogitsInputs, LogprobsConfig, SampleMode, SamplerOutput, sample

if TYPE_CHECKING:
    from jaxserve.models.decoder import Decoder

PROMPT_LOGPROBS_ROWS = 64  # prompt positions whose logits are in memory at the same time


@dataclass(frozen=True)
class ModelContext:
    """The static description of a model, from which `forward` builds the decoder while it is traced.

    spec        The architecture's sizes.
    dtype       The dtype of the activations.
    paths       The paths of the weights, in the order in which they are passed.
    backend     The attention backend.
    page_size   The number of tokens of a page.
    groups      The cache groups of the layers.
    ranks       The ranks that hold the model together.
    """

    spec: DecoderSpec
    dtype: np.dtype
    paths: tuple[ParamPath, ...]
    backend: AttentionBackend
    page_size: int
    groups: tuple[CacheGroup, ...]
    ranks: Ranks = ONE_RANK

    def build_decoder(self, leaves: Sequence[Array | PackedWeight]) -> "Decoder":
        """Return the decoder with these weights.

        The module structure is built on the first call, while a program is traced: a start that loads all programs
        never builds it.
        """
        graphdef, _ = abstract_decoder(self.spec, self.dtype, self.ranks)
        return merge_params(graphdef, dict(zip(self.paths, leaves, strict=True)))


def forward(
    model: ModelContext,
    layout: Layout,
    leaves: Sequence[Array | PackedWeight],
    pages: tuple[LayerPages, ...],
    last_token_R: Array,
    packed_BX: Array,
) -> tuple[tuple[LayerPages, ...], Array, Array, Array]:
    """Compute a step's tokens and write their keys and values into the pages. Donate pages.

    packed_BX is described in batch.py. Returns the pages, logits_BV float32 of each row's last query, hidden_TD of all
    queries, and the columns of packed_BX that `sample_tokens` needs.
    """
    num_rows, num_queries = packed_BX.shape[0], max(1, layout.num_tokens)
    assert 1 in (num_rows, num_queries)
    row_B, start_B, count_B = packed_BX[:, ROW], packed_BX[:, POSITION], packed_BX[:, COUNT]
    last_token_B1 = last_token_R[row_B][:, None]
    token_BC = packed_BX[:, layout.tokens] if layout.num_tokens else last_token_B1
    if layout.num_tokens == 1:
        token_BC = jnp.where(token_BC == LAST_TOKEN, last_token_B1, token_BC)

    query_C = jnp.arange(num_queries, dtype=jnp.int32)
    position_BC = start_B[:, None] + query_C
    is_real_BC = query_C < count_B[:, None]
    page_index_BC = jnp.minimum(position_BC // model.page_size, layout.max_pages_per_row - 1)
    # Either one row with a chunk, or rows of one query with the padding at the end.
    query_start_B1 = jnp.minimum(jnp.arange(num_rows + 1, dtype=jnp.int32) * num_queries, count_B.sum())

    def make_inputs(page_table_BW: Array) -> AttentionInputs:
        page_BC = jnp.take_along_axis(page_table_BW, page_index_BC, axis=1)
        slot_BC = jnp.where(is_real_BC, page_BC * model.page_size + position_BC % model.page_size, 0)
        return AttentionInputs(
            position_T=position_BC.ravel(),
            slot_T=slot_BC.ravel(),
            page_table_BW=page_table_BW,
            length_B=jnp.where(count_B > 0, start_B + count_B, 0),
            query_start_B1=query_start_B1,
            max_queries_per_row=num_queries,
        )

    inputs = [make_inputs(packed_BX[:, columns]) for columns in layout.page_tables]
    inputs_by_layer = tuple(inputs[group] for group in index_groups(model.groups))
    decoder = model.build_decoder(leaves)
    hidden_TD, pages = decoder(token_BC.ravel(), inputs_by_layer, pages, model.backend)
    last_query_B = jnp.arange(num_rows) * num_queries + jnp.maximum(count_B, 1) - 1
    with jax.named_scope("logits"):
        logits_BV = decoder.compute_logits(hidden_TD[last_query_B])
    return pages, logits_BV, hidden_TD, packed_BX[:, :NUM_SAMPLER_COLUMNS]


def sample_tokens(
    last_token_R: Array,
    penalties: PenaltyState | None,
    logits_BV: Array,
    column_BX: Array,
    mask_BM: Array | None,
    grammar_BM: Array | None,
    logprob_token_id_BI: Array | None,
    *,
    mode: SampleMode,
    logprobs_config: LogprobsConfig,
    ranks: Ranks = ONE_RANK,
) -> tuple[Array, PenaltyState | None, SamplerOutput]:
    """Sample a token for each row and store it on the device as the row's last token.

    Donate last_token_R and penalties. penalties, mask_BM and logprob_token_id_BI are needed from mode PROCESSORS on,
    grammar_BM from LOGPROBS on; they are None for lower modes. Logits, masks and penalties are the columns of one
    of the `ranks`. Returns last_token_R, the penalties and the sampler's output.
    """
    row_B, params = column_BX[:, ROW], unpack_columns(column_BX[:, SAMPLING:NUM_SAMPLER_COLUMNS])
    inputs = None
    if penalties is not None:
        assert mask_BM is not None and logprob_token_id_BI is not None
        inputs = LogitsInputs(penalties, row_B, mask_BM, logprob_token_id_BI, grammar_BM)
    position_B = column_BX[:, POSITION] + column_BX[:, COUNT]
    with jax.named_scope("sample"):
        sampled = sample(logits_BV, params, position_B, inputs, mode=mode, logprobs_config=logprobs_config, ranks=ranks)
    token_B = jnp.maximum(sampled.token_B, 0)
    if penalties is not None:
        penalties = update_counts(penalties, row_B, token_B, params, ranks)
    return last_token_R.at[row_B].set(token_B), penalties, sampled


def set_last_tokens(last_token_R: Array, row_N: Array, token_N: Array) -> Array:
    """Set the last tokens of rows to tokens that the host has chosen. Donate last_token_R."""
    return last_token_R.at[row_N].set(token_N)


def copy_pages(
    layer_groups: tuple[int, ...],
    pages: tuple[LayerPages, ...],
    from_GN: tuple[Array, ...],
    to_GN: tuple[Array, ...],
) -> tuple[LayerPages, ...]:
    """Copy whole pages in every layer, those of its cache group. Donate pages.

    Padding pairs are zeros: page 0, which no sequence has, is copied onto itself.
    """

    def copy(group: int, layer_pages: LayerPages) -> LayerPages:
        return jax.tree.map(lambda pages_PX: pages_PX.at[to_GN[group]].set(pages_PX[from_GN[group]]), layer_pages)

    return tuple(copy(group, layer_pages) for group, layer_pages in zip(layer_groups, pages, strict=True))


def compute_prompt_logprobs(
    model: ModelContext,
    logprobs_config: LogprobsConfig,
    all_logprobs: bool,
    leaves: Sequence[Array | PackedWeight],
    hidden_TD: Array,
    target_T: Array,
) -> SamplerOutput:
    """Compute the log-probability of target_T at each position, as if it had been sampled there.

    all_logprobs   Those of the whole vocabulary, too.

    The logits of a whole chunk would be large, so they are computed PROMPT_LOGPROBS_ROWS positions at a time.
    """
    decoder = model.build_decoder(leaves)

    def compute_block(block: tuple[Array, Array]) -> Any:
        hidden_SD, target_S = block
        logits_SV = decoder.compute_logits(hidden_SD)
        is_normalized = logprobs_config.is_normalized
        logprobs = compute_logprobs(
            logits_SV,
            target_S,
            max_logprobs=logprobs_config.max_logprobs,
            is_normalized=is_normalized,
            ranks=model.ranks,
        )
        if not all_logprobs:
            return logprobs
        return *logprobs, LogNormalizer.from_logits(logits_SV, model.ranks).normalize(
            logits_SV
        ) if is_normalized else logits_SV

    rows = math.gcd(PROMPT_LOGPROBS_ROWS, len(target_T))
    blocks = (hidden_TD.reshape(-1, rows, hidden_TD.shape[-1]), target_T.reshape(-1, rows))
    logprob_T, rank_T, top_id_TK, top_logprob_TK, *all_TV = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(compute_block, blocks)
    )
    return SamplerOutput(
        target_T, logprob_T, rank_T, top_id_TK, top_logprob_TK, all_logprob_BV=all_TV[0] if all_logprobs else None
    )
