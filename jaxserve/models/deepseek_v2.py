"""DeepSeek V2 and V2-Lite: latent attention, and experts by a softmax over all, or over those of the best groups."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import REQUIRED, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, uniform_windows
from jaxserve.models.deepseek_v3 import NAMES
from jaxserve.models.family import DecoderFamily
from jaxserve.models.latent_values import read_latent_attention
from jaxserve.models.moe_values import read_deepseek_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MoESpec


def _read(config: ConfigReader) -> DecoderSpec:
    max_positions = config.get_positive_int("max_position_embeddings", 2048)
    spec = read_decoder_spec(
        config,
        architecture_name="DeepseekV2ForCausalLM",
        model_type="deepseek_v2",
        windows=uniform_windows(config, None),
        default_max_positions=max_positions,
        attention=read_latent_attention(config, max_positions, is_interleaved=True),
    )
    first = config.get_whole_number("first_k_dense_replace", 0)
    return with_experts(spec, _read_moe(config), range(first, spec.num_layers))


def _read_moe(config: ConfigReader) -> MoESpec:
    config.require("scoring_func", "softmax", None)
    config.require("norm_topk_prob", False, None)
    count = read_num_experts(config, "n_routed_experts", "num_experts", default=64)
    config.require("topk_method", "greedy", "group_limited_greedy", None)
    if config.get("topk_method", "greedy") == "greedy":
        num_groups = top_groups = 1
        for name in ("n_group", "topk_group"):  # without effect
            config.get(name, None)
    else:
        num_groups, top_groups = config.get_positive_int("n_group"), config.get_positive_int("topk_group")
    router = RouterSpec(
        top_k=read_top_k(config, count, REQUIRED),
        renormalize=False,
        scale=config.get_positive_float("routed_scaling_factor", 1.0),
        num_groups=num_groups,
        top_groups=top_groups,
        group_score="best",
    )
    return read_deepseek_experts(config, router, num_experts=count, hidden=1407, num_shared=2)


ARCHITECTURE = DecoderFamily(_read, NAMES)
