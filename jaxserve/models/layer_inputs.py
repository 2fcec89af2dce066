"""Inputs that layers have of their own (Gemma 4 E2B and E4B): made once a step, and added in every layer."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.layers.embedding import Embedding
from jaxserve.layers.linear import Linear
from jaxserve.layers.mlp import Activation, apply_gate
from jaxserve.layers.norms import Norm
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import ONE_RANK, Ranks


class LayerInputs(nnx.Module):
    """The inputs of all layers: of each token from a table of its own, and from what it is embedded as.

    ranks: each has the table's rows of some tokens; all have the rest.
    """

    def __init__(self, spec: DecoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks = ONE_RANK) -> None:
        assert spec.layer_inputs is not None
        self.num_layers, self.width = spec.num_layers, spec.layer_inputs.width
        total = self.num_layers * self.width
        self.embed = Embedding(spec.layer_inputs.vocab_size, total, dtype=dtype, rngs=rngs, ranks=ranks)
        self.projection = Linear(spec.width, total, bias=False, dtype=dtype, rngs=rngs)
        self.norm = Norm(self.width, spec.norm, dtype=dtype)

    def __call__(self, token_T: Array, x_TD: Array) -> tuple[Array, ...]:
        """Return each layer's input [T, P] for these tokens, embedded as x_TD."""
        shape = (token_T.shape[0], self.num_layers, self.width)
        own_TLP = self.embed(token_T).reshape(shape) * jnp.asarray(self.width**0.5, x_TD.dtype)
        seen_TLP = self.norm((self.projection(x_TD) * x_TD.shape[1] ** -0.5).reshape(shape))
        both_TLP = (own_TLP + seen_TLP) * 2**-0.5
        return tuple(both_TLP[:, layer] for layer in range(self.num_layers))


class LayerInputBlock(nnx.Module):
    """A layer's own input, gated by the residual stream and projected to its width."""

    def __init__(self, spec: DecoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        inputs = spec.layer_inputs
        assert inputs is not None
        self.activation: Activation = inputs.activation
        self.gate = Linear(spec.width, inputs.width, bias=False, dtype=dtype, rngs=rngs)
        self.projection = Linear(inputs.width, spec.width, bias=False, dtype=dtype, rngs=rngs)
        self.norm = Norm(spec.width, spec.norm, dtype=dtype)

    def __call__(self, x_TD: Array, input_TP: Array) -> Array:
        """Return what is added to the residual stream x_TD."""
        return self.norm(self.projection(apply_gate(self.gate(x_TD), input_TP, self.activation)))
