"""SharedKeysSpec: attention to the keys and values of an earlier layer (Gemma 4 E2B and E4B)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxserve.cache.layer_cache import LayerCache, SharedCache
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.attention_spec import (
    AttentionSpec,
    OwnArray,
    OwnNorm,
    PackedSize,
    PositionCost,
    Projection,
    SplitSize,
)

KEY_MODULES = ("key", "value", "key_norm", "value_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKeysSpec:
    """Softmax attention whose keys and values are those that another layer has in its pages.

    attention   as if its keys and values were its own
    layer       the index of the layer that has them, before this one, with key heads and a window like these

    Raises ValueError for what such a layer does not compute.
    """

    attention: AttentionSpec
    layer: int

    def __post_init__(self) -> None:
        own = self.attention
        neutral = {"qk_norm": own.qk_norm if own.qk_norm != "full" else "none", "norms_after_rope": False}
        neutral |= {"qkv_clip": None, "temperature": None, "has_sinks": False, "has_output_gate": False}
        neutral |= {"value_dim": None, "value_multiplier": 1.0}
        for name, value in neutral.items():
            if getattr(own, name) != value:
                raise ValueError(
                    f"{name} is {getattr(own, name)!r} with keys of layer {self.layer}; it needs {value!r}."
                )

    @property
    def rotation(self) -> tuple[RopeSpec, int] | None:
        """The rotation of queries; None: nothing rotates."""
        return self.attention.rotation

    def for_length(self, max_model_len: int) -> "SharedKeysSpec":
        """Return the spec as it holds for requests of at most so many tokens."""
        return replace(self, attention=self.attention.for_length(max_model_len))

    def projections(self, width: int) -> Iterator[Projection]:
        """Yield the projections, in the order in which they are computed."""
        yield from (each for each in self.attention.projections(width) if each.name not in KEY_MODULES)

    def norms(self) -> tuple[OwnNorm, ...]:
        """Return the norm over queries, where there is one."""
        return tuple(norm for norm in self.attention.norms() if norm.name not in KEY_MODULES)

    def arrays(self) -> tuple[OwnArray, ...]:
        """Return none."""
        return ()

    @property
    def cache(self) -> LayerCache:
        """The other layer's."""
        return SharedCache(layer=self.layer)

    @property
    def position_cost(self) -> PositionCost:
        """The work of a query for each position that it sees."""
        return self.attention.position_cost

    def split_sizes(self, num_ranks: int) -> Iterator[SplitSize]:
        """Yield the sizes that are split among ranks."""
        return self.attention.split_sizes(num_ranks)

    def packed_sizes(self, num_ranks: int) -> Iterator[PackedSize]:
        """Yield the sizes of packed weights that are split among ranks."""
        return self.attention.packed_sizes(num_ranks)
