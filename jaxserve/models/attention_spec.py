"""AttentionSpec: softmax attention over keys and values, and what every kind of attention tells about itself.

The methods of AttentionSpec are those of all kinds: their weights, caches, angles, divisions and costs are asked for
here, so that nobody else tells kinds apart but the decoder, which has a module for each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues
from jaxserve.layers.block_forms import BLOCK_SIZE, GROUP_SIZE
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.param_spec import Axis, RowBlocks
from jaxserve.layers.rope import RopeSpec


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix product of a layer: kernel [width_in, width_out], with its logical axes.

    num_heads   of which width_out consists, where a checkpoint has several projections head by head in one tensor
    """

    name: str
    width_in: int
    width_out: int
    bias: bool
    axis_in: Axis
    axis_out: Axis | None
    num_heads: int = 1


class OwnNorm(NamedTuple):
    """A norm inside of a block: its width and, where its numbers are split among ranks, their logical axis.

    norm        its kind; None: the decoder's
    num_heads   so many heads have numbers of their own, and the axis is theirs; None: all have the same
    """

    name: str
    width: int
    axis: Axis | None
    norm: NormSpec | None = None
    num_heads: int | None = None

    @property
    def is_divided(self) -> bool:
        """Whether ranks have parts of what is normed together."""
        return self.axis is not None and self.num_heads is None


