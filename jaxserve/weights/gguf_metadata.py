"""Typed access to a GGUF file's metadata, and the refusal of keys that were not read.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from jaxserve.errors import BadCheckpoint

INERT_KEYS = frozenset(
    (
        *("vocab_size", "tensor_data_layout", "attention.layer_norm_epsilon", "pooling_type"),
        *("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"),
    )
)
"""Keys of an architecture that do not change what the network computes: tensors say how wide dense layers are."""
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "attention.sliding_window": (0,),
    "attention.temperature_scale": (0.0,),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_gating_func": (0, 1),  # softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "use_parallel_residual": (False,),
}
"""Keys of an architecture that would change it, with the values at which they do not: llama.cpp takes 0 for absent."""


@dataclass(frozen=True, slots=True)
class GGUFMetadata:
    """Typed access to the values of one file; every refusal names the file and the key."""

    path: Path
    values: Mapping[str, Any]
    _read: set[str] = field(default_factory=set)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, which all its keys begin with."""
        return self.get_str("general.architecture")

    def find(self, key: str) -> Any:
        """Return a value as it is, None where there is none. A key that begins with a dot is the architecture's."""
        key = self._full(key)
        self._read.add(key)
        return self.values.get(key)

    def get(self, key: str, check: Callable[[Any], bool], expected: str, default: Any = None) -> Any:
        """Return a value that passes the check. Raises BadCheckpoint for another, and for none without a default."""
        value = self.find(key)
        value = default if value is None else value
        if value is None:
            raise BadCheckpoint(f"{self.path}: metadata {self._full(key)!r} is missing.")
        if not check(value):
            raise self.unsupported(key, value, expected)
        return value

    def get_str(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        return self.get(key, lambda value: isinstance(value, str), "a string", default)

    def get_positive_int(self, key: str, default: int | None = None) -> int:
        """Return a positive count. A list of equal values, one a layer, counts as that value."""
        values = self.find(key)
        if isinstance(values, list) and values and all(value == values[0] for value in values):
            return GGUFMetadata(self.path, {self._full(key): values[0]}).get_positive_int(self._full(key))
        return self.get(key, lambda value: is_int(value) and 0 < value < 1 << 40, "a positive number", default)

    def get_positive_float(self, key: str, default: float | None = None) -> float:
        """Return a finite positive number, in the shortest decimal form of the float32 it is stored as."""
        value = self.get(
            key, lambda v: is_number(v) and math.isfinite(v) and v > 0, "a finite positive number", default
        )
        return float(str(np.float32(value)))

    def unsupported(self, key: str, value: Any, expected: str) -> BadCheckpoint:
        """Return the error that names a key, its value, and what would do."""
        return BadCheckpoint(
            f"{self.path}: metadata {self._full(key)!r} is {str(value)[:80]!r}; it should be {expected}."
        )

    def reject_unread(self) -> None:
        """Refuse, by name, keys of the architecture that were not read and are neither inert nor neutral.

        Raises BadCheckpoint, because a model that is nearly right is wrong.
        """
        prefix = f"{self.architecture}."
        for key, value in self.values.items():
            name = key.removeprefix(prefix)
            if key in self._read or name == key or name in INERT_KEYS or value in NEUTRAL_VALUES.get(name, ()):
                continue
            raise BadCheckpoint(
                f"{self.path}: metadata {key!r} (value {str(value)[:80]!r}) is not supported for this architecture."
            )

    def _full(self, key: str) -> str:
        return f"{self.architecture}{key}" if key.startswith(".") else key


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
