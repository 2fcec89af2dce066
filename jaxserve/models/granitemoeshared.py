"""Granite with experts beside a shared block, in every layer: Granite 4's feed-forward blocks, without Mamba-2."""

from dataclasses import replace

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_activation
from jaxserve.models.family import DecoderFamily
from jaxserve.models.granite import read_granite
from jaxserve.models.granitemoe import read_experts
from jaxserve.models.granitemoehybrid import NAMES
from jaxserve.models.moe_values import with_experts
from jaxserve.models.spec import DecoderSpec, MLPSpec


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_granite(config, "GraniteMoeSharedForCausalLM", "granitemoeshared", default_max_positions=2048)
    hidden = config.get_whole_number("shared_intermediate_size", 0)
    shared = MLPSpec(hidden=hidden, activation=read_activation(config)) if hidden else None
    return with_experts(spec, replace(read_experts(config), shared=shared), range(spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, NAMES)
