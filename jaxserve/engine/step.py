"""The functions that run on the device: the forward pass, sampling, prompt log-probabilities, and small updates.

They are pure functions of arrays. Prefill and decode are one function of a flat batch of tokens, cut into rows. The
tokens of prompts come with the inputs, those of decode rows are on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention import AttentionBackend, AttentionInputs
from jaxserve.cache.groups import CacheGroup
from jaxserve.cache.pages import ModelPages
from jaxserve.engine.device_state import RowState, set_rows
from jaxserve.engine.step_inputs import LAST_TOKEN, InputLayout, SampleInputs, StepInputs
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.layers.adapted import AdapterLayout, FactorStacks
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.registry import abstract_decoder, merge_params
from jaxserve.models.routing import RoutedLayers
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import ONE_RANK, Ranks
from jaxserve.sampling.columns import unpack_columns
from jaxserve.sampling.logprobs import LogNormalizer, compute_logprobs
from jaxserve.sampling.packed_output import Columns, PackedOutput, pack_output
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
    weights     How the weights are passed.
    backend     The attention backend.
    page_size   The number of tokens of a page.
    groups      The cache groups of the layers.
    ranks       The ranks that hold the model together.
    adapters    How adapters are passed; None: there are none.
    routed      The layers whose choice of experts a forward pass returns; None: it returns none.
    """

    spec: DecoderSpec
    dtype: np.dtype
    weights: WeightLayout
    backend: AttentionBackend
    page_size: int
    groups: tuple[CacheGroup, ...]
    ranks: Ranks = ONE_RANK
    adapters: AdapterLayout | None = None
    routed: RoutedLayers | None = None

    def build_decoder(
        self,
        arguments: Sequence[Array | PackedWeight],
        stacks: Sequence[FactorStacks] | None = None,
        slot_T: Array | None = None,
    ) -> "Decoder":
        """Return the decoder with these weights.

        The module structure is built on the first call, while a program is traced: a start that loads all programs
        never builds it.

        stacks   The factors of all adapters, for tokens of which some have one.
        slot_T   The slots of the adapters of the tokens.
        """
        graphdef, _ = abstract_decoder(self.spec, self.dtype, self.ranks)
        weights = self.weights.unpack(arguments)
        if stacks is not None:
            assert self.adapters is not None and slot_T is not None
            weights |= self.adapters.adapt(weights, stacks, slot_T)
        return merge_params(graphdef, weights)


def forward(
    model: ModelContext,
    layout: InputLayout,
    pages: ModelPages,
    weights: Sequence[Array | PackedWeight],
    rows: RowState,
    buffer_X: Array,
    stacks: Sequence[FactorStacks] | None = None,
) -> tuple[Any, ...]:
    """Compute a step's tokens and write their keys and values into the pages. Donate pages.

    buffer_X holds StepInputs in this layout; stacks are the factors of adapters, where rows may have some. Returns the
    pages, logits_BV float32 of each row's last token, the sampler's inputs, hidden_TD of all tokens, and, if the model
    has `routed`, the chosen experts of all tokens, [T, R, K] of its dtype.
    """
    inputs = layout.unpack(buffer_X)
    decoder, flat, hidden_TD, pages, experts = run_decoder(model, inputs, pages, weights, rows, stacks)
    with jax.named_scope("logits"):
        logits_BV = _compute_logits(decoder, hidden_TD, flat)
    outputs = (pages, logits_BV, SampleInputs(inputs.row_B, flat.length_B, inputs.sampling_BS), hidden_TD)
    if model.routed is None:
        return outputs
    with jax.named_scope("routed_experts"):
        return *outputs, jnp.stack(experts, axis=1).astype(model.routed.dtype)


