"""Granite 4: Mamba-2 in most layers or in none, experts beside a shared block or that block alone."""

from dataclasses import replace

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_activation, read_layers_of, with_attention
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.granite import read_granite
from jaxserve.models.granitemoe import IN_MEMORY, STACKS, read_experts
from jaxserve.models.mamba2_values import MAMBA2, read_mamba2
from jaxserve.models.moe_values import with_experts
from jaxserve.models.spec import DecoderSpec, MLPSpec

MAMBA_TYPES = ("linear_attention", "mamba")
SHARED = {"gate": "shared_mlp.input_linear", "up": "shared_mlp.input_linear", "down": "shared_mlp.output_linear"}


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    default_types = [MAMBA_TYPES[0]] * num_layers
    recurrent = read_layers_of(config, MAMBA_TYPES, ("full_attention", "attention"), default_types)
    config.require("normalization_function", "rmsnorm", None)
    config.get("init_method", None)
    hidden = config.get_positive_int("shared_intermediate_size", 1024)
    config.require("position_embedding_type", "rope", "nope", None)
    has_rope = config.get("position_embedding_type", None) == "rope"
    spec = read_granite(
        config,
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        windows=(None,) * num_layers,
        default_max_positions=2048,
        attention={} if has_rope else {"rope": None},
        mlp={"hidden": hidden},
    )
    if config.get_whole_number("num_local_experts", 8):
        shared = MLPSpec(hidden=hidden, activation=read_activation(config))
        spec = with_experts(spec, replace(read_experts(config), shared=shared), range(num_layers))
    for name in ("intermediate_size", "num_experts_per_tok"):  # of experts, said of models without any, too
        config.get(name, None)
    return with_attention(spec, read_mamba2(config), recurrent)


_LAYOUT = {**STACKS, **MAMBA2, **SHARED, **{f"shared_mlp_{name}": stem for name, stem in SHARED.items()}}
NAMES = named(_LAYOUT, IN_MEMORY)
ARCHITECTURE = DecoderFamily(_read, NAMES)
