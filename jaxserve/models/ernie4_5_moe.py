"""ERNIE 4.5 with experts: neighbours in heads turn together, and corrected softmax scores choose experts."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, ONE_ROW, SHARED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MoESpec

UNUSED = ("moe_capacity", "moe_use_aux_free", "num_nextn_predict_layers")
"""Keys of published configs that concern training, or layers for drafts of tokens."""


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("use_bias", False, None)
    config.require("use_rmsnorm", True, None)
    spec = read_decoder_spec(
        config,
        architecture_name="Ernie4_5_MoeForCausalLM",
        model_type="ernie4_5_moe",
        windows=uniform_windows(config, None),
        num_kv_heads=4,
        default_theta=500_000.0,
        is_rope_interleaved=True,
        default_max_positions=131_072,
        tie_embeddings=True,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
    )
    config.ignore(*UNUSED)
    return with_experts(spec, _read_experts(config), _read_sparse_layers(config, spec.num_layers))


def _read_experts(config: ConfigReader) -> MoESpec:
    num_experts = read_num_experts(config, "moe_num_experts", "num_experts", default=64)
    top_k = read_top_k(config, num_experts, config.get_positive_int("moe_k", 6, maximum=num_experts))
    config.require("moe_k", top_k, None)
    config.require("moe_gate", "topk", None)
    config.require("moe_norm_min", 1e-12, None)  # a sum of weights is never as small
    hidden = config.get_positive_int("moe_intermediate_size", 1536)
    num_shared = config.get_whole_number("moe_num_shared_experts", 2)
    router = RouterSpec(top_k=top_k, has_correction_bias=True)
    return mix_experts(config, router, num_experts=num_experts, hidden=hidden, shared=num_shared * hidden)


def _read_sparse_layers(config: ConfigReader, num_layers: int) -> range:
    """Return the layers that have experts: every so many from the first to the last one that the config names."""
    first, step = config.get_whole_number("moe_layer_start_index", 1), config.get_positive_int("moe_layer_interval", 1)
    last = config.get("moe_layer_end_index", -1)
    last = num_layers - 1 if last == -1 else config.get_whole_number("moe_layer_end_index")
    return range(first + (-first - 1) % step, min(last + 1, num_layers), step)


CORRECTION = "mlp.moe_statics.e_score_correction_bias"
IN_MEMORY = {**FUSED_EXPERTS, "correction_bias": f"mlp.gate.moe_statics.e_score_correction_bias{ONE_ROW}"}
ARCHITECTURE = DecoderFamily(
    _read,
    named({**EXPERTS, **SHARED_EXPERTS, "correction_bias": CORRECTION + ONE_ROW}, IN_MEMORY),
    unread=("model.mtp*",),
)
