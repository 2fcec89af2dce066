"""Phi 1, 1.5 and 2: attention beside the feed-forward block, LayerNorm, biases everywhere, of the logits, too."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import LLAMA_LAYOUT, DecoderFamily, TensorNames
from jaxserve.models.origins import Layout
from jaxserve.models.spec import DecoderSpec

LAYOUT: Layout = {
    **LLAMA_LAYOUT,
    "output": "self_attn.dense",
    "query_norm": "self_attn.q_layernorm",
    "key_norm": "self_attn.k_layernorm",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("tie_word_embeddings", False, None)  # the head has a bias
    return read_decoder_spec(
        config,
        architecture_name="PhiForCausalLM",
        model_type="phi",
        windows=uniform_windows(config, None),
        default_activation="gelu_new",
        rope_fraction=0.5,
        default_max_positions=2048,
        default_vocab_size=51_200,
        norm={"kind": "layer", "has_bias": True, "eps": config.get_positive_float("layer_norm_eps", 1e-5)},
        attention={
            "qkv_bias": True,
            "output_bias": True,
            "qk_norm": "head" if config.get_bool("qk_layernorm", False) else "none",
        },
        mlp={"is_gated": False, "bias": True},
        layer={"is_parallel": True},
        decoder={"has_head_bias": True},
    )


ARCHITECTURE = DecoderFamily(_read, TensorNames(layouts=(LAYOUT,), final_norm="model.final_layernorm"))
