"""The functions that run on the device for models that pool: a decoder's chunks, and whole sequences of an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention import AttentionBackend
from jaxserve.attention.whole import WholeSequences
from jaxserve.cache.pages import ModelPages
from jaxserve.engine.device_state import RowState
from jaxserve.engine.step import FlatBatch, ModelContext, run_decoder
from jaxserve.engine.step_inputs import InputLayout
from jaxserve.layers.dense import apply_dense
from jaxserve.layers.quant import PackedWeight
from jaxserve.models.pooling_spec import PoolingKind, PoolingSpec
from jaxserve.models.registry import abstract_encoder, merge_encoder
from jaxserve.models.spec import DecoderSpec

if TYPE_CHECKING:
    from flax.nnx import List

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
    of each token, behind the dense layers. With the kind mean they are the sums of a chunk's hidden vectors.
    """
    inputs = layout.unpack(buffer_X)
    decoder, flat, hidden_TD, pages, _ = run_decoder(context.model, inputs, pages, weights, rows)
    with jax.named_scope("pool"):
        return pages, _pool_rows(context.pooling, decoder, flat, hidden_TD)


def _pool_rows(pooling: PoolingSpec, decoder: "Decoder", flat: FlatBatch, hidden_TD: Array) -> Array:
    if pooling.kind == "all":
        return apply_dense(decoder.dense, hidden_TD)
    if pooling.kind == "mean":  # dense layers would need the mean of all chunks (engine/pooling_files.py)
        row_B = jnp.arange(len(flat.length_B), dtype=jnp.int32)
        is_own_BT = (flat.row_T == row_B[:, None]) & flat.is_real_T
        return jnp.where(is_own_BT[:, :, None], hidden_TD.astype(jnp.float32), 0).sum(1)
    if pooling.kind == "cls":
        return apply_dense(decoder.dense, hidden_TD[flat.query_start_B1[:-1]])
    hidden_BD = hidden_TD[jnp.maximum(flat.query_start_B1[1:] - 1, 0)]
    if pooling.answer_ids is not None:
        return decoder.compute_token_logits(hidden_BD, jnp.asarray(pooling.answer_ids, jnp.int32))
    return apply_dense(decoder.dense, hidden_BD)


def pool_sequences(context: PoolingContext, weights: Sequence[Array | PackedWeight], buffer_BX: Array) -> Array:
    """Compute whole sequences, in which every token sees all others, and pool each.

    buffer_BX   int32 [B, S + NUM_LENGTHS]: each row's tokens, its length, and the position from which its tokens are of
                the second type

    Returns float32 vectors [B, X], or with the kind all one of each token, [B, S, X].
    """
    token_BS, length_B, second_B = buffer_BX[:, :-NUM_LENGTHS], buffer_BX[:, -2], buffer_BX[:, -1]
    if isinstance(context.model.spec, DecoderSpec):
        dense, hidden_BSD = _run_bidirectional(context.model, weights, token_BS, length_B)
    else:
        dense, hidden_BSD = _run_encoder(context.model, weights, token_BS, length_B, second_B)
    with jax.named_scope("pool"):
        return apply_dense(dense, _pool_whole(context.pooling.kind, hidden_BSD.astype(jnp.float32), length_B))


def _run_encoder(
    model: ModelContext, weights: Sequence[Array | PackedWeight], token_BS: Array, length_B: Array, second_B: Array
) -> tuple["List", Array]:
    """Return the dense layers of an encoder, and hidden_BSD."""
    spec: Any = model.spec
    graphdef, _ = abstract_encoder(spec, model.dtype)
    encoder = merge_encoder(graphdef, model.weights.unpack(weights))
    return encoder.dense, encoder(token_BS, length_B, second_B)


def _run_bidirectional(
    model: ModelContext, weights: Sequence[Array | PackedWeight], token_BS: Array, length_B: Array
) -> tuple["List", Array]:
    """Return the dense layers of a decoder whose tokens see those behind them, too, and hidden_BSD."""
    decoder, (rows, length) = model.build_decoder(weights), token_BS.shape
    backend, num_layers = WholeSequences(length), model.spec.num_layers
    pages = ModelPages(((None,) * num_layers,), tuple((0, index) for index in range(num_layers)))
    inputs = (backend.make_inputs(length_B),) * num_layers
    # such decoders have layers of softmax attention alone, which call no more of a backend than this one has
    hidden_TD, *_ = decoder(token_BS.reshape(-1), inputs, pages, cast(AttentionBackend, backend))
    return decoder.dense, hidden_TD.reshape(rows, length, -1)


def _pool_whole(kind: PoolingKind, hidden_BSD: Array, length_B: Array) -> Array:
    match kind:
        case "all":
            return hidden_BSD
        case "cls":
            return hidden_BSD[:, 0]
        case "last":
            return jnp.take_along_axis(hidden_BSD, length_B[:, None, None] - 1, axis=1)[:, 0]
    is_real_BS = jnp.arange(hidden_BSD.shape[1]) < length_B[:, None]
    return jnp.where(is_real_BS[:, :, None], hidden_BSD, 0).sum(1) / length_B[:, None].astype(jnp.float32)
