"""ShortConvSpec: a short convolution with two gates in place of attention (LFM2)."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxserve.cache.layer_cache import LayerCache, RecurrentState, StateArray
from jaxserve.layers.block_forms import BLOCK_SIZE
from jaxserve.models.attention_spec import OwnArray, PackedSize, PositionCost, Projection, SplitSize
from jaxserve.models.recurrent_spec import RecurrentLayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvSpec(RecurrentLayerSpec):
    """output(after(x) * convolution(before(x) * value(x))), the convolution causal and of each channel by itself.

    channels   numbers of a token that pass the convolution
    bias       of the projections and of the convolution
    """

    channels: int
    bias: bool = False

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        for name in ("conv_before", "conv_after", "conv_value"):
            yield Projection(name, width, self.channels, self.bias, "width", "heads")
        yield Projection("conv_output", self.channels, width, self.bias, "heads", "width")

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
