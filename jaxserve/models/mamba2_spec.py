"""Mamba2Spec: Mamba-2 in place of attention (Granite 4, Bamba), or beside it (Falcon-H1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxserve.cache.layer_cache import LayerCache, RecurrentState, StateArray
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE
from jaxserve.layers.param_spec import RowBlocks
from jaxserve.models.attention_spec import OwnArray, PackedSize, PositionCost, Projection, SplitSize
from jaxserve.models.recurrent_spec import RecurrentLayerSpec


class Mamba2Multipliers(NamedTuple):
    """Factors of the outputs of a block's projections, and of the block's (Falcon-H1)."""

    gate: float = 1.0
    value: float = 1.0
    key: float = 1.0
    query: float = 1.0
    step: float = 1.0
    output: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Spec(RecurrentLayerSpec):
    """A matrix [state_dim, head_dim] for each head, which decays and is added to (layers/mamba2.py).

    Values, keys and queries pass a causal convolution and silu before. To the outputs values are added, each head's
    with a weight of its own. They are multiplied by the silu of a projection.

    num_groups        groups of heads, which have the same keys and queries; num_heads / num_groups heads in turn
    state_dim         numbers of a key, and of a query
    projection_bias   of all projections
    conv_bias         of the convolution
    norm_place        outputs are normed over a group's heads (rms, with the norms' eps) behind that gate or before it

    Raises ValueError unless heads are a multiple of groups.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    projection_bias: bool = False
    conv_bias: bool = True
    norm_place: Literal["behind_gate", "before_gate", "none"] = "behind_gate"
    multipliers: Mamba2Multipliers = Mamba2Multipliers()

    def __post_init__(self) -> None:
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_heads is {self.num_heads}; it needs a multiple of {self.num_groups}.")
        RecurrentLayerSpec.__post_init__(self)

    @property
    def value_width(self) -> int:
        """Numbers of all heads of a token."""
        return self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Numbers of the keys of all groups of a token, and of their queries."""
        return self.num_groups * self.state_dim

    @property
    def conv_width(self) -> int:
        """Numbers of a token that pass the convolution: its values, keys and queries."""
        return self.value_width + 2 * self.key_width

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed.

        Each rank has the keys and queries of all groups, since there are often fewer groups than ranks.
        """
        bias = self.projection_bias
        yield Projection("mamba_gate", width, self.value_width, bias, "width", "heads")
        yield Projection("mamba_value", width, self.value_width, bias, "width", "heads")
        yield Projection("mamba_key", width, self.key_width, bias, "width", None)
        yield Projection("mamba_query", width, self.key_width, bias, "width", None)
        yield Projection("mamba_step", width, self.num_heads, bias, "width", "heads")
        yield Projection("mamba_output", self.value_width, width, bias, "heads", "width")

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the weights that are neither projections nor norms.

        The convolution is divided into that of values, which ranks share, and that of keys and queries.
        """
        values, others = self.value_width, 2 * self.key_width
        value_rows = RowBlocks(1, values, self.conv_width)
        other_rows = RowBlocks(1, others, self.conv_width, start=values)
        biases = (
            OwnArray("mamba_value_conv_bias", (values,), ("heads",), value_rows),
            OwnArray("mamba_key_conv_bias", (others,), (None,), other_rows),
        )
        return (
            OwnArray("mamba_value_conv", (values, 1, self.kernel_size), ("heads", None, None), value_rows),
            OwnArray("mamba_key_conv", (others, 1, self.kernel_size), (None, None, None), other_rows),
            *(biases if self.conv_bias else ()),
            OwnArray("mamba_log_a", (self.num_heads,), ("heads",)),
            OwnArray("mamba_bias", (self.num_heads,), ("heads",)),
            OwnArray("mamba_skip", (self.num_heads,), ("heads",)),
            *(() if self.norm_place == "none" else (OwnArray("mamba_norm", (values,), ("heads",)),)),
        )

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps: the last tokens of the convolutions, and the heads' matrices."""
        taps, heads = self.kernel_size - 1, (self.num_heads, self.state_dim, self.head_dim)
        return RecurrentState(
            arrays=(
                StateArray((taps, self.value_width), split_axis=1),
                StateArray((taps, 2 * self.key_width)),
                StateArray(heads, "float32", split_axis=0),
            )
        )

    @property
    def position_cost(self) -> PositionCost:
        """The work of a token, which sees itself alone: its state is counted apart (Cost.states)."""
        return PositionCost(1, cached_numbers=0, flops=5 * self.value_width * self.state_dim)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks: a rank has whole groups, or heads of one group."""
        groups = self.num_groups
        yield SplitSize(self.num_heads, "heads of Mamba-2", self.num_heads % num_ranks == 0)
        yield SplitSize(groups, "groups of Mamba-2's heads", groups % num_ranks == 0 or num_ranks % groups == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        yield PackedSize(self.value_width, "numbers of Mamba-2's heads", self.value_width // num_ranks, BLOCK_SIZE)
        yield PackedSize(self.num_heads, "steps of Mamba-2's heads", self.num_heads // num_ranks, GROUP_SIZE)
