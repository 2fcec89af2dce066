"""GPT-NeoX and Pythia: blocks side by side, each with a norm of its own, over one tensor that is fused by head."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import LLAMA_LAYOUT, DecoderFamily, TensorNames
from jaxserve.models.origins import BY_HEAD, Layout
from jaxserve.models.spec import DecoderSpec

LAYOUT: Layout = {
    **LLAMA_LAYOUT,
    "query": "attention.query_key_value" + BY_HEAD,
    "key": "attention.query_key_value" + BY_HEAD,
    "value": "attention.query_key_value" + BY_HEAD,
    "output": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
NAMES = TensorNames(
    layouts=(LAYOUT,),
    layer="gpt_neox.layers.{}.",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
)


def _read(config: ConfigReader) -> DecoderSpec:
    bias, is_parallel = config.get_bool("attention_bias", True), config.get_bool("use_parallel_residual", True)
    config.require("num_key_value_heads", None)
    return read_decoder_spec(
        config,
        architecture_name="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        windows=uniform_windows(config, None),
        default_activation="gelu",
        default_theta=config.get_positive_float("rotary_emb_base", 10_000.0),
        rope_fraction=config.get_positive_float("rotary_pct", 0.25),
        default_max_positions=2048,
        default_vocab_size=50_432,
        norm={"kind": "layer", "has_bias": True, "eps": config.get_positive_float("layer_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"is_gated": False, "bias": True},
        layer={"is_parallel": is_parallel, "has_two_norms": is_parallel},
    )


ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("*.attention.bias", "*.attention.masked_bias"))
