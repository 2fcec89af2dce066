"""StarCoder 2: LayerNorm with biases, biases on all projections, a feed-forward block without a gate."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_window, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec

RELICS = {
    "activation_function": "gelu",
    "attention_softmax_in_fp32": True,
    "mlp_type": "default",
    "norm_type": "layer_norm",
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
}
"""Keys of StarCoder 1 in published configs, which transformers does not read, with the only values that fit."""


def _read(config: ConfigReader) -> DecoderSpec:
    bias, eps = config.get_bool("use_bias", True), config.get_positive_float("norm_epsilon", 1e-5)
    config.require("layer_norm_epsilon", eps, None)
    config.require_each(RELICS)
    return read_decoder_spec(
        config,
        architecture_name="Starcoder2ForCausalLM",
        model_type="starcoder2",
        windows=uniform_windows(config, read_window(config)),
        num_kv_heads=2,
        default_activation="gelu_pytorch_tanh",
        default_max_positions=4096,
        default_vocab_size=49_152,
        tie_embeddings=True,
        norm={"kind": "layer", "has_bias": True, "eps": eps},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"is_gated": False, "bias": bias},
    )


ARCHITECTURE = DecoderFamily(_read, named({"up": "mlp.c_fc", "down": "mlp.c_proj"}))
