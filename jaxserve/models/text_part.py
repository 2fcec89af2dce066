"""The text part of a multimodal checkpoint: a text model of another family, under a prefix beside the other parts.

config.json holds the text model's own config as `text_config`; keys and tensors of the other parts are passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec
from jaxserve.models.architecture import Architecture
from jaxserve.models.config_reader import IGNORED_KEYS, ConfigReader
from jaxserve.models.cost import Cost
from jaxserve.models.spec import DecoderSpec

GEMMA4_SIZES = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30, "num_attention_heads": 8}
TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
    },
    "gemma4_text": GEMMA4_SIZES,
    "gemma4_unified_text": GEMMA4_SIZES,
    "llama4_text": {
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
    },
    "ministral3": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "max_position_embeddings": 262_144,
        "vocab_size": 131_072,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 131_072,
        "vocab_size": 32_000,
    },
    "qwen3_5_text": {
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "vocab_size": 248_320,
    },
    "qwen3_5_moe_text": {
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "vocab_size": 248_320,
    },
}
"""Sizes of transformers' config classes. A published text_config leaves out what equals them, while a config.json of a
text model names them, so that only here a missing size is one."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """The place of the text model in a multimodal architecture, and the names of its other parts.

    model_type        of its config.json
    text_model_type   of its text_config where that names none
    prefixes          names of the text model's body and head: what `model.` and `lm_head.` become, the usual way first
    other_keys        keys of config.json that concern the other parts
    other_tensors     patterns of the other parts' tensors
    """

    model_type: str
    text_model_type: str
    other_keys: frozenset[str]
    prefixes: tuple[tuple[str, str], ...] = (
        ("language_model.model.", "language_model.lm_head."),
        ("model.language_model.", "lm_head."),  # transformers 5 in memory
    )
    other_tensors: tuple[str, ...] = (
        "vision_tower.*",
        "multi_modal_projector.*",
        "model.vision_tower.*",
        "model.multi_modal_projector.*",
    )

    def text_config(self, hf_config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the text model's config.json.

        Raises UnknownArchitecture if there is none.
        """
        inner = hf_config.get("text_config")
        if not isinstance(inner, Mapping):
            raise ConfigReader(hf_config).unsupported("text_config", inner, "an object, the text model's config")
        model_type = str(inner.get("model_type") or self.text_model_type)
        text_config = {**TEXT_DEFAULTS.get(model_type, {}), **inner, "model_type": model_type}
        if "tie_word_embeddings" in hf_config:
            text_config.setdefault("tie_word_embeddings", hf_config["tie_word_embeddings"])
        return text_config


@dataclass(frozen=True, slots=True)
class TextPart:
    """The text model inside a multimodal architecture.

    name          of the multimodal architecture
    text          the text model's family
    ties_if_lacking   the logits read the embedding table if the checkpoint has no head: transformers 5 writes a true
                      outside and a false inside text_config, and goes by the tensors
    """

    name: str
    wrapper: Wrapper
    text: Architecture
    ties_if_lacking: bool

    def spec(self, hf_config: Mapping[str, Any], where: str = "config.json") -> DecoderSpec:
        """Return the values of the text model. Raises UnknownArchitecture, naming the key that is not understood."""
        outer = ConfigReader(hf_config, where)
        outer.require("model_type", self.wrapper.model_type)
        outer.reject_unread(ignored=IGNORED_KEYS | self.wrapper.other_keys | {"text_config", "tie_word_embeddings"})
        spec = self.text.spec(self.wrapper.text_config(hf_config), f"{where}, text_config")
        return replace(spec, architecture_name=f"{spec.architecture_name}, the text part of {self.name}")

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every weight of the text model, with its origins under each of the prefixes."""
        params = {
            path: replace(param, origins=self._prefixed(param.origins))
            for path, param in self.text.params(spec).items()
        }
        head, table = params.get(("head", "table")), params["embed", "table"]
        if head is not None and self.ties_if_lacking:
            params["head", "table"] = replace(head, origins=head.origins + table.origins)
        return params

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of tensors that may be there and are not read: all of the other parts, and the text's own."""
        own = (
            self._rename(pattern, prefixes)
            for pattern in self.text.ignored_tensors(spec)
            for prefixes in self.wrapper.prefixes
        )
        return frozenset(self.wrapper.other_tensors) | frozenset(own)

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps."""
        return self.text.cache(spec)

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline."""
        return self.text.cost(spec)

    def _prefixed(self, origins: tuple[Origin, ...]) -> tuple[Origin, ...]:
        return tuple(
            replace(
                origin,
                sources=tuple(replace(source, name=self._rename(source.name, prefixes)) for source in origin.sources),
            )
            for prefixes in self.wrapper.prefixes
            for origin in origins
        )

    def _rename(self, name: str, prefixes: tuple[str, str]) -> str:
        for inner, outer in zip(("model.", "lm_head."), prefixes, strict=True):
            if name.startswith(inner):
                return outer + name.removeprefix(inner)
        return name


GEMMA3 = Wrapper(
    model_type="gemma3",
    text_model_type="gemma3_text",
    other_keys=frozenset(
        {"vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"}
    ),
)
GEMMA4 = Wrapper(
    model_type="gemma4",
    text_model_type="gemma4_text",
    prefixes=(("model.language_model.", "lm_head."),),
    other_tensors=("model.vision_tower.*", "model.embed_vision.*", "model.audio_tower.*", "model.embed_audio.*"),
    other_keys=frozenset(
        {"vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id", "video_token_id"}
        | {"boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id", "vision_soft_tokens_per_image"}
    ),
)
MISTRAL3 = Wrapper(
    model_type="mistral3",
    text_model_type="mistral",
    other_keys=frozenset(
        {"vision_config", "image_token_index", "multimodal_projector_bias", "projector_hidden_act"}
        | {"spatial_merge_size", "vision_feature_layer"}
    ),
)
LLAMA4 = Wrapper(
    model_type="llama4",
    text_model_type="llama4_text",
    other_keys=frozenset({"vision_config", "boi_token_index", "eoi_token_index", "image_token_index"}),
    prefixes=(("language_model.model.", "language_model.lm_head."),),
    other_tensors=("vision_model.*", "multi_modal_projector.*"),
)
QWEN3_5 = Wrapper(
    model_type="qwen3_5",
    text_model_type="qwen3_5_text",
    prefixes=(("model.language_model.", "lm_head."),),
    other_tensors=("model.visual.*", "mtp.*"),
    other_keys=frozenset(
        {"vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"}
        | {"language_model_only"}
    ),
)
WRAPPERS = {
    "Gemma3ForConditionalGeneration": GEMMA3,
    "Gemma4ForConditionalGeneration": GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": replace(
        GEMMA4,
        model_type="gemma4_unified",
        text_model_type="gemma4_unified_text",
        other_tensors=("model.vision_embedder.*", *GEMMA4.other_tensors),
    ),
    "Llama4ForConditionalGeneration": LLAMA4,
    "Mistral3ForConditionalGeneration": MISTRAL3,
    "Qwen3_5ForConditionalGeneration": QWEN3_5,
    "Qwen3_5MoeForConditionalGeneration": replace(
        QWEN3_5, model_type="qwen3_5_moe", text_model_type="qwen3_5_moe_text"
    ),
}
