"""Kimi Linear: Kimi's delta rule in most layers, latent attention that does not rotate, and DeepSeek's experts."""

from collections.abc import Mapping
from dataclasses import replace

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_layer_types, with_attention
from jaxserve.models.family import LATENT, DecoderFamily, named
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_values import LatentSizes, read_latent_attention
from jaxserve.models.mixtral import EXPERTS
from jaxserve.models.moe_values import read_deepseek_moe, read_sparse_types, with_experts
from jaxserve.models.origins import Layout
from jaxserve.models.spec import DecoderSpec

OWN_NAMES = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "moe_router_activation_func": "scoring_func",
    "num_expert_group": "n_group",
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
"""Names of keys in published configs, and those that they have in DeepSeek's."""
KINDS = ("linear_attention", "full_attention")


def _read(config: ConfigReader) -> DecoderSpec:
    config.rename(OWN_NAMES)
    config.require("mla_use_nope", True, None)
    config.require("use_grouped_topk", True, None)
    max_positions = config.get_positive_int("max_position_embeddings", 1_048_576)
    latent = read_latent_attention(config, max_positions, is_interleaved=False, defaults=LatentSizes(q_lora_rank=None))
    types = _read_types(config)
    spec = read_decoder_spec(
        config,
        architecture_name="KimiLinearForCausalLM",
        model_type="kimi_linear",
        windows=(None,) * len(types),
        default_max_positions=max_positions,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention=replace(latent, rope=None),
    )
    spec = with_attention(spec, _read_delta(config), [at for at, kind in enumerate(types) if kind == KINDS[0]])
    moe = read_deepseek_moe(config, num_experts=256, top_k=8, hidden=1024, num_shared=1, renormalize=True, scale=2.446)
    return with_experts(spec, moe, read_sparse_types(config, spec.num_layers, num_dense=1))


def _read_types(config: ConfigReader) -> tuple[str, ...]:
    """Return the kind of each layer: by `layer_types`, or by the numbers, from 1 on, in `linear_attn_config`."""
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = [KINDS[bool(at) and at % 4 == 0] for at in range(num_layers)]
    linear = config.get("linear_attn_config", {})
    if not isinstance(linear, Mapping):
        raise config.unsupported("linear_attn_config", linear, "an object")
    if "full_attn_layers" in linear:
        types = [KINDS[at + 1 in linear["full_attn_layers"]] for at in range(num_layers)]
        kda_layers = [at + 1 for at, kind in enumerate(types) if kind == KINDS[0]]
        if linear.get("kda_layers", kda_layers) != kda_layers:
            raise config.unsupported("linear_attn_config", linear, "each layer in one of its two lists")
    return read_layer_types(config, KINDS, types)


def _read_delta(config: ConfigReader) -> KimiDeltaSpec:
    sizes = ConfigReader(config.get("linear_attn_config", {}), "config.json, linear_attn_config")
    for name in ("full_attn_layers", "kda_layers"):
        sizes.get(name, None)
    delta = KimiDeltaSpec(
        num_heads=sizes.get_positive_int("num_heads", config.get_positive_int("linear_num_heads", 32)),
        head_dim=sizes.get_positive_int("head_dim", config.get_positive_int("linear_head_dim", 128)),
        kernel_size=sizes.get_positive_int(
            "short_conv_kernel_size", config.get_positive_int("linear_conv_kernel_dim", 4)
        ),
    )
    sizes.reject_unread(ignored=frozenset(), neutral_values={})
    return delta


DELTA: Layout = {
    **{f"kda_{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value", "output")},
    **{f"kda_{name}_conv": f"self_attn.{name[0]}_conv1d.weight" for name in ("query", "key", "value")},
    "kda_decay_down": "self_attn.f_a_proj",
    "kda_decay_up": "self_attn.f_b_proj",
    "kda_gate_down": "self_attn.g_a_proj",
    "kda_gate_up": "self_attn.g_b_proj",
    "kda_rate": "self_attn.b_proj",
    "kda_log_a": "self_attn.A_log",
    "kda_bias": "self_attn.dt_bias",
    "kda_norm": "self_attn.o_norm.weight",
}
SHARED: Layout = {
    "correction_bias": "block_sparse_moe.gate.e_score_correction_bias",
    **{f"shared_mlp_{name}": f"block_sparse_moe.shared_experts.{name}_proj" for name in ("gate", "up", "down")},
}
SAVED: Layout = {name: f"block_sparse_moe.{name}_proj" for name in ("gate", "up", "down")}  # dense, by transformers 5
ARCHITECTURE = DecoderFamily(_read, named({**LATENT, **DELTA, **EXPERTS, **SHARED}, SAVED))
