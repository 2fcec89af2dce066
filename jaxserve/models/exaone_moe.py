"""K-EXAONE: EXAONE 4's attention behind norms, and a mixture as DeepSeek-V3's behind dense layers."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, without_ropes_in_full_layers
from jaxserve.models.exaone4 import has_windows, read_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_deepseek_moe, read_sparse_types, with_experts
from jaxserve.models.spec import DecoderSpec

OWN_NAMES = {"num_experts": "num_local_experts", "num_shared_experts": "n_shared_experts"}


def _read(config: ConfigReader) -> DecoderSpec:
    config.rename(OWN_NAMES)
    spec = read_decoder_spec(
        config,
        architecture_name="ExaoneMoeForCausalLM",
        model_type="exaone_moe",
        windows=read_windows(config),
        num_kv_heads=32,
        default_max_positions=2048,
        default_vocab_size=102_400,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qk_norm": "head"},
    )
    spec = without_ropes_in_full_layers(spec) if has_windows(config) else spec
    moe = read_deepseek_moe(config, num_experts=64, top_k=8, hidden=1024, num_shared=1, renormalize=True, scale=2.5)
    sparse = read_sparse_types(config, spec.num_layers, num_dense=1)
    config.require("is_moe_layer", [index in sparse for index in range(spec.num_layers)], None)
    return with_experts(spec, moe, sparse)


CORRECTION = {"correction_bias": "mlp.e_score_correction_bias"}
IN_MEMORY = {**FUSED_EXPERTS, "correction_bias": "mlp.gate.e_score_correction_bias"}
NAMES = named({**EXPERTS, **SHARED_EXPERTS, **CORRECTION}, STACKED_EXPERTS, IN_MEMORY)
ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("mtp.*",))
