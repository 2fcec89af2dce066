"""Qwen3-Next: the gated delta rule in most layers, gated attention in the others, experts beside a shared one."""

from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.delta_values import gated_delta_names, read_gated_delta
from jaxserve.models.family import DecoderFamily
from jaxserve.models.moe_values import read_qwen_experts, read_sparse_layers, with_experts
from jaxserve.models.origins import BY_HEAD, Layout
from jaxserve.models.spec import DecoderSpec

PROJECTIONS: Layout = {
    **dict.fromkeys(("delta_query", "delta_key", "delta_value", "delta_gate"), "linear_attn.in_proj_qkvz" + BY_HEAD),
    **dict.fromkeys(("delta_rate", "delta_decay"), "linear_attn.in_proj_ba" + BY_HEAD),
}


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_gated_delta(config, architecture_name="Qwen3NextForCausalLM", model_type="qwen3_next", num_kv_heads=2)
    moe = read_qwen_experts(
        config,
        num_experts=config.get_positive_int("num_experts", 512, maximum=MAX_EXPERTS),
        top_k=10,
        hidden=512,
        shared=512,
        renormalize=config.get_bool("norm_topk_prob", True),
    )
    return with_experts(spec, moe, read_sparse_layers(config, spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, gated_delta_names(PROJECTIONS), unread=("mtp.*",))
