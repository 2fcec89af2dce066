"""GatedDeltaSpec: the gated delta rule in place of attention (Qwen3-Next)."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxserve.cache.layer_cache import LayerCache, RecurrentState, StateArray
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE
from jaxserve.models.attention_spec import OwnArray, PackedSize, PositionCost, Projection, SplitSize
from jaxserve.models.recurrent_spec import RecurrentLayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaSpec(RecurrentLayerSpec):
    """A matrix [key_dim, value_dim] for each value head, changed by the gated delta rule (layers/delta_rule.py).

    Queries, keys and values pass a causal convolution and silu before; queries and keys have length 1. Outputs are
    normed head by head (rms, with the scale of the norms' eps) and multiplied by the silu of a projection.

    num_key_heads   heads of queries and of keys, each for num_value_heads / num_key_heads value heads in turn

    Raises ValueError unless value heads are a multiple of key heads.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(f"num_value_heads is {self.num_value_heads}; it needs a multiple of {self.num_key_heads}.")
        RecurrentLayerSpec.__post_init__(self)

    @property
    def key_width(self) -> int:
        """Numbers of all key heads of a token, and of all query heads."""
        return self.num_key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Numbers of all value heads of a token."""
        return self.num_value_heads * self.value_dim

    @property
    def conv_width(self) -> int:
        """Numbers of a token that pass the convolution: its queries, keys and values."""
        return 2 * self.key_width + self.value_width

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        keys, heads = self.num_key_heads, self.num_value_heads
        yield Projection("delta_query", width, self.key_width, False, "width", "heads", keys)
        yield Projection("delta_key", width, self.key_width, False, "width", "heads", keys)
        yield Projection("delta_value", width, self.value_width, False, "width", "heads", keys)
        yield Projection("delta_gate", width, self.value_width, False, "width", "heads", keys)
        yield Projection("delta_rate", width, heads, False, "width", "heads", keys)
        yield Projection("delta_decay", width, heads, False, "width", "heads", keys)
        yield Projection("delta_output", self.value_width, width, False, "heads", "width")

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the weights that are neither projections nor norms.

        Each rank has the kernels of all channels, since those of its queries, keys and values do not lie together.
        """
        return (
            OwnArray("delta_conv", (self.conv_width, 1, self.kernel_size), (None, None, None)),
            OwnArray("delta_log_a", (self.num_value_heads,), ("heads",)),
            OwnArray("delta_bias", (self.num_value_heads,), ("heads",)),
            OwnArray("delta_norm", (self.value_dim,), (None,)),
        )

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps: the last tokens of the convolution, and the heads' matrices."""
        heads = (self.num_value_heads, self.key_dim, self.value_dim)
        return RecurrentState(
            arrays=(
                StateArray((self.kernel_size - 1, self.conv_width), split_axis=1),
                StateArray(heads, "float32", split_axis=0),
            )
        )

    @property
    def position_cost(self) -> PositionCost:
        """The work of a token, which sees itself alone: its state is counted apart (Cost.states)."""
        return PositionCost(1, cached_numbers=0, flops=8 * self.num_value_heads * self.key_dim * self.value_dim)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks."""
        yield SplitSize(self.num_key_heads, "key heads of the delta rule", self.num_key_heads % num_ranks == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        name = "numbers of the delta rule's"
        yield PackedSize(self.key_width, f"{name} keys", self.key_width // num_ranks, GROUP_SIZE)
        yield PackedSize(self.value_width, f"{name} values", self.value_width // num_ranks, BLOCK_SIZE)
        yield PackedSize(self.num_value_heads, f"{name} rates", self.num_value_heads // num_ranks, GROUP_SIZE)
