"""ShortConvSpec: a short convolution with two gates in place of attention (LFM2)."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxserve.cache.layer_cache import LayerCache, RecurrentState, StateArray
from jaxserve.layers.block_forms import BLOCK_SIZE
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.attention_spec import OwnArray, OwnNorm, PackedSize, PositionCost, Projection, SplitSize


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvSpec:
    """output(after(x) * convolution(before(x) * value(x))), the convolution causal and of each channel by itself.

    channels      numbers of a token that pass the convolution
    kernel_size   tokens of the convolution, the newest included
    bias          of the projections and of the convolution

    Raises ValueError for a convolution of one token.
    """

    channels: int
    kernel_size: int
    bias: bool = False

    def __post_init__(self) -> None:
        if self.kernel_size < 2:
            raise ValueError(f"kernel_size is {self.kernel_size}; it needs 2 or more.")

    @property
    def rotation(self) -> tuple[RopeSpec, int] | None:
        """None: nothing rotates."""
        return None

    def for_length(self, max_model_len: int) -> "ShortConvSpec":
        """Return the spec itself, which holds for requests of any length."""
        return self

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        for name in ("conv_before", "conv_after", "conv_value"):
            yield Projection(name, width, self.channels, self.bias, "width", "heads")
        yield Projection("conv_output", self.channels, width, self.bias, "heads", "width")

    def norms(self) -> tuple[OwnNorm, ...]:
        """Return none."""
        return ()

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the weights that are neither projections nor norms: those of the convolution."""
        kernel = OwnArray("conv_kernel", (self.channels, 1, self.kernel_size), ("heads", None, None))
        return (kernel, OwnArray("conv_bias", (self.channels,), ("heads",))) if self.bias else (kernel,)

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps: the last tokens of the convolution."""
        return RecurrentState(arrays=(StateArray((self.kernel_size - 1, self.channels), split_axis=1),))

    @property
    def position_cost(self) -> PositionCost:
        """The work of a token, which sees itself alone."""
        return PositionCost(1, cached_numbers=0, flops=2 * self.kernel_size * self.channels)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks."""
        yield SplitSize(self.channels, "channels of a convolution", self.channels % num_ranks == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        yield PackedSize(self.channels, "channels of a convolution", self.channels // num_ranks, BLOCK_SIZE)
