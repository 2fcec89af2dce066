"""Gemma 2: norms before and after each block, windows in every other layer, soft caps of scores and logits."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_nullable_float, read_typed_windows
from jaxserve.models.family import SANDWICH, DecoderFamily, named
from jaxserve.models.spec import DecoderSpec, NormPlace


def read_gemma2(config: ConfigReader, *, architecture_name: str, model_type: str, norm_place: NormPlace) -> DecoderSpec:
    """Return the spec of Gemma 2, or of VaultGemma, which has norms in another place."""
    bias = config.get_bool("attention_bias", False)
    config.require("use_bidirectional_attention", False, None)
    return read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        windows=read_typed_windows(config, config.get_positive_int("sliding_window", 4096), full_every=2),
        num_kv_heads=4,
        head_dim=256,
        activation_key="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        norm={"kind": "rms_plus_one"},
        tie_embeddings=True,
        attention={
            "scale": config.get_positive_float("query_pre_attn_scalar", 256) ** -0.5,
            "softcap": read_nullable_float(config, "attn_logit_softcapping", 50.0),
            "qkv_bias": bias,
            "output_bias": bias,
        },
        layer={"norm_place": norm_place},
        decoder={
            "embedding_multiplier": config.get_positive_int("hidden_size") ** 0.5,
            "logits_softcap": read_nullable_float(config, "final_logit_softcapping", 30.0),
        },
    )


def _read(config: ConfigReader) -> DecoderSpec:
    return read_gemma2(config, architecture_name="Gemma2ForCausalLM", model_type="gemma2", norm_place="sandwich")


ARCHITECTURE = DecoderFamily(_read, named(SANDWICH))
