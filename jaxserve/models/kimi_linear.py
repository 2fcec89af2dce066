"""Kimi Linear: Kimi's delta rule in most layers, latent attention that does not rotate, and DeepSeek's experts."""

from dataclasses import replace

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_kernel_size, read_layers_of, with_attention
from jaxserve.models.family import LATENT, SHARED_EXPERTS, DecoderFamily, named
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_values import LatentSizes, read_latent_attention
from jaxserve.models.mixtral import EXPERTS
from jaxserve.models.moe_values import read_deepseek_moe, read_sparse_types, with_experts
from jaxserve.models.origins import Layout, rename_stems
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
    spec = read_decoder_spec(
        config,
        architecture_name="KimiLinearForCausalLM",
        model_type="kimi_linear",
        default_max_positions=max_positions,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention=replace(latent, rope=None),
    )
    spec = with_attention(spec, _read_delta(config), _read_delta_layers(config, spec.num_layers))
    moe = read_deepseek_moe(config, num_experts=256, top_k=8, hidden=1024, num_shared=1, renormalize=True, scale=2.446)
    return with_experts(spec, moe, read_sparse_types(config, spec.num_layers, num_dense=1))


def _read_delta_layers(config: ConfigReader, num_layers: int) -> list[int]:
    """Return the layers with the delta rule: by `layer_types`, or the numbers, from 1 on, in `linear_attn_config`."""
    types = [KINDS[bool(at) and at % 4 == 0] for at in range(num_layers)]
    linear = config.get_object("linear_attn_config")
    if "full_attn_layers" in linear:
        types = [KINDS[at + 1 in linear["full_attn_layers"]] for at in range(num_layers)]
        kda_layers = [at + 1 for at, kind in enumerate(types) if kind == KINDS[0]]
        if linear.get("kda_layers", kda_layers) != kda_layers:
            raise config.unsupported("linear_attn_config", linear, "each layer in one of its two lists")
    return read_layers_of(config, KINDS[:1], KINDS[1:], types)


def _read_delta(config: ConfigReader) -> KimiDeltaSpec:
    sizes = ConfigReader(config.get_object("linear_attn_config"), "config.json, linear_attn_config")
    sizes.ignore("full_attn_layers", "kda_layers")
    default_kernel_size = config.get_positive_int("linear_conv_kernel_dim", 4)
    delta = KimiDeltaSpec(
        num_heads=sizes.get_positive_int("num_heads", config.get_positive_int("linear_num_heads", 32)),
        head_dim=sizes.get_positive_int("head_dim", config.get_positive_int("linear_head_dim", 128)),
        kernel_size=read_kernel_size(sizes, "short_conv_kernel_size", default_kernel_size),
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
SHARED = rename_stems(SHARED_EXPERTS, "mlp.", "block_sparse_moe.")
SAVED: Layout = {name: f"block_sparse_moe.{name}_proj" for name in ("gate", "up", "down")}  # dense, by transformers 5
ARCHITECTURE = DecoderFamily(_read, named({**LATENT, **DELTA, **EXPERTS, **SHARED}, SAVED))
