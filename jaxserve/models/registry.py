"""Architecture name → translator: the one table of what we can load."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxserve.errors import UnknownArchitecture
from jaxserve.models import llama, mistral, qwen2, qwen3
from jaxserve.models.decoder import abstract, assemble
from jaxserve.models.spec import DecoderSpec, Leaf, Path


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


__all__ = ["ARCHITECTURES", "Architecture", "abstract", "assemble", "find"]
