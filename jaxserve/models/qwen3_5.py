"""Qwen 3.5 and 3.6, the text model: Qwen3-Next's layers with projections in tensors of their own, dense or experts."""

from typing import Any

from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.delta_values import gated_delta_names, read_gated_delta
from jaxserve.models.family import DecoderFamily
from jaxserve.models.moe_values import read_qwen_experts, with_experts
from jaxserve.models.origins import Layout
from jaxserve.models.spec import DecoderSpec

PROJECTIONS: Layout = {
    **dict.fromkeys(("delta_query", "delta_key", "delta_value"), "linear_attn.in_proj_qkv"),
    "delta_gate": "linear_attn.in_proj_z",
    "delta_rate": "linear_attn.in_proj_b",
    "delta_decay": "linear_attn.in_proj_a",
}


def _read_text(config: ConfigReader, name: str, model_type: str, **values: Any) -> DecoderSpec:
    config.require("attn_output_gate", True, None)
    config.require("mamba_ssm_dtype", "float32", None)
    config.require("mlp_only_layers", [], None)
    config.ignore("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # layers that guess ahead: not computed
    return read_gated_delta(config, architecture_name=name, model_type=model_type, **values)


def _read(config: ConfigReader) -> DecoderSpec:
    return _read_text(config, "Qwen3_5ForCausalLM", "qwen3_5_text", num_kv_heads=4)


def _read_moe(config: ConfigReader) -> DecoderSpec:
    config.require("norm_topk_prob", True, None)
    num_experts = config.get_positive_int("num_experts", 256, maximum=MAX_EXPERTS)
    moe = read_qwen_experts(config, num_experts=num_experts, top_k=8, hidden=512, shared=512, renormalize=True)
    spec = _read_text(config, "Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", mlp={"hidden": moe.hidden}, num_kv_heads=2)
    return with_experts(spec, moe, range(spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, gated_delta_names(PROJECTIONS), unread=("mtp.*",))
MOE_ARCHITECTURE = DecoderFamily(_read_moe, gated_delta_names(PROJECTIONS), unread=("mtp.*",))
