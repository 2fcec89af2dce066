"""Architecture name → translator: the one table of what we can load.

The decoder itself is imported when it is traced: it brings Flax, and a start that finds its programs needs neither.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
from jax.typing import DTypeLike

from jaxserve.config import Quantization
from jaxserve.errors import UnknownArchitecture
from jaxserve.kvcache.layer_cache import LayerCache
from jaxserve.layers import quant
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.models import (
    gemma2,
    gemma3,
    granite,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)
from jaxserve.models.cost import Cost
from jaxserve.models.spec import DecoderSpec

if TYPE_CHECKING:
    from flax.nnx import GraphDef

    from jaxserve.models.decoder import Decoder


class Architecture(Protocol):
    """A network, its weights, and what it keeps between steps. `abstract_decoder` builds the network of a spec."""

    def spec(self, hf_config: Mapping[str, Any]) -> DecoderSpec:
        """Return the values of a config.json. Raises UnknownArchitecture, naming the key that is not understood."""
        ...

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every leaf of `abstract_decoder(spec, dtype)`, with its origins in checkpoints."""
        ...

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of checkpoint tensors that may be there and are not read."""
        ...

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps."""
        ...

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline."""
        ...


ARCHITECTURES: dict[str, Architecture] = {
    "Gemma2ForCausalLM": gemma2.ARCHITECTURE,
    "Gemma3ForCausalLM": gemma3.ARCHITECTURE,
    "GraniteForCausalLM": granite.ARCHITECTURE,
    "LlamaForCausalLM": llama.ARCHITECTURE,
    "MistralForCausalLM": mistral.ARCHITECTURE,
    "MixtralForCausalLM": mixtral.ARCHITECTURE,
    "Olmo2ForCausalLM": olmo2.ARCHITECTURE,
    "Phi3ForCausalLM": phi3.ARCHITECTURE,
    "Qwen2ForCausalLM": qwen2.ARCHITECTURE,
    "Qwen3ForCausalLM": qwen3.ARCHITECTURE,
    "Qwen3MoeForCausalLM": qwen3_moe.ARCHITECTURE,
    "SmolLM3ForCausalLM": smollm3.ARCHITECTURE,
}
MODEL_TYPES: dict[str, Architecture] = {
    "gemma2": gemma2.ARCHITECTURE,
    "gemma3_text": gemma3.ARCHITECTURE,
    "granite": granite.ARCHITECTURE,
    "llama": llama.ARCHITECTURE,
    "mistral": mistral.ARCHITECTURE,
    "mixtral": mixtral.ARCHITECTURE,
    "olmo2": olmo2.ARCHITECTURE,
    "phi3": phi3.ARCHITECTURE,
    "qwen2": qwen2.ARCHITECTURE,
    "qwen3": qwen3.ARCHITECTURE,
    "qwen3_moe": qwen3_moe.ARCHITECTURE,
    "smollm3": smollm3.ARCHITECTURE,
}


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
    """Return shape and type of every leaf, without tracing and without memory.

    With a quantization every packable weight is packed. Tables stay int8 under int4: a token is chosen among their
    rows.
    """

    def abstract_param(path: ParamPath, param: ParamSpec) -> jax.ShapeDtypeStruct | quant.PackedWeight:
        if quantization == "none" or not param.is_packable:
            return jax.ShapeDtypeStruct(param.shape, dtype)
        if path[-1] == "table":
            return quant.abstract_packed("int8", width_in=param.shape[1], width_out=param.shape[0])
        *experts, width_in, width_out = param.shape
        return quant.abstract_packed(quantization, width_in, width_out, num_experts=experts[0] if experts else None)

    return {path: abstract_param(path, param) for path, param in params.items()}


def abstract_decoder(spec: DecoderSpec, dtype: DTypeLike) -> tuple["GraphDef", dict[ParamPath, jax.ShapeDtypeStruct]]:
    """The decoder's structure, and the shape and type of every leaf by its path. Allocates nothing."""
    from jaxserve.models import decoder

    return decoder.abstract_decoder(spec, dtype)


def merge_params(graphdef: "GraphDef", weights: Mapping[ParamPath, Any]) -> "Decoder":
    """A Decoder over these weights. Meant for inside a jitted function."""
    from jaxserve.models import decoder

    return decoder.merge_params(graphdef, weights)


__all__ = ["ARCHITECTURES", "Architecture", "abstract_decoder", "merge_params", "find_architecture", "abstract_params"]
