"""Description of what each layer keeps between steps: stated by the architecture, read by whoever makes the cache."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedKeysValues:
    """Keys and values of every token, in pages.

    window   no query sees a key that is window or more positions before it; None: all keys stay visible
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLatent:
    """One compressed vector a token in place of keys and values, and the rotated part of its key (DeepSeek-V2)."""

    latent_dim: int
    rotary_dim: int


@dataclass(frozen=True, slots=True)
class StateArray:
    """One array of a recurrent layer's state: its shape without the axis of the slots, and its type.

    dtype        "float32", whatever the model computes in; None: the type that it computes in
    split_axis   the axis of the shape that is divided among ranks; None: every rank has the whole array
    """

    shape: tuple[int, ...]
    dtype: Literal["float32"] | None = None
    split_axis: int | None = None

    def divide(self, num_ranks: int) -> "StateArray":
        """Return what one of so many ranks has of the array."""
        shape = (size // num_ranks if axis == self.split_axis else size for axis, size in enumerate(self.shape))
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """State of fixed size a sequence, replaced by every step. A page of such layers is a slot: one sequence's state.

    arrays   the arrays of the state
    """

    arrays: tuple[StateArray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCache:
    """No cache of its own: the layer reads that of another one.

    layer   the index of the layer that has it
    """

    layer: int


OwnCache: TypeAlias = PagedKeysValues | PagedLatent | RecurrentState
LayerCache: TypeAlias = OwnCache | SharedCache
