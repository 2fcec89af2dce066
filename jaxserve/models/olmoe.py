"""OLMoE: a mixture of experts in every layer, and norms over all heads of queries and of keys."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MoESpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    spec = read_decoder_spec(
        config,
        architecture_name="OlmoeForCausalLM",
        model_type="olmoe",
        windows=uniform_windows(config, None),
        default_max_positions=4096,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "full"},
    )
    return with_experts(spec, read_olmo_experts(config, num_experts=64, top_k=8), range(spec.num_layers))


def read_olmo_experts(config: ConfigReader, *, num_experts: int, top_k: int) -> MoESpec:
    """Return the mixture; the arguments hold where the config says nothing."""
    count = read_num_experts(config, "num_experts", "num_local_experts", default=num_experts)
    renormalize = config.get_bool("norm_topk_prob", False)
    router = RouterSpec(top_k=read_top_k(config, count, top_k), renormalize=renormalize)
    return mix_experts(config, router, num_experts=count, hidden=config.get_positive_int("intermediate_size"))


ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, STACKED_EXPERTS, FUSED_EXPERTS))
