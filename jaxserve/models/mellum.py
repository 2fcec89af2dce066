"""Mellum 2: Qwen 3's attention with windows and a rotation for each kind of layer, and experts in most layers."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows, read_window, with_typed_ropes
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_num_experts, read_qwen_experts, read_sparse_types, with_experts
from jaxserve.models.rope_config import ThetaKey, read_typed_ropes
from jaxserve.models.spec import DecoderSpec

UNUSED = ("num_mtp_layers", "num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")
UNUSED += ("max_window_layers", "use_sliding_window")
"""Keys of drafts, and keys of Qwen that published files have: here windows are those of layer_types alone."""
THETAS = {
    "full_attention": ThetaKey("rope_theta", 500_000.0),
    "sliding_attention": ThetaKey("rope_local_base_freq", 10_000.0),
}


def _read(config: ConfigReader) -> DecoderSpec:
    config.ignore(*UNUSED)
    bias = config.get_bool("attention_bias", False)
    window = read_window(config) if config.has("sliding_window") else 1024
    windows = read_typed_windows(config, window, full_every=1)
    ropes = read_typed_ropes(config, THETAS, default_max_positions=131_072, default_head_dim=128)
    spec = read_decoder_spec(
        config,
        architecture_name="MellumForCausalLM",
        model_type="mellum",
        windows=windows,
        num_kv_heads=4,
        head_dim=128,
        rope=ropes["full_attention"],
        default_max_positions=131_072,
        default_vocab_size=98_304,
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"},
    )
    num_experts = read_num_experts(config, "num_experts", "num_local_experts", default=64)
    renormalize = config.get_bool("norm_topk_prob", True)
    moe = read_qwen_experts(config, num_experts=num_experts, top_k=8, hidden=896, renormalize=renormalize)
    sparse = read_sparse_types(config, spec.num_layers, num_dense=0)
    return with_experts(with_typed_ropes(spec, ropes), moe, sparse)


ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, STACKED_EXPERTS, FUSED_EXPERTS), unread=("mtp.*",))
