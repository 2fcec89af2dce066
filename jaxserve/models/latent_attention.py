"""The block of latent attention: heads attend to the cached latents themselves, and no key or value is made.

A head's score is q · (K c) for its matrix K and a cached latent c, which is (Kᵀ q) · c; its output is V times the
weighted sum of latents. So K is multiplied with the query and V with the sum, once a token of the step, whatever the
number of cached tokens ("absorbed" matrices, arXiv 2405.04434, section 2.1).

Decode has no other way: to make keys and values again would cost 2 · latent · (plain + value) operations a head and
cached position, 262,144 in DeepSeek-V3 (latent 512, 128 plain, 64 rotating, 128 of a value), against 2,176 for a query
that attends to the latent, 2 · (576 + 512). A query that attends to made keys and values costs 640, 2 · (192 + 128), so
a chunk would have to be longer than 262,144 / (2,176 - 640) = 171 tokens of one prompt for that to be cheaper; at 2,048
tokens it would be 2.8 times less work in attention. It is left out until prefill of long prompts is found to be slow:
it needs the keys and values of all heads for a block of positions at a time, and a second program of attention.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention import AttentionBackend, LayerPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.linear import apply_linears, matmul_precision
from jaxserve.layers.rope import apply_rope
from jaxserve.models.attention_layer import Rotation
from jaxserve.models.block_parts import make_linears, make_norms
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks


class LatentAttentionLayer(nnx.Module):
    """Latent attention of one layer. ranks: each has some heads; the latent is whole on every rank."""

    def __init__(
        self, spec: DecoderSpec, attention: LatentAttentionSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        self.spec = attention
        projections = make_linears(attention.projections(spec.width), "output", dtype=dtype, rngs=rngs, ranks=ranks)
        self.query, self.query_down = projections.get("query"), projections.get("query_down")
        self.query_up = projections.get("query_up")
        self.latent, self.output = projections["latent"], projections["output"]
        norms = make_norms(attention.norms(), spec.norm, dtype=dtype, ranks=ranks)
        self.query_norm, self.latent_norm = norms.get("query_norm"), norms["latent_norm"]
        shapes = {array.name: array.shape for array in attention.arrays()}
        self.key_up = nnx.Param(0.02 * rngs.params.normal(shapes["key_up"], dtype))
        self.value_up = nnx.Param(0.02 * rngs.params.normal(shapes["value_up"], dtype))

    def __call__(
        self,
        x_TD: Array,
        rotation: Rotation,
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
    ) -> tuple[Array, LayerPages]:
        """Return the block's output [T, D] and the pages with the tokens' latents in them."""
        spec, tokens, precision = self.spec, x_TD.shape[0], matmul_precision(x_TD.dtype)
        query_TX, cached_TC = self._project(x_TD)
        latent_TR, key_TH = jnp.split(cached_TC, [spec.latent_dim], axis=-1)
        rotated_TH = self._rotate(key_TH[:, None], rotation)[:, 0]
        cached_TC = jnp.concatenate([self.latent_norm(latent_TR), rotated_TH], axis=-1)
        pages = backend.latent.write(pages, cached_TC, inputs.slot_T)

        plain_TNP, query_TNH = jnp.split(query_TX.reshape(tokens, -1, spec.head_dim), [spec.plain_dim], axis=-1)
        key_up_NPR = self.key_up[...].reshape(-1, spec.plain_dim, spec.latent_dim)
        query_TNR = jnp.einsum("TNP,NPR->TNR", plain_TNP, key_up_NPR, precision=precision)
        query_TNC = jnp.concatenate([query_TNR, self._rotate(query_TNH, rotation)], axis=-1)
        mixed_TNR = backend.latent.attend(query_TNC, pages, inputs, scale=spec.scale)
        value_up_NVR = self.value_up[...].reshape(-1, spec.value_dim, spec.latent_dim)
        mixed_TNV = jnp.einsum("TNR,NVR->TNV", mixed_TNR, value_up_NVR, precision=precision)
        return self.output(mixed_TNV.reshape(tokens, -1)), pages

    def _project(self, x_TD: Array) -> tuple[Array, Array]:
        """Return the queries of all heads, and what the latent and the rotating part of the key are made of."""
        if self.query is not None:
            query_TX, cached_TC = apply_linears(x_TD, self.query, self.latent)
            return query_TX, cached_TC
        assert self.query_down is not None and self.query_up is not None and self.query_norm is not None
        down_TX, cached_TC = apply_linears(x_TD, self.query_down, self.latent)
        return self.query_up(self.query_norm(down_TX)), cached_TC

    def _rotate(self, x_TNH: Array, rotation: Rotation) -> Array:
        if self.spec.rope is None:
            return x_TNH
        assert rotation is not None
        return apply_rope(x_TNH, *rotation, is_interleaved=self.spec.rope.is_interleaved)
