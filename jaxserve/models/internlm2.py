"""InternLM 2 and 2.5: Llama under other names, with each key head's queries, key and value together in one tensor."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, TensorNames
from jaxserve.models.internlm3 import read_dynamic
from jaxserve.models.origins import BY_HEAD, Layout
from jaxserve.models.spec import DecoderSpec

LAYOUT: Layout = {
    **dict.fromkeys(("query", "key", "value"), "attention.wqkv" + BY_HEAD),
    "output": "attention.wo",
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
    "attention_norm": "attention_norm",
    "mlp_norm": "ffn_norm",
}
NAMES = TensorNames(layouts=(LAYOUT,), embedding="model.tok_embeddings", head="output")


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("bias", True)
    config.get("attn_implementation", None)
    return read_decoder_spec(
        config,
        architecture_name="InternLM2ForCausalLM",
        model_type="internlm2",
        windows=uniform_windows(config, None),
        rope=read_dynamic(config),
        default_max_positions=2048,
        default_vocab_size=103_168,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-6)},
        attention={"qkv_bias": bias, "output_bias": bias},
    )


ARCHITECTURE = DecoderFamily(_read, NAMES)
