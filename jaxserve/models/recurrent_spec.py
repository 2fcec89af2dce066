"""RecurrentLayerSpec: what the specs of layers with a recurrent state have in common."""

from dataclasses import dataclass
from typing import Self

from jaxserve.layers.rope import RopeSpec
from jaxserve.models.attention_spec import OwnNorm


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentLayerSpec:
    """A layer whose state has a fixed size and holds the last tokens of short convolutions.

    kernel_size   tokens of a convolution, the newest included

    Raises ValueError for a convolution of one token.
    """

    kernel_size: int

    def __post_init__(self) -> None:
        if self.kernel_size < 2:
            raise ValueError(f"kernel_size is {self.kernel_size}; it needs 2 or more.")

    @property
    def rotation(self) -> tuple[RopeSpec, int] | None:
        """None: nothing rotates."""
        return None

    def for_length(self, max_model_len: int) -> Self:
        """Return the spec itself, which holds for requests of any length."""
        return self

    def norms(self) -> tuple[OwnNorm, ...]:
        """Return none: a norm of the outputs is of another kind than the decoder's, and its scale is an array."""
        return ()
