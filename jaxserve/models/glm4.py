"""GLM-4 of 2025 (0414): GLM with norms before and after each block."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.glm import GATE_UP, read_glm
from jaxserve.models.spec import DecoderSpec

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_self_attn_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
}


def _read(config: ConfigReader) -> DecoderSpec:
    layer = {"norm_place": "sandwich"}
    return read_glm(config, architecture_name="Glm4ForCausalLM", model_type="glm4", layer=layer)


ARCHITECTURE = DecoderFamily(_read, named(GATE_UP | NORMS))
