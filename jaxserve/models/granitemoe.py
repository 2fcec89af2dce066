"""Granite 3 with experts: Granite's multipliers, and a mixture of experts in every layer."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_top_k
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.granite import read_granite
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MoESpec

STACKS = {
    "router": "block_sparse_moe.router.layer",
    "expert_gate": "block_sparse_moe.input_linear.weight",
    "expert_up": "block_sparse_moe.input_linear.weight",
    "expert_down": "block_sparse_moe.output_linear.weight",
}
IN_MEMORY = {  # of transformers 5
    "router": "block_sparse_moe.router",
    "expert_gate": "block_sparse_moe.experts.gate_up_proj",
    "expert_up": "block_sparse_moe.experts.gate_up_proj",
    "expert_down": "block_sparse_moe.experts.down_proj",
}


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_granite(config, "GraniteMoeForCausalLM", "granitemoe", default_max_positions=2048)
    return with_experts(spec, read_experts(config), range(spec.num_layers))


def read_experts(config: ConfigReader) -> MoESpec:
    """Return Granite's experts, each of `intermediate_size` numbers."""
    num_experts = read_num_experts(config, "num_local_experts", default=8)
    router = RouterSpec(top_k=read_top_k(config, num_experts, 2))
    return mix_experts(config, router, num_experts=num_experts, hidden=config.get_positive_int("intermediate_size"))


ARCHITECTURE = DecoderFamily(_read, named(STACKS, IN_MEMORY))
