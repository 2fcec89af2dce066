"""MiniCPM 3: latent attention, and multipliers for embeddings, residuals and logits."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import LATENT, DecoderFamily, named
from jaxserve.models.latent_values import LatentSizes, read_latent_attention
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    width, max_positions = config.get_positive_int("hidden_size"), config.get_positive_int("max_position_embeddings")
    windows, num_heads = uniform_windows(config, None), config.get_positive_int("num_attention_heads")
    defaults = LatentSizes(
        q_lora_rank=768, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=width // num_heads
    )
    depth = config.get_positive_float("scale_depth", 1.4)
    return read_decoder_spec(
        config,
        architecture_name="MiniCPM3ForCausalLM",
        model_type="minicpm3",
        windows=windows,
        tie_embeddings=True,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention=read_latent_attention(config, max_positions, is_interleaved=False, defaults=defaults),
        layer={"residual_multiplier": depth / len(windows) ** 0.5},
        decoder={
            "embedding_multiplier": config.get_positive_float("scale_emb", 12),
            "logits_multiplier": config.get_positive_float("dim_model_base", 256) / width,
        },
    )


ARCHITECTURE = DecoderFamily(_read, named(LATENT))
