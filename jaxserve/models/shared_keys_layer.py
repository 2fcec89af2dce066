"""The block of attention to the keys and values of an earlier layer."""

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention import AttentionBackend, LayerPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.rope import apply_rope
from jaxserve.models.attention_layer import Rotation
from jaxserve.models.block_parts import make_linears, make_norms
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks


class SharedKeysLayer(nnx.Module):
    """Attention of one layer to keys and values that another layer has written in this step and before."""

    def __init__(
        self, spec: DecoderSpec, shared: SharedKeysSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        self.spec = shared.attention
        projections = make_linears(shared.projections(spec.width), "output", dtype=dtype, rngs=rngs, ranks=ranks)
        self.query, self.output = projections["query"], projections["output"]
        self.query_norm = make_norms(shared.norms(), spec.norm, dtype=dtype, ranks=ranks).get("query_norm")

    def __call__(
        self,
        x_TD: Array,
        rotation: Rotation,
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
    ) -> tuple[Array, LayerPages]:
        """Return the block's output [T, D] and the other layer's pages, as they came."""
        spec, tokens = self.spec, x_TD.shape[0]
        query_TNH = self.query(x_TD).reshape(tokens, -1, spec.head_dim)
        if self.query_norm is not None:
            query_TNH = self.query_norm(query_TNH)
        if spec.rope is not None:
            assert rotation is not None
            query_TNH = apply_rope(query_TNH, *rotation, is_interleaved=spec.rope.is_interleaved)
        mixed_TNH = backend.attend(
            query_TNH, pages, inputs, scale=spec.scale, window=spec.window, softcap=spec.softcap, sinks=None
        )
        return self.output(mixed_TNH.reshape(tokens, -1)), pages
