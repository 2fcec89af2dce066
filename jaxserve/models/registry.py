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
from jaxserve.models.spec import DecoderSpec, ParamPath, ParamSpec

if TYPE_CHECKING:
    from flax.nnx import GraphDef

    from jaxserve.models.decoder import Decoder


class Architecture(Protocol):
    """What a translator's module offers."""

    def spec(self, hf_config: Mapping[str, Any]) -> DecoderSpec:
        """config.json as a dict → values. Raises UnknownArchitecture, naming the key it does not know."""
        ...

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Every leaf of `abstract_decoder(spec, dtype)`, with its origin in the checkpoint."""
        ...

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Checkpoint tensors that may be there and are not read."""
        ...


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}
MODEL_TYPES: dict[str, Architecture] = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}


def find_architecture(hf_config: Mapping[str, Any]) -> Architecture:
    """The translator for this config.json: by `architectures`, or by `model_type` where that is not given."""
    names = hf_config.get("architectures") or []
    architecture = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if architecture is None and not names:
        architecture = MODEL_TYPES.get(hf_config.get("model_type") or "")
    if architecture is None:
        requested = ", ".join(names) or hf_config.get("model_type") or "none named"
        raise UnknownArchitecture(f"The architecture ({requested}) is not known; known are {', '.join(ARCHITECTURES)}.")
    return architecture


def abstract_params(
    params: Mapping[ParamPath, ParamSpec], dtype: DTypeLike, quantization: Quantization = "none"
) -> dict[ParamPath, jax.ShapeDtypeStruct | quant.PackedWeight]:
    """What `abstract_decoder` says of the leaves, worked out from their origins.

    No tracing, no memory, microseconds each.

    With a quantization every matrix is packed. Tables stay int8 under int4: a token is chosen among their rows.
    """

    def abstract_param(path: ParamPath, param: ParamSpec) -> jax.ShapeDtypeStruct | quant.PackedWeight:
        if quantization != "none" and param.is_matrix:
            width_out, width_in = param.shape
            return quant.abstract_packed("int8" if path[-1] == "table" else quantization, width_in, width_out)
        return jax.ShapeDtypeStruct(param.transform(np.broadcast_to(np.float32(0), param.shape)).shape, dtype)

    return {path: abstract_param(path, leaf) for path, leaf in params.items()}


def abstract_decoder(spec: DecoderSpec, dtype: DTypeLike) -> tuple["GraphDef", dict[ParamPath, jax.ShapeDtypeStruct]]:
    """The decoder's structure, and the shape and type of every leaf by its path. Allocates nothing."""
    from jaxserve.models import decoder

    return decoder.abstract_decoder(spec, dtype)


def merge_params(graphdef: "GraphDef", weights: Mapping[ParamPath, Any]) -> "Decoder":
    """A Decoder over these weights. Meant for inside a jitted function."""
    from jaxserve.models import decoder

    return decoder.merge_params(graphdef, weights)


__all__ = ["ARCHITECTURES", "Architecture", "abstract_decoder", "merge_params", "find_architecture", "abstract_params"]
