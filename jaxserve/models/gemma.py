"""Gemma 1: scaled embeddings, norms of 1 + scale, a gated block with GELU in its tanh form."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    config.require("use_bidirectional_attention", False, None)
    # Published configs say gelu and mean its tanh form, with which the models were trained.
    for name in ("hidden_act", "hidden_activation"):
        config.require(name, "gelu", "gelu_pytorch_tanh", None)
    return read_decoder_spec(
        config,
        architecture_name="GemmaForCausalLM",
        model_type="gemma",
        windows=uniform_windows(config, None),
        num_kv_heads=16,
        head_dim=256,
        default_activation="gelu_pytorch_tanh",
        default_max_positions=8192,
        default_vocab_size=256_000,
        tie_embeddings=True,
        norm={"kind": "rms_plus_one"},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"activation": "gelu_tanh"},
        decoder={"embedding_multiplier": config.get_positive_int("hidden_size") ** 0.5},
    )


ARCHITECTURE = DecoderFamily(_read)
