"""KimiDeltaSpec: the gated delta rule whose every key number decays by itself, in place of attention (Kimi Linear)."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxserve.cache.layer_cache import LayerCache, RecurrentState, StateArray
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE
from jaxserve.models.attention_spec import OwnArray, PackedSize, PositionCost, Projection, SplitSize
from jaxserve.models.recurrent_spec import RecurrentLayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDeltaSpec(RecurrentLayerSpec):
    """A matrix [head_dim, head_dim] for each head, changed by the gated delta rule (layers/delta_rule.py).

    Differs from GatedDeltaSpec: every number of a key has a decay, which passes a bottleneck of head_dim numbers, as
    the gate of the outputs does; that gate is a sigmoid; queries, keys and values have convolutions of their own (arXiv
    2510.26692).
    """

    num_heads: int
    head_dim: int

    @property
    def heads_width(self) -> int:
        """Numbers of all heads of a token: of its queries, of its keys, and of its values."""
        return self.num_heads * self.head_dim

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        for name in ("query", "key", "value"):
            yield Projection(f"kda_{name}", width, self.heads_width, False, "width", "heads")
        for name in ("decay", "gate"):
            yield Projection(f"kda_{name}_down", width, self.head_dim, False, "width", None)
        yield Projection("kda_rate", width, self.num_heads, False, "width", "heads")
        for name in ("decay", "gate"):
            yield Projection(f"kda_{name}_up", self.head_dim, self.heads_width, False, "width", "heads")
        yield Projection("kda_output", self.heads_width, width, False, "heads", "width")

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the weights that are neither projections nor norms."""
        convs = (
            OwnArray(f"kda_{name}_conv", (self.heads_width, 1, self.kernel_size), ("heads", None, None))
            for name in ("query", "key", "value")
        )
        return (
            *convs,
            OwnArray("kda_log_a", (1, 1, self.num_heads, 1), (None, None, "heads", None)),
            OwnArray("kda_bias", (self.heads_width,), ("heads",)),
            OwnArray("kda_norm", (self.head_dim,), (None,)),
        )

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps: the last tokens of the convolutions, and the heads' matrices."""
        return RecurrentState(
            arrays=(
                StateArray((self.kernel_size - 1, 3 * self.heads_width), split_axis=1),
                StateArray((self.num_heads, self.head_dim, self.head_dim), "float32", split_axis=0),
            )
        )

    @property
    def position_cost(self) -> PositionCost:
        """The work of a token, which sees itself alone: its state is counted apart (Cost.states)."""
        return PositionCost(1, cached_numbers=0, flops=8 * self.heads_width * self.head_dim)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks."""
        yield SplitSize(self.num_heads, "heads of the delta rule", self.num_heads % num_ranks == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        part = self.heads_width // num_ranks
        yield PackedSize(self.heads_width, "numbers of the delta rule's heads", part, max(BLOCK_SIZE, GROUP_SIZE))
        yield PackedSize(self.num_heads, "numbers of the delta rule's rates", self.num_heads // num_ranks, GROUP_SIZE)
