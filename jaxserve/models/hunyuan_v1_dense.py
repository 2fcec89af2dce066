"""Hunyuan, dense: a norm over each head behind the rotation, whose base is stretched by an alpha."""

from jaxserve.models.alpha_rope import read_alpha_rope
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.origins import Layout
from jaxserve.models.spec import DecoderSpec

RELICS = {"add_classification_head": False, "mlp_bias": False, "norm_type": "rms"} | {
    "use_cla": False,
    "use_qk_norm": True,
    "use_rotary_pos_emb": True,
}
"""Keys of published configs that transformers does not read, with the only values that fit."""
UNUSED = (
    *("cla_share_factor", "class_num", "dense_list", "eod_token_id", "im_end_id", "im_newline_id", "im_start_id"),
    *("image_token_id", "mask_init_id", "org_vocab_size", "pool_type", "text_end_id", "text_start_id"),
)


def read_hunyuan(config: ConfigReader, *, architecture_name: str, model_type: str) -> DecoderSpec:
    """Return the spec of a decoder with dense feed-forward blocks; the arguments are those of read_decoder_spec."""
    config.require_each(RELICS)
    config.ignore(*UNUSED)
    bias, head_dim = config.get_bool("attention_bias", False), config.get("attention_head_dim", None)
    spec = read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        windows=uniform_windows(config, None),
        head_dim=head_dim,
        rope=read_alpha_rope(config),
        default_max_positions=2048,
        default_vocab_size=290_943,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head", "norms_after_rope": True},
    )
    config.require("attention_head_dim", head_dim, None)
    return spec


def _read(config: ConfigReader) -> DecoderSpec:
    return read_hunyuan(config, architecture_name="HunYuanDenseV1ForCausalLM", model_type="hunyuan_v1_dense")


HEAD_NORMS: Layout = {"query_norm": "self_attn.query_layernorm", "key_norm": "self_attn.key_layernorm"}
ARCHITECTURE = DecoderFamily(_read, named(HEAD_NORMS))
