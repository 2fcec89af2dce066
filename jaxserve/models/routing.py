"""RoutedLayers: the layers of a decoder whose tokens are routed to experts, as outputs return them."""

from dataclasses import dataclass

import numpy as np

from jaxserve.errors import BadConfig
from jaxserve.models.spec import DecoderSpec, MoESpec

MAX_UINT8_EXPERTS = 256  # whose ids fit into 8 bits


@dataclass(frozen=True, slots=True)
class RoutedLayers:
    """The layers of a decoder that have experts, R of its L layers.

    layers        Their indices, ascending.
    num_layers    L.
    top_k         K, the experts of a token.
    num_experts   The most experts that one of them has.
    """

    layers: tuple[int, ...]
    num_layers: int
    top_k: int
    num_experts: int

    @property
    def dtype(self) -> np.dtype:
        """The smallest type of the ids of all experts, as vLLM chooses it."""
        return np.dtype(np.uint8 if self.num_experts <= MAX_UINT8_EXPERTS else np.uint16)

    @property
    def token_bytes(self) -> int:
        """The bytes of the experts of one token in all layers."""
        return self.num_layers * self.top_k * self.dtype.itemsize

    def expand(self, expert_TRK: np.ndarray) -> np.ndarray:
        """Return the experts of all layers [T, L, K]; layers without experts have zeros, as in vLLM."""
        if len(self.layers) == self.num_layers:
            return expert_TRK
        expert_TLK = np.zeros((len(expert_TRK), self.num_layers, self.top_k), self.dtype)
        expert_TLK[:, self.layers] = expert_TRK
        return expert_TLK


def find_routed_layers(spec: DecoderSpec) -> RoutedLayers:
    """Return the layers of a decoder that have experts.

    Raises BadConfig if there are none, or if tokens have more experts in one layer than in another.
    """
    experts = {index: layer.mlp for index, layer in enumerate(spec.layers) if isinstance(layer.mlp, MoESpec)}
    if not experts:
        raise BadConfig(
            f"enable_return_routed_experts needs a model with experts, and {spec.architecture_name} has none; leave it"
            " out."
        )
    top_k = {moe.router.top_k for moe in experts.values()}
    if len(top_k) > 1:
        raise BadConfig(
            f"enable_return_routed_experts needs as many experts a token in each layer, and {spec.architecture_name}"
            f" has {' or '.join(map(str, sorted(top_k)))}; leave it out."
        )
    return RoutedLayers(
        layers=tuple(experts),
        num_layers=spec.num_layers,
        top_k=top_k.pop(),
        num_experts=max(moe.num_experts for moe in experts.values()),
    )