class OwnArray(NamedTuple):
    """A weight of a block that is neither a projection nor a norm, with its logical axes.

    rows   its rows are these of a tensor that has rows of other weights between them; None: it is the whole tensor
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[Axis | None, ...]
    rows: RowBlocks | None = None


class SplitSize(NamedTuple):
    """A size that is split among ranks: what it counts, and whether it can be."""

    size: int
    name: str
    is_possible: bool


class PackedSize(NamedTuple):
    """A size of packed weights that is split among ranks: the part of one rank, and the blocks that cannot be cut."""

    size: int
    name: str
    part: int
    block: int


class PositionCost(NamedTuple):
    """The work of a query for each position that it sees.

    window           as in AttentionSpec
    cached_numbers   numbers that are read of a position
    flops            floating-point operations
    cached_vectors   keys and values among them, each of one head
    """

    window: int | None
    cached_numbers: int
    flops: int
    cached_vectors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTemperature:
    """Queries are multiplied by 1 + scale * log(1 + floor((position + offset) / interval)) (Llama 4, Ministral 3)."""

    scale: float
    interval: float
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Softmax attention over paged keys and values.

    scale          factor of query · key before the softmax
    rope           None: queries and keys are not rotated
    window         a token sees itself and the window - 1 tokens before it, and in a decoder that is bidirectional as
                   many behind it; None: all
    softcap        scores s become softcap * tanh(s / softcap)
    qkv_clip       queries, keys and values are limited to [-qkv_clip, qkv_clip] as soon as they are projected
    qk_norm        a norm over each query and key head, whose numbers are those of all heads, or of each its own (each),
                   or a norm over all heads of a token together (full)
    head_norm      the norm over each head; None: as every norm of the decoder
    norms_after_rope   these norms follow the rotation instead of preceding it
    has_sinks      one learned score a head takes part in the softmax and carries no value
    has_output_gate    heads are multiplied by the sigmoid of a projection of the layer's input
    keys_are_values    values are what is projected for the keys, before its norm and rotation (Gemma 4)
    value_norm     a norm over each value head; None: there is none
    value_dim      numbers of a value head, no more than of a key head, like which pages hold it; None: as many (MiMo)
    value_multiplier   factor of the values

    Raises ValueError for norms_after_rope, or a head_norm, without a norm over each head, and for a value_dim above
    head_dim or of values that are keys.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qkv_clip: float | None = None
    qk_norm: Literal["none", "head", "each", "full"] = "none"
    head_norm: NormSpec | None = None
    norms_after_rope: bool = False
    temperature: QueryTemperature | None = None
    has_sinks: bool = False
    has_output_gate: bool = False
    keys_are_values: bool = False
    value_norm: NormSpec | None = None
    value_dim: int | None = None
    value_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.norms_after_rope and not self.norms_heads:
            raise ValueError(f"norms_after_rope is True with qk_norm {self.qk_norm!r}; it needs 'head' or 'each'.")
        if self.head_norm is not None and not self.norms_heads:
            raise ValueError(f"head_norm is given with qk_norm {self.qk_norm!r}; it needs 'head' or 'each'.")

        if self.value_dim is not None and (self.value_dim > self.head_dim or self.keys_are_values):
            raise ValueError(f"value_dim is {self.value_dim}; it needs values that are no keys, and no larger ones.")

    @property
    def norms_heads(self) -> bool:
        """Whether queries and keys are normed head by head."""
        return self.qk_norm in ("head", "each")

    @property
    def query_width(self) -> int:
        """Numbers of all query heads of a token."""
        return self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Numbers of all key heads of a token. Those of its value heads are as many or, with a value_dim, fewer."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Numbers of a value head."""
        return self.value_dim or self.head_dim

    @property
    def mixed_width(self) -> int:
        """Numbers of a token that all heads mix, which are projected to its output."""
        return self.num_heads * self.value_size

    @property
    def rotation(self) -> tuple[RopeSpec, int] | None:
        """The rotation and the size of what rotates, on which angles depend; None: nothing rotates."""
        return None if self.rope is None else (self.rope, self.head_dim)

    def for_length(self, max_model_len: int) -> "AttentionSpec":
        """Return the spec as it holds for requests of at most so many tokens (see LongRopeScaling)."""
        return self if self.rope is None else replace(self, rope=self.rope.for_length(max_model_len))

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        query, key, heads, kv_heads = self.query_width, self.key_width, self.num_heads, self.num_kv_heads
        value, mixed = kv_heads * self.value_size, self.mixed_width
        yield Projection("query", width, query, self.qkv_bias, "width", "heads", heads)
        yield Projection("key", width, key, self.qkv_bias, "width", "kv_heads", kv_heads)
        if not self.keys_are_values:
            yield Projection("value", width, value, self.qkv_bias, "width", "kv_heads", kv_heads)
        if self.has_output_gate:
            yield Projection("output_gate", width, mixed, self.qkv_bias, "width", "heads", heads)
        yield Projection("output", mixed, width, self.output_bias, "heads", "width")

    def norms(self) -> tuple[OwnNorm, ...]:
        """Return the norms over queries, keys and values, where there are any."""
        value = () if self.value_norm is None else (OwnNorm("value_norm", self.value_size, None, self.value_norm),)
        match self.qk_norm:
            case "none":
                return value
            case "head":
                query, key = (OwnNorm(f"{name}_norm", self.head_dim, None, self.head_norm) for name in ("query", "key"))
                return query, key, *value
            case "each":
                query = OwnNorm("query_norm", self.head_dim, "heads", self.head_norm, self.num_heads)
                key = OwnNorm("key_norm", self.head_dim, "kv_heads", self.head_norm, self.num_kv_heads)
                return query, key, *value
            case "full":
                return (
                    OwnNorm("query_norm", self.query_width, "heads"),
                    OwnNorm("key_norm", self.key_width, "kv_heads"),
                    *value,
                )

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return the weights that are neither projections nor norms."""
        return (OwnArray("sinks", (self.num_heads,), ("heads",)),) if self.has_sinks else ()

    @property
    def cache(self) -> LayerCache:
        """The cache that a layer keeps between steps."""
        return PagedKeysValues(num_kv_heads=self.num_kv_heads, head_dim=self.head_dim, window=self.window)

    @property
    def position_cost(self) -> PositionCost:
        """The work of a query for each position that it sees."""
        return PositionCost(self.window, 2 * self.key_width, 4 * self.query_width, cached_vectors=2 * self.num_kv_heads)

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        yield SplitSize(heads, "query heads", heads % num_ranks == 0)
        yield SplitSize(kv_heads, "key heads", kv_heads % num_ranks == 0 or num_ranks % kv_heads == 0)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        yield PackedSize(self.query_width, "numbers of query heads", self.query_width // num_ranks, BLOCK_SIZE)
        yield PackedSize(self.mixed_width, "numbers of mixed values", self.mixed_width // num_ranks, BLOCK_SIZE)
        kv_heads = max(1, self.num_kv_heads // num_ranks)
        yield PackedSize(self.key_width, "numbers of key heads", kv_heads * self.head_dim, GROUP_SIZE)
        value_width = self.num_kv_heads * self.value_size
        yield PackedSize(value_width, "numbers of value heads", kv_heads * self.value_size, GROUP_SIZE)
