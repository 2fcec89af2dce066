"""HyperCLOVA X (SEED Think): Granite with norms behind the blocks, too, and logits that are multiplied."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec

NORMS = {
    "attention_post_norm": "post_norm1",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_norm2",
}


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    scale = {}
    if config.get("attention_multiplier", None) is not None:
        scale["scale"] = config.get_positive_float("attention_multiplier")
    return read_decoder_spec(
        config,
        architecture_name="HyperCLOVAXForCausalLM",
        model_type="hyperclovax",
        windows=uniform_windows(config, None),
        default_max_positions=2048,
        default_vocab_size=32_000,
        attention={"qkv_bias": bias, "output_bias": bias} | scale,
        mlp={"bias": config.get_bool("mlp_bias", False)},
        layer={
            "norm_place": "sandwich" if config.get_bool("use_post_norm", True) else "pre",
            "residual_multiplier": config.get_positive_float("residual_multiplier", 1.0),
        },
        decoder={
            "embedding_multiplier": config.get_positive_float("embedding_multiplier", 1.0),
            "logits_multiplier": config.get_positive_float("logits_scaling", 1.0),
        },
    )


ARCHITECTURE = DecoderFamily(_read, named(NORMS))