def run_decoder(
    model: ModelContext,
    inputs: StepInputs,
    pages: ModelPages,
    weights: Sequence[Array | PackedWeight],
    rows: RowState,
    stacks: Sequence[FactorStacks] | None = None,
) -> tuple["Decoder", "FlatBatch", Array, ModelPages, tuple[Array, ...]]:
    """Compute hidden_TD of a step's tokens and write their keys and values. Arguments are those of `forward`.

    Returns the decoder, the tokens as a flat batch, hidden_TD, the pages, and the experts as the decoder returns them.
    """
    with jax.named_scope("inputs"):
        flat = _flatten_rows(inputs, rows)

    def make_inputs(group: CacheGroup, page_table_BW: Array) -> AttentionInputs:
        if group.is_recurrent:
            slot_T = page_table_BW[flat.row_T, 0]
        else:
            page_index_T = jnp.minimum(flat.position_T // model.page_size, page_table_BW.shape[1] - 1)
            page_T = page_table_BW[flat.row_T, page_index_T]
            slot_T = page_T * model.page_size + flat.position_T % model.page_size
        return AttentionInputs(
            position_T=flat.position_T,
            slot_T=jnp.where(flat.is_real_T, slot_T, 0),
            page_table_BW=page_table_BW,
            length_B=flat.length_B,
            query_start_B1=flat.query_start_B1,
            max_queries_per_row=flat.max_queries_per_row,
        )

    by_group = list(map(make_inputs, model.groups, inputs.page_tables_BW))
    inputs_by_layer = tuple(by_group[group] for group, _ in pages.places)
    slot_T = None if inputs.adapter_slot_B is None else inputs.adapter_slot_B[flat.row_T]
    decoder = model.build_decoder(weights, stacks, slot_T)
    hidden_TD, pages, experts = decoder(
        flat.token_T, inputs_by_layer, pages, model.backend, returns_experts=model.routed is not None
    )
    return decoder, flat, hidden_TD, pages, experts


class FlatBatch(NamedTuple):
    """The tokens of a step, and the rows that they belong to, as the fields of AttentionInputs."""

    token_T: Array
    position_T: Array
    row_T: Array
    is_real_T: Array
    length_B: Array
    query_start_B1: Array
    max_queries_per_row: int


def _flatten_rows(inputs: StepInputs, rows: RowState) -> FlatBatch:
    """Give every token its position: the host's, or that of its row's newest token."""
    num_rows = len(inputs.row_B)
    row_B = jnp.arange(num_rows, dtype=jnp.int32)
    last_token_B, length_B = rows.last_token_R[inputs.row_B], rows.length_R[inputs.row_B]
    if inputs.token_T is None:
        is_real_B = inputs.row_B < len(rows.length_R) - 1
        query_start_B1 = jnp.minimum(jnp.arange(num_rows + 1, dtype=jnp.int32), is_real_B.sum(dtype=jnp.int32))
        return FlatBatch(
            last_token_B, length_B, row_B, is_real_B, jnp.where(is_real_B, length_B + 1, 0), query_start_B1, 1
        )
    assert inputs.query_start_B1 is not None and inputs.start_B is not None
    token_T, start_B, query_start_B1 = inputs.token_T, inputs.start_B, inputs.query_start_B1
    num_tokens = len(token_T)
    token_index_T = jnp.arange(num_tokens, dtype=jnp.int32)
    count_B = query_start_B1[1:] - query_start_B1[:-1]
    is_real_T = token_index_T < query_start_B1[-1]
    if num_tokens == num_rows:
        is_newest_T = token_T == LAST_TOKEN
        position_T = jnp.where(is_newest_T, length_B, start_B)
        token_T = jnp.where(is_newest_T, last_token_B, token_T)
        return FlatBatch(
            token_T, position_T, row_B, is_real_T, jnp.where(count_B > 0, position_T + 1, 0), query_start_B1, 1
        )
    row_T = (token_index_T[:, None] >= query_start_B1[1:-1]).sum(1, dtype=jnp.int32)
    position_T = start_B[row_T] + token_index_T - query_start_B1[row_T]
    length_B = jnp.where(count_B > 0, start_B + count_B, 0)
    return FlatBatch(token_T, position_T, row_T, is_real_T, length_B, query_start_B1, num_tokens)


def _compute_logits(decoder: "Decoder", hidden_TD: Array, flat: FlatBatch) -> Array:
    """Return the logits of each row's last token, float32 [B, V].

    Where one of several rows is real its logits are computed alone, as if there were no others: on a CPU the product
    with a vector takes half the time of that with a matrix.
    """
    if flat.max_queries_per_row == 1:
        return decoder.compute_logits(hidden_TD)
    hidden_BD = hidden_TD[jnp.maximum(flat.query_start_B1[1:] - 1, 0)]
    num_rows = len(hidden_BD)
    if num_rows == 1:
        return decoder.compute_logits(hidden_BD)
    return jax.lax.cond(
        flat.length_B[1] == 0,
        lambda: jnp.pad(decoder.compute_logits(hidden_BD[:1]), ((0, num_rows - 1), (0, 0))),
        lambda: decoder.compute_logits(hidden_BD),
    )


def sample_tokens(
    rows: RowState,
    penalties: PenaltyState | None,
    logits_BV: Array,
    inputs: SampleInputs,
    *,
    mode: SampleMode,
    logprobs_config: LogprobsConfig,
    columns: Columns,
    ranks: Ranks = ONE_RANK,
) -> tuple[RowState, PenaltyState | None, PackedOutput]:
    """Sample a token for each row and store it on the device as the row's newest token, with its position.

    Donate rows and penalties. penalties are needed from mode PROCESSORS on and None for lower modes. Logits, masks and
    penalties are the columns of one of the `ranks`. Returns the rows, the penalties and the sampler's output, which has
    these `columns`.
    """
    params, logits_inputs = unpack_columns(inputs.sampling_BS), None
    if penalties is not None:
        assert inputs.mask_BM is not None and inputs.logprob_token_id_BI is not None
        logits_inputs = LogitsInputs(
            penalties, inputs.row_B, inputs.mask_BM, inputs.logprob_token_id_BI, inputs.grammar_BM
        )
    with jax.named_scope("sample"):
        sampled = sample(
            logits_BV,
            params,
            inputs.position_B,
            logits_inputs,
            mode=mode,
            logprobs_config=logprobs_config,
            ranks=ranks,
        )
    token_B = jnp.maximum(sampled.token_B, 0)
    if penalties is not None:
        penalties = update_counts(penalties, inputs.row_B, token_B, params, ranks)
    return set_rows(rows, inputs.row_B, token_B, inputs.position_B), penalties, pack_output(sampled, columns)


def copy_pages(
    is_one_by_one: bool, pages: ModelPages, from_GN: tuple[Array, ...], to_GN: tuple[Array, ...]
) -> ModelPages:
    """Copy whole pages in every layer, those of its cache group. Donate pages.

    Padding pairs are zeros: page 0, which no sequence has, is copied onto itself. No page is copied from behind a copy
    into it, so pages may be copied in any way (cache/page_copies.py).

    is_one_by_one   Copy one page after another, and no padding. A CPU scatters number by number: of 8 pairs with one
                    page of 6 MiB to copy, 207 ms, and 1 ms one by one (2 cores). An accelerator runs kernels instead.
    """

    def scatter(group_pages: Any, from_N: Array, to_N: Array) -> Any:
        return jax.tree.map(lambda pages_PX: pages_PX.at[to_N].set(pages_PX[from_N]), group_pages)

    def copy_each(group_pages: Any, from_N: Array, to_N: Array) -> Any:
        def copy_one(pair: Array, group_pages: Any) -> Any:
            def copy_page(pages_PX: Array) -> Array:
                page_X = jax.lax.dynamic_index_in_dim(pages_PX, from_N[pair], keepdims=False)
                return jax.lax.dynamic_update_index_in_dim(pages_PX, page_X, to_N[pair], 0)

            return jax.tree.map(copy_page, group_pages)

        return jax.lax.fori_loop(0, jnp.sum(to_N > 0), copy_one, group_pages)

    copy = jax.named_scope("copy_pages")(copy_each if is_one_by_one else scatter)
    return replace(pages, groups=tuple(map(copy, pages.groups, from_GN, to_GN)))


def compute_prompt_logprobs(
    model: ModelContext,
    logprobs_config: LogprobsConfig,
    all_logprobs: bool,
    columns: Columns,
    weights: Sequence[Array | PackedWeight],
    hidden_TD: Array,
    target_T: Array,
) -> PackedOutput:
    """Compute the log-probability of target_T at each position, as if it had been sampled there.

    all_logprobs   Those of the whole vocabulary, too.
    columns        The columns of the output.

    The logits of a whole chunk would be large, so they are computed PROMPT_LOGPROBS_ROWS positions at a time.
    """
    decoder = model.build_decoder(weights)

    @jax.named_scope("prompt_logprobs")
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
    output = SamplerOutput(
        target_T, logprob_T, rank_T, top_id_TK, top_logprob_TK, all_logprob_BV=all_TV[0] if all_logprobs else None
    )
    return pack_output(output, columns)
