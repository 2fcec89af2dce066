"""The table of architectures that can be loaded, by name.

The decoder itself is imported when it is traced: it brings Flax, and a start that finds its programs needs neither.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxserve.config import Quantization
from jaxserve.errors import UnknownArchitecture
from jaxserve.layers import quant
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.scaled_weight import ScaledForm, ScaledKind, ScaledWeight, abstract_scaled
from jaxserve.models import (
    afmoe,
    apertus,
    arcee,
    bamba,
    cohere,
    cohere2,
    cwm,
    deepseek_v2,
    deepseek_v3,
    dots1,
    ernie4_5,
    ernie4_5_moe,
    exaone4,
    exaone_moe,
    falcon_h1,
    flex_olmo,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    glm,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt_neox,
    gpt_oss,
    granite,
    granite_swa,
    granitemoe,
    granitemoehybrid,
    granitemoeshared,
    helium,
    hunyuan_v1_dense,
    hunyuan_v1_moe,
    hyperclovax,
    internlm2,
    internlm3,
    jais2,
    kimi_linear,
    lfm2,
    lfm2_moe,
    llama,
    llama4,
    mellum,
    mimo_v2_flash,
    minicpm3,
    minimax_m2,
    ministral,
    ministral3,
    mistral,
    mixtral,
    nanochat,
    nemotron,
    nemotron_h,
    olmo,
    olmo2,
    olmo3,
    olmoe,
    phi,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    solar_open,
    stablelm,
    starcoder2,
    vaultgemma,
    youtu,
)
from jaxserve.models.architecture import Architecture
from jaxserve.models.encoder_spec import EncoderSpec
from jaxserve.models.spec import DecoderSpec
from jaxserve.models.text_part import WRAPPERS, TextPart, Wrapper
from jaxserve.parallel.ranks import ONE_RANK, Ranks

if TYPE_CHECKING:
    from flax.nnx import GraphDef

    from jaxserve.models.decoder import Decoder
    from jaxserve.models.encoder import Encoder


AbstractWeight: TypeAlias = jax.ShapeDtypeStruct | quant.PackedWeight | ScaledWeight
"""Shape and type of a weight."""

_FAMILIES: tuple[tuple[str, str, Architecture], ...] = (  # architectures, model_type
    ("AfmoeForCausalLM", "afmoe", afmoe.ARCHITECTURE),
    ("ApertusForCausalLM", "apertus", apertus.ARCHITECTURE),
    ("ArceeForCausalLM", "arcee", arcee.ARCHITECTURE),
    ("BambaForCausalLM", "bamba", bamba.ARCHITECTURE),
    ("Cohere2ForCausalLM", "cohere2", cohere2.ARCHITECTURE),
    ("CohereForCausalLM", "cohere", cohere.ARCHITECTURE),
    ("CwmForCausalLM", "cwm", cwm.ARCHITECTURE),
    ("DeepseekV2ForCausalLM", "deepseek_v2", deepseek_v2.ARCHITECTURE),
    ("DeepseekV3ForCausalLM", "deepseek_v3", deepseek_v3.ARCHITECTURE),
    ("Dots1ForCausalLM", "dots1", dots1.ARCHITECTURE),
    ("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", ernie4_5_moe.ARCHITECTURE),
    ("Ernie4_5ForCausalLM", "ernie4_5", ernie4_5.ARCHITECTURE),
    ("Exaone4ForCausalLM", "exaone4", exaone4.ARCHITECTURE),
    ("ExaoneMoeForCausalLM", "exaone_moe", exaone_moe.ARCHITECTURE),
    ("FalconH1ForCausalLM", "falcon_h1", falcon_h1.ARCHITECTURE),
    ("FlexOlmoForCausalLM", "flex_olmo", flex_olmo.ARCHITECTURE),
    ("Gemma2ForCausalLM", "gemma2", gemma2.ARCHITECTURE),
    ("Gemma3ForCausalLM", "gemma3_text", gemma3.ARCHITECTURE),
    ("Gemma4ForCausalLM", "gemma4_text", gemma4.ARCHITECTURE),
    ("Gemma4UnifiedForCausalLM", "gemma4_unified_text", gemma4.UNIFIED_ARCHITECTURE),
    ("GemmaForCausalLM", "gemma", gemma.ARCHITECTURE),
    ("Glm4ForCausalLM", "glm4", glm4.ARCHITECTURE),
    ("Glm4MoeForCausalLM", "glm4_moe", glm4_moe.ARCHITECTURE),
    ("Glm4MoeLiteForCausalLM", "glm4_moe_lite", glm4_moe_lite.ARCHITECTURE),
    ("GlmForCausalLM", "glm", glm.ARCHITECTURE),
    ("GPTNeoXForCausalLM", "gpt_neox", gpt_neox.ARCHITECTURE),
    ("GptOssForCausalLM", "gpt_oss", gpt_oss.ARCHITECTURE),
    ("GraniteForCausalLM", "granite", granite.ARCHITECTURE),
    ("GraniteMoeForCausalLM", "granitemoe", granitemoe.ARCHITECTURE),
    ("GraniteMoeHybridForCausalLM", "granitemoehybrid", granitemoehybrid.ARCHITECTURE),
    ("GraniteMoeSharedForCausalLM", "granitemoeshared", granitemoeshared.ARCHITECTURE),
    ("GraniteSWAForCausalLM", "granite_swa", granite_swa.ARCHITECTURE),
    ("HeliumForCausalLM", "helium", helium.ARCHITECTURE),
    ("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", hunyuan_v1_dense.ARCHITECTURE),
    ("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", hunyuan_v1_moe.ARCHITECTURE),
    ("HyperCLOVAXForCausalLM", "hyperclovax", hyperclovax.ARCHITECTURE),
    ("InternLM2ForCausalLM", "internlm2", internlm2.ARCHITECTURE),
    ("InternLM3ForCausalLM", "internlm3", internlm3.ARCHITECTURE),
    ("Jais2ForCausalLM", "jais2", jais2.ARCHITECTURE),
    ("KimiLinearForCausalLM", "kimi_linear", kimi_linear.ARCHITECTURE),
    ("Lfm2ForCausalLM", "lfm2", lfm2.ARCHITECTURE),
    ("Lfm2MoeForCausalLM", "lfm2_moe", lfm2_moe.ARCHITECTURE),
    ("Llama4ForCausalLM", "llama4_text", llama4.ARCHITECTURE),
    ("LlamaForCausalLM", "llama", llama.ARCHITECTURE),
    ("MellumForCausalLM", "mellum", mellum.ARCHITECTURE),
    ("MiMoV2FlashForCausalLM", "mimo_v2_flash", mimo_v2_flash.ARCHITECTURE),
    ("MiniCPM3ForCausalLM", "minicpm3", minicpm3.ARCHITECTURE),
    ("MiniMaxM2ForCausalLM", "minimax_m2", minimax_m2.ARCHITECTURE),
    ("Ministral3ForCausalLM", "ministral3", ministral3.ARCHITECTURE),
    ("MinistralForCausalLM", "ministral", ministral.ARCHITECTURE),
    ("MistralForCausalLM", "mistral", mistral.ARCHITECTURE),
    ("MixtralForCausalLM", "mixtral", mixtral.ARCHITECTURE),
    ("NanoChatForCausalLM", "nanochat", nanochat.ARCHITECTURE),
    ("NemotronForCausalLM", "nemotron", nemotron.ARCHITECTURE),
    ("NemotronHForCausalLM", "nemotron_h", nemotron_h.ARCHITECTURE),
    ("Olmo2ForCausalLM", "olmo2", olmo2.ARCHITECTURE),
    ("Olmo3ForCausalLM", "olmo3", olmo3.ARCHITECTURE),
    ("OlmoeForCausalLM", "olmoe", olmoe.ARCHITECTURE),
    ("OlmoForCausalLM", "olmo", olmo.ARCHITECTURE),
    ("Phi3ForCausalLM", "phi3", phi3.ARCHITECTURE),
    ("PhiForCausalLM", "phi", phi.ARCHITECTURE),
    ("PhimoeForCausalLM", "phimoe", phimoe.ARCHITECTURE),
    ("Qwen2ForCausalLM", "qwen2", qwen2.ARCHITECTURE),
    ("Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe.ARCHITECTURE),
    ("Qwen3_5ForCausalLM", "qwen3_5_text", qwen3_5.ARCHITECTURE),
    ("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", qwen3_5.MOE_ARCHITECTURE),
    ("Qwen3ForCausalLM", "qwen3", qwen3.ARCHITECTURE),
    ("Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe.ARCHITECTURE),
    ("Qwen3NextForCausalLM", "qwen3_next", qwen3_next.ARCHITECTURE),
    ("SeedOssForCausalLM", "seed_oss", seed_oss.ARCHITECTURE),
    ("SmolLM3ForCausalLM", "smollm3", smollm3.ARCHITECTURE),
    ("SolarOpenForCausalLM", "solar_open", solar_open.ARCHITECTURE),
    ("StableLmForCausalLM", "stablelm", stablelm.ARCHITECTURE),
    ("Starcoder2ForCausalLM", "starcoder2", starcoder2.ARCHITECTURE),
    ("VaultGemmaForCausalLM", "vaultgemma", vaultgemma.ARCHITECTURE),
    ("YoutuForCausalLM", "youtu", youtu.ARCHITECTURE),
)
_REFUSED = {  # architecture: what is not computed here
    "DeepseekV32ForCausalLM": "attention to the tokens that an indexer chooses",
    "GlmMoeDsaForCausalLM": "attention to the tokens that an indexer chooses",
}
_OTHER_NAMES = {  # of architectures in published files → transformers'
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
}
ARCHITECTURES = {name: architecture for name, _, architecture in _FAMILIES}
MODEL_TYPES = {model_type: architecture for _, model_type, architecture in _FAMILIES}


def find_architecture(hf_config: Mapping[str, Any]) -> Architecture:
    """Return the translator for this config.json: by `architectures`, or by `model_type` where that is not given.

    Raises UnknownArchitecture if there is none, also for the text model inside a multimodal one.
    """
    model_type = hf_config.get("model_type") or ""
    given: list[str] = hf_config.get("architectures") or []
    names = [_OTHER_NAMES.get(name, name) for name in given]
    architecture = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if architecture is None and not names:
        architecture = MODEL_TYPES.get(model_type)
    if architecture is not None:
        return architecture
    for name, wrapper in WRAPPERS.items():
        if name in names or (not names and wrapper.model_type == model_type):
            return _find_text_part(hf_config, name, wrapper)
    refused = next((name for name in names if name in _REFUSED), None)
    if refused is not None:
        raise UnknownArchitecture(f"The architecture {refused} has {_REFUSED[refused]}, which is not computed here.")
    requested, wrapped = ", ".join(names) or model_type or "none named", (each.model_type for each in WRAPPERS.values())
    known = ", ".join((*MODEL_TYPES, *wrapped))  # shorter than the names of the classes
    raise UnknownArchitecture(
        f"The architecture in config.json ({requested}) is not known; known are those of the model types {known}."
    )


def _find_text_part(hf_config: Mapping[str, Any], name: str, wrapper: Wrapper) -> TextPart:
    text_config = wrapper.text_config(hf_config)
    text = MODEL_TYPES.get(text_config["model_type"])
    if text is None:
        raise UnknownArchitecture(
            f"The text part of {name} in config.json is of the model_type {text_config['model_type']!r}, which is "
            f"not known; known are {', '.join(MODEL_TYPES)}."
        )
    return TextPart(name, wrapper, text, ties_if_lacking=hf_config.get("tie_word_embeddings") is True)


def abstract_params(
    params: Mapping[ParamPath, ParamSpec],
    dtype: DTypeLike,
    quantization: Quantization = "none",
    kinds: Mapping[ParamPath, ScaledKind | PackedKind] | None = None,
    scaled: ScaledForm | None = None,
) -> dict[ParamPath, AbstractWeight]:
    """Return shape and type of every leaf, without tracing and without allocation.

    With a quantization every packable weight is packed in blocks, or as `scaled` says for an accelerator; or those of
    `kinds` as it says. Tables stay int8 under int4: a token is chosen among their rows.
    """

    def abstract_param(path: ParamPath, param: ParamSpec) -> AbstractWeight:
        if quantization == "none" or not param.is_packable or (kinds is not None and path not in kinds):
            return jax.ShapeDtypeStruct(param.shape, jnp.float32 if param.is_float32 else dtype)
        kind, is_table = quantization if kinds is None else kinds[path], path[-1] == "table"
        if scaled is not None:
            return abstract_scaled(cast(ScaledKind, kind), param.shape, is_table=is_table, form=scaled)
        kind = cast(PackedKind, "int8" if kinds is None and is_table else kind)
        if is_table:
            return quant.abstract_packed(kind, width_in=param.shape[1], width_out=param.shape[0])
        *experts, width_in, width_out = param.shape
        return quant.abstract_packed(kind, width_in, width_out, num_experts=experts[0] if experts else None)

    return {path: abstract_param(path, param) for path, param in params.items()}


def abstract_decoder(
    spec: DecoderSpec, dtype: DTypeLike, ranks: Ranks = ONE_RANK
) -> tuple["GraphDef", dict[ParamPath, jax.ShapeDtypeStruct]]:
    """Return the decoder's structure, and the shape and type of every leaf by its path, whole. Allocates nothing."""
    from jaxserve.models import decoder

    return decoder.abstract_decoder(spec, dtype, ranks)


def merge_params(graphdef: "GraphDef", weights: Mapping[ParamPath, Any]) -> "Decoder":
    """Return a Decoder over these weights. For use inside a jitted function."""
    from jaxserve.models import decoder

    return decoder.merge_params(graphdef, weights)


def abstract_encoder(spec: EncoderSpec, dtype: DTypeLike) -> tuple["GraphDef", dict[ParamPath, jax.ShapeDtypeStruct]]:
    """Return the encoder's structure, and the shape and type of every leaf by its path. Allocates nothing."""
    from jaxserve.models import encoder

    return encoder.abstract_encoder(spec, dtype)


def merge_encoder(graphdef: "GraphDef", weights: Mapping[ParamPath, Any]) -> "Encoder":
    """Return an Encoder over these weights. For use inside a jitted function."""
    from jaxserve.models import encoder

    return encoder.merge_encoder(graphdef, weights)


__all__ = ["ARCHITECTURES", "Architecture", "abstract_decoder", "merge_params", "find_architecture", "abstract_params"]
__all__ += ["abstract_encoder", "merge_encoder"]
