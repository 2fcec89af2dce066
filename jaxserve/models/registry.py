"""Architecture name → translator: the one table of what we can load.

The decoder itself is imported when it is traced: it brings Flax, and a start that finds its programs needs neither.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np
from jax.typing import DTypeLike

from jaxserve.config import Quantization
from jaxserve.errors import UnknownArchitecture
from jaxserve.layers import quant
from jaxserve.models import llama, mistral, qwen2, qwen3
from jaxserve.models.spec import DecoderSpec, Leaf, Path

if TYPE_CHECKING:
    from flax.nnx import GraphDef

    from jaxserve.models.decoder import Decoder


class Architecture(Protocol):
    """What a translator's module offers."""

    def spec(self, hf: Mapping[str, Any]) -> DecoderSpec:
        """config.json as a dict → values. Raises UnknownArchitecture, naming the key it does not know."""
        ...

    def leaves(self, spec: DecoderSpec) -> dict[Path, Leaf]:
        """Every leaf of `abstract(spec, dtype)`, with its origin in the checkpoint."""
        ...

    def ignored(self, spec: DecoderSpec) -> frozenset[str]:
        """Checkpoint tensors that may be there and are not read."""
        ...


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}
MODEL_TYPES: dict[str, Architecture] = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}


def find(hf_config: Mapping[str, Any]) -> Architecture:
    """The translator for this config.json: by `architectures`, or by `model_type` where that is not given."""
    names = hf_config.get("architectures") or []
    known = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if known is None and not names:
        known = MODEL_TYPES.get(hf_config.get("model_type") or "")
    if known is None:
        asked = ", ".join(names) or hf_config.get("model_type") or "none named"
        raise UnknownArchitecture(f"The architecture ({asked}) is not known; known are {', '.join(ARCHITECTURES)}.")
    return known


def leaf_shapes(
    leaves: Mapping[Path, Leaf], dtype: DTypeLike, quantization: Quantization = "none"
) -> dict[Path, jax.ShapeDtypeStruct | quant.Packed]:
    """What `abstract` says of the leaves, worked out from their origins: no tracing, no memory, microseconds each.

    With a quantization every matrix is packed. Tables stay int8 under int4: a token is chosen among their rows.
    """

    def shape(path: Path, leaf: Leaf) -> jax.ShapeDtypeStruct | quant.Packed:
        if quantization != "none" and leaf.is_matrix:
            width_out, width_in = leaf.shape
            return quant.abstract("int8" if path[-1] == "table" else quantization, width_in, width_out)
        return jax.ShapeDtypeStruct(leaf.place(np.broadcast_to(np.float32(0), leaf.shape)).shape, dtype)

    return {path: shape(path, leaf) for path, leaf in leaves.items()}


def abstract(spec: DecoderSpec, dtype: DTypeLike) -> tuple["GraphDef", dict[Path, jax.ShapeDtypeStruct]]:
    """The decoder's structure, and the shape and type of every leaf by its path. Allocates nothing."""
    from jaxserve.models import decoder

    return decoder.abstract(spec, dtype)


def assemble(graphdef: "GraphDef", weights: Mapping[Path, Any]) -> "Decoder":
    """A Decoder over these weights. Meant for inside a jitted function."""
    from jaxserve.models import decoder

    return decoder.assemble(graphdef, weights)


__all__ = ["ARCHITECTURES", "Architecture", "abstract", "assemble", "find", "leaf_shapes"]
