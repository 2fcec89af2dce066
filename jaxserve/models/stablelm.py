"""StableLM 3B and StableLM 2: Llama with LayerNorm and heads of which a quarter rotates.

The 12B has a norm over each query and key head, with numbers of its own.
"""

from jaxserve.layers.norms import NormSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    eps, has_head_norms = config.get_positive_float("layer_norm_eps", 1e-5), config.get_bool("qk_layernorm", False)
    norms = {"qk_norm": "each", "head_norm": NormSpec(eps, "layer")} if has_head_norms else {}
    return read_decoder_spec(
        config,
        architecture_name="StableLmForCausalLM",
        model_type="stablelm",
        windows=uniform_windows(config, None),
        num_kv_heads=32,
        rope_fraction=0.25,
        default_max_positions=4096,
        default_vocab_size=50_304,
        norm={"kind": "layer", "has_bias": True, "eps": eps},
        attention={"qkv_bias": config.get_bool("use_qkv_bias", False), **norms},
        layer={"is_parallel": config.get_bool("use_parallel_residual", False)},
    )


HEAD_NORMS = {f"{name}_norm": f"self_attn.{name[0]}_layernorm.norms.{{}}" for name in ("query", "key")}
STACKED = {f"{name}_norm": f"self_attn.{name[0]}_norm" for name in ("query", "key")}  # as GGUF has them
ARCHITECTURE = DecoderFamily(_read, named(HEAD_NORMS, STACKED))
