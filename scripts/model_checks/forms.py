"""The forms of weights and of caches that are held to float32, and by how much they may differ from it.

A new kind of --quantization, or of --kv-cache-dtype, is a line here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxserve.config import EngineConfig

PLAIN: dict[str, Any] = {"dtype": "float32", "quantization": "none", "kv_cache_dtype": "float32"}
NUM_WEIGHTS_OF_SMALL = 100_000_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a form may differ from float32.

    max_ratio   its perplexity by that of float32
    max_kl      the mean Kullback-Leibler divergence of its distributions from those of float32, in nats
    """

    max_ratio: float
    max_kl: float


@dataclass(frozen=True, slots=True)
class Form:
    """One form, and its bounds.

    settings       fields of EngineConfig
    bounds         for every model of scripts/fetch_model
    small_bounds   for those with fewer than 100 million weights, which have less to spare; None: the same
    needs_blocks   only models whose files have blocks that can be kept have this form
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds = Bounds(1.0, 0.0)
    small_bounds: Bounds | None = None
    needs_blocks: bool = False

    def config(self, model: str) -> EngineConfig:
        """Return the configuration of an engine with a model in this form."""
        return EngineConfig(model=model, **(PLAIN | dict(self.settings)))

    def bounds_of(self, num_weights: int) -> Bounds:
        """Return the bounds for a model of so many weights."""
        return self.small_bounds if self.small_bounds and num_weights < NUM_WEIGHTS_OF_SMALL else self.bounds


FLOAT32 = Form("float32")
FORMS = (
    Form("int8", {"quantization": "int8"}, Bounds(1.03, 0.03)),
    Form("int4", {"quantization": "int4"}, Bounds(1.35, 0.3), Bounds(1.35, 0.8)),
    Form("blocks", {"quantization": "blocks"}, Bounds(1.03, 0.03), needs_blocks=True),
    Form("kv bfloat16", {"kv_cache_dtype": "bfloat16"}, Bounds(1.01, 0.005)),
    Form("kv int8", {"kv_cache_dtype": "int8"}, Bounds(1.02, 0.01)),
    Form("kv fp8_e4m3", {"kv_cache_dtype": "fp8_e4m3"}, Bounds(1.03, 0.03)),
    Form("kv fp8_e5m2", {"kv_cache_dtype": "fp8_e5m2"}, Bounds(1.06, 0.06), Bounds(1.06, 0.1)),
)
