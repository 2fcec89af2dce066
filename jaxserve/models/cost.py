"""Cost: the work of a token, for the roofline and for tables of measurements."""

import math
from collections import Counter
from dataclasses import dataclass

from jaxserve.cache.layer_cache import RecurrentState
from jaxserve.models.spec import DecoderSpec, LayerSpec, MoESpec, mlp_projections


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """The attention of layers that are alike.

    window           as in AttentionSpec
    num_layers       how many layers
    cached_numbers   numbers of a cached position that a query reads, in one layer
    flops            floating-point operations of a query for each position it sees, in one layer
    cached_vectors   keys and values among those numbers, each of one head
    """

    window: int | None
    num_layers: int
    cached_numbers: int
    flops: int
    cached_vectors: int = 0


@dataclass(frozen=True, slots=True)
class ExpertsCost:
    """The experts of layers that are alike.

    num_layers    how many layers
    num_experts   experts of a layer, of which every token is multiplied with top_k
    weights       numbers in one expert's matrices
    """

    num_layers: int
    num_experts: int
    top_k: int
    weights: int

    def num_read(self, tokens: int) -> float:
        """Return how many experts of a layer so many tokens choose, if each chooses at random."""
        return self.num_experts * (1 - (1 - self.top_k / self.num_experts) ** tokens)


@dataclass(frozen=True, slots=True)
class Cost:
    """Numbers in a network's matrices, and the work of its attention.

    body        weights that every token is multiplied with, in all layers
    head        weights of the logits' product
    attention   one entry for each kind of layer
    experts     one entry for each kind of layer that has experts
    unpacked    those of the body that a quantization leaves as they are
    states      float32 numbers of a row's recurrent states in all layers, which a call reads and writes once
    """

    body: int
    head: int
    attention: tuple[AttentionCost, ...]
    experts: tuple[ExpertsCost, ...] = ()
    unpacked: int = 0
    states: int = 0


def decoder_cost(spec: DecoderSpec) -> Cost:
    """Return the cost of a decoder."""
    kinds = Counter(layer.attention.position_cost for layer in spec.layers)
    attention = tuple(
        AttentionCost(each.window, count, each.cached_numbers, each.flops, each.cached_vectors)
        for each, count in kinds.items()
    )
    mixtures = Counter(layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoESpec))
    experts = tuple(
        ExpertsCost(
            count,
            moe.num_experts,
            moe.router.top_k,
            weights=(2 + moe.is_gated) * (moe.latent or spec.width) * moe.hidden,
        )
        for moe, count in mixtures.items()
    )
    unpacked = sum(_own_matrices(layer) for layer in spec.layers)
    body = unpacked + sum(_dense_weights(spec.width, layer) for layer in spec.layers)
    if spec.layer_inputs is not None:  # made, gated and projected
        body += 3 * spec.num_layers * spec.width * spec.layer_inputs.width
    caches = (layer.attention.cache for layer in spec.layers)
    arrays = (array for cache in caches if isinstance(cache, RecurrentState) for array in cache.arrays)
    states = sum(math.prod(array.shape) for array in arrays if array.dtype == "float32")
    return Cost(body, spec.vocab_size * spec.width, attention, experts, unpacked, states)


def _own_matrices(layer: LayerSpec) -> int:
    """Return the numbers in the matrices of a layer's attention that are no projections."""
    return sum(math.prod(array.shape) for array in layer.attention.arrays() if len(array.shape) > 1)


def _dense_weights(width: int, layer: LayerSpec) -> int:
    """Return the numbers in the projections of a layer that every token is multiplied with."""
    mlp, router = layer.mlp, 0
    if isinstance(mlp, MoESpec):
        router = width * (mlp.num_experts + int(mlp.has_shared_gate) + 2 * (mlp.latent or 0))
        mlp = mlp.shared
    projections = [*layer.attention.projections(width), *(mlp_projections(width, mlp) if mlp else ())]
    return router + sum(projection.width_in * projection.width_out for projection in projections)
