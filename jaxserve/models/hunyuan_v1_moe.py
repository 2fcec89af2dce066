"""Hunyuan with experts (A13B): the attention of the dense models, and a shared block beside the chosen experts."""

from typing import Any

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_top_k
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, DecoderFamily, named
from jaxserve.models.hunyuan_v1_dense import HEAD_NORMS, read_hunyuan
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec

RELICS = {"group_limited_greedy": False, "moe_layer_num_skipped": 0, "norm_topk_prob": True} | {
    "routed_scaling_factor": 1.0,
    "use_mixed_mlp_moe": True,
    "use_mla": False,
    "position_embedding_xdrope": False,
}
"""Keys of published configs that transformers does not read, with the only values that fit."""
UNUSED = (
    *("anyres_pooling_size", "kv_lora_rank", "moe_drop_tokens", "moe_random_routing_dropped_token", "n_group"),
    *("num_media_embeds", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "topk_group", "v_head_dim"),
)


def _read(config: ConfigReader) -> DecoderSpec:
    config.require_each(RELICS)
    config.ignore(*UNUSED)
    spec = read_hunyuan(config, architecture_name="HunYuanMoEV1ForCausalLM", model_type="hunyuan_v1_moe")
    num_experts = read_num_experts(config, "num_experts", default=1)
    hidden = config.get_positive_int("intermediate_size")
    _require_everywhere(config, "moe_intermediate_size", hidden)
    _require_everywhere(config, "num_shared_expert", 1)
    top_k = config.get("moe_topk", 1)
    top_k = top_k[0] if isinstance(top_k, list) and top_k else config.get_positive_int("moe_topk", 1)
    _require_everywhere(config, "moe_topk", top_k)
    router = RouterSpec(top_k=read_top_k(config, num_experts, top_k))
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden, shared=hidden)
    return with_experts(spec, moe, range(spec.num_layers))


def _require_everywhere(config: ConfigReader, name: str, value: Any) -> None:
    """Require a value of all layers, which a config says once or in a list."""
    config.require(name, value, [value] * config.get_positive_int("num_hidden_layers"), None)


SHARED = {f"shared_mlp_{name}": f"mlp.shared_mlp.{name}_proj" for name in ("gate", "up", "down")}
ROUTER = {"router": "mlp.gate.wg"}
ARCHITECTURE = DecoderFamily(_read, named({**HEAD_NORMS, **EXPERTS, **SHARED, **ROUTER}, {**FUSED_EXPERTS, **ROUTER}))
