"""LatentAttentionSpec: attention that keeps one latent vector a token instead of keys and values (DeepSeek-V2)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxserve.cache.layer_cache import LayerCache, PagedLatent
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.param_spec import RowBlocks
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.attention_spec import OwnArray, OwnNorm, PackedSize, PositionCost, Projection, SplitSize


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttentionSpec:
    """Softmax attention whose keys and values are products of one latent vector a token (arXiv 2405.04434).

    A head's query and key have two parts: plain numbers, of which the key's are made from the latent, and numbers that
    rotate, of which the key's are the same for all heads.

    query_rank   width of the bottleneck that queries pass through, normed; None: they are made of the layer's input
    latent_dim   numbers of the latent, which is normed
    plain_dim    numbers of a head's query and key that do not rotate
    rotary_dim   numbers that rotate
    value_dim    numbers of a head's value
    scale        factor of query · key before the softmax
    rope         None: nothing rotates
    norm         of the bottleneck and of the latent, which may have another epsilon than the decoder's
    has_bias     of the projections that read the layer's input into a bottleneck, and of the output's
    """

    num_heads: int
    query_rank: int | None
    latent_dim: int
    plain_dim: int
    rotary_dim: int
    value_dim: int
    scale: float
    rope: RopeSpec | None
    norm: NormSpec
    has_bias: bool = False

    @property
    def head_dim(self) -> int:
        """Numbers of a head's query, and of its key."""
        return self.plain_dim + self.rotary_dim

    @property
    def cached_dim(self) -> int:
        """Numbers that are kept of a token."""
        return self.latent_dim + self.rotary_dim

    @property
    def rotation(self) -> tuple[RopeSpec, int] | None:
        """The rotation and the size of what rotates, on which angles depend; None: nothing rotates."""
        return None if self.rope is None else (self.rope, self.rotary_dim)

    def for_length(self, max_model_len: int) -> "LatentAttentionSpec":
        """Return the spec as it holds for requests of at most so many tokens (see LongRopeScaling)."""
        return self if self.rope is None else replace(self, rope=self.rope.for_length(max_model_len))

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        query = self.num_heads * self.head_dim
        if self.query_rank is None:
            yield Projection("query", width, query, False, "width", "heads")
        else:
            yield Projection("query_down", width, self.query_rank, self.has_bias, "width", None)
            yield Projection("query_up", self.query_rank, query, False, "width", "heads")
        yield Projection("latent", width, self.cached_dim, self.has_bias, "width", None)
        yield Projection("output", self.num_heads * self.value_dim, width, self.has_bias, "heads", "width")

    def norms(self) -> tuple[OwnNorm, ...]:
        """Return the norms of the bottleneck, where there is one, and of the latent."""
        latent = OwnNorm("latent_norm", self.latent_dim, None, self.norm)
        return (
            (latent,) if self.query_rank is None else (OwnNorm("query_norm", self.query_rank, None, self.norm), latent)
        )

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the matrices that make keys and values of the latent, [heads * numbers, latent_dim] each.

        Checkpoints have both in one tensor, head by head: the rows of its key, then those of its value.
        """
        plain, value, both = self.plain_dim, self.value_dim, self.plain_dim + self.value_dim
        return (
            OwnArray(
                "key_up",
                (self.num_heads * plain, self.latent_dim),
                ("heads", None),
                RowBlocks(self.num_heads, plain, both),
            ),
            OwnArray(
                "value_up",
                (self.num_heads * value, self.latent_dim),
                ("heads", None),
                RowBlocks(self.num_heads, value, both, start=plain),
            ),
        )

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps."""
        return PagedLatent(latent_dim=self.latent_dim, rotary_dim=self.rotary_dim)

    @property
    def position_cost(self) -> PositionCost:
        """The work of a query for each position that it sees: every head multiplies with the cached vector itself."""
        flops = 2 * self.num_heads * (self.cached_dim + self.latent_dim)
        return PositionCost(None, cached_numbers=self.cached_dim, flops=flops)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks: every rank has the latent whole, and heads of its own."""
        yield SplitSize(self.num_heads, "query heads", self.num_heads % num_ranks == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        query, value = self.num_heads * self.head_dim, self.num_heads * self.value_dim
        yield PackedSize(query, "numbers of query heads", query // num_ranks, GROUP_SIZE)
        yield PackedSize(value, "numbers of value heads", value // num_ranks, BLOCK_SIZE)
