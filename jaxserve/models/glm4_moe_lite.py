"""GLM 4.7 Flash: DeepSeek-V3's attention and mixture of experts, with a list of the layers that are dense."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.deepseek_v3 import NAMES
from jaxserve.models.family import DecoderFamily
from jaxserve.models.latent_values import LatentSizes, read_latent_attention
from jaxserve.models.moe_values import read_deepseek_moe, read_sparse_types, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    max_positions = config.get_positive_int("max_position_embeddings", 202_752)
    is_interleaved = config.get_bool("rope_interleave", True)
    defaults = LatentSizes(q_lora_rank=768, qk_nope_head_dim=192, v_head_dim=256)
    spec = read_decoder_spec(
        config,
        architecture_name="Glm4MoeLiteForCausalLM",
        model_type="glm4_moe_lite",
        windows=uniform_windows(config, None),
        default_max_positions=max_positions,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention=read_latent_attention(config, max_positions, is_interleaved=is_interleaved, defaults=defaults),
    )
    moe = read_deepseek_moe(config, num_experts=64, top_k=4, hidden=1536, num_shared=1, renormalize=True, scale=1.8)
    return with_experts(spec, moe, read_sparse_types(config, spec.num_layers, num_dense=1))


ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("model.layers.{}.*",))
