"""The functions that run on the device for models that pool: a decoder's chunks, and whole sequences of an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.cache.pages import ModelPages
from jaxserve.engine.device_state import RowState
from jaxserve.engine.step import FlatBatch, ModelContext, run_decoder
from jaxserve.engine.step_inputs import InputLayout
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.pooling_spec import PoolingSpec
from jaxserve.models.registry import abstract_encoder, merge_encoder

if TYPE_CHECKING:
    from jaxserve.models.decoder import Decoder

NUM_LENGTHS = 2  # columns of an encoder's inputs behind the tokens: the length, and where the second text begins


@dataclass(frozen=True)
class PoolingContext:
    """The static description of a model that pools.

    model     The model.
    pooling   What is made of its hidden vectors.
    """

    model: ModelContext
    pooling: PoolingSpec


def pool_chunks(
    context: PoolingContext,
    layout: InputLayout,
    pages: ModelPages,
    weights: Sequence[Array | PackedWeight],
    rows: RowState,
    buffer_X: Array,
) -> tuple[ModelPages, Array]:
    """Compute chunks of prompts, write their keys and values into the pages, and pool each row. Donate pages.

    buffer_X holds StepInputs in this layout. Returns the pages and float32 vectors: of each row, or with the kind all
    of each token. With the kind mean they are the sums of a chunk's vectors.
    """
    inputs = layout.unpack(buffer_X)
    decoder, flat, hidden_TD, pages = run_decoder(context.model, inputs, pages, weights, rows)
    with jax.named_scope("pool"):
        return pages, _pool_rows(context.pooling, decoder, flat, hidden_TD)


def _pool_rows(pooling: PoolingSpec, decoder: "Decoder", flat: FlatBatch, hidden_TD: Array) -> Array:
    if pooling.kind == "all":
        return hidden_TD.astype(jnp.float32)
    if pooling.kind == "mean":
        row_B = jnp.arange(len(flat.length_B), dtype=jnp.int32)
        is_own_BT = (flat.row_T == row_B[:, None]) & flat.is_real_T
        return jnp.where(is_own_BT[:, :, None], hidden_TD.astype(jnp.float32), 0).sum(1)
    if pooling.kind == "cls":
        return hidden_TD[flat.query_start_B1[:-1]].astype(jnp.float32)
    hidden_BD = hidden_TD[jnp.maximum(flat.query_start_B1[1:] - 1, 0)]
    if pooling.answer_ids is not None:
        return decoder.compute_token_logits(hidden_BD, jnp.asarray(pooling.answer_ids, jnp.int32))
    if decoder.score is not None:
        return decoder.score(hidden_BD).astype(jnp.float32)
    return hidden_BD.astype(jnp.float32)


def pool_sequences(context: PoolingContext, weights: Sequence[Array | PackedWeight], buffer_BX: Array) -> Array:
    """Compute whole sequences with an encoder, and pool each.

    buffer_BX   int32 [B, S + NUM_LENGTHS]: each row's tokens, its length, and the position from which its tokens are of
                the second type

    Returns float32 vectors [B, X], with the kind mean the sums of all vectors; or with the kind all [B, S, D].
    """
    model = context.model
    spec: Any = model.spec
    graphdef, _ = abstract_encoder(spec, model.dtype)
    encoder = merge_encoder(graphdef, model.weights.unpack(weights))
    token_BS, length_B, second_B = buffer_BX[:, :-NUM_LENGTHS], buffer_BX[:, -2], buffer_BX[:, -1]
    hidden_BSD = encoder(token_BS, length_B, second_B)
    with jax.named_scope("pool"):
        if encoder.head is not None:
            return encoder.head(hidden_BSD[:, 0]).astype(jnp.float32)
        hidden_BSD = hidden_BSD.astype(jnp.float32)
        match context.pooling.kind:
            case "all":
                return hidden_BSD
            case "cls":
                return hidden_BSD[:, 0]
            case "last":
                return jnp.take_along_axis(hidden_BSD, length_B[:, None, None] - 1, axis=1)[:, 0]
        is_real_BS = jnp.arange(token_BS.shape[1]) < length_B[:, None]
        return jnp.where(is_real_BS[:, :, None], hidden_BSD, 0).sum(1)
