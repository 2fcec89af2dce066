"""Nemotron-H, Nemotron Nano 2 and Nemotron 3: blocks in a row, each Mamba-2, attention, squares or experts.

Attention does not rotate. A block and the feed-forward block behind it, if there is one, are a layer here.
"""

from collections.abc import Sequence
from dataclasses import replace

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import (
    read_activation,
    read_decoder_spec,
    read_kernel_size,
    with_attention,
    with_mlps,
)
from jaxserve.models.family import NEXT_LAYER, DecoderFamily, TensorNames
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.mamba2_values import MAMBA2, NO_LIMIT
from jaxserve.models.moe_values import read_deepseek_moe
from jaxserve.models.origins import rename_stems
from jaxserve.models.spec import DecoderSpec, MLPSpec, MoESpec

LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
OLD_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}
UNUSED = (
    *("attention_head_dim", "expand", "mamba_proj_bias", "mamba_ssm_cache_dtype", "moe_shared_expert_overlap"),
    *("mtp_hybrid_override_pattern", "mtp_layers_block_type", "num_logits_to_keep", "num_query_groups"),
    *("rescale_prenorm_residual", "rms_norm_eps", "time_step_floor", "time_step_max", "time_step_min"),
    *("time_step_rank", "use_mamba_kernels", "chunk_size", "mamba_chunk_size", "mamba_dt_init_floor", "mamba_dt_max"),
    *("mamba_dt_min", "mamba_expand"),
)
"""Keys of initialisation, of training, of kernels, and of drafts. transformers takes time_step_min for a limit of the
steps of prompts, and not of those of tokens; its authors' code has no such limit."""
OTHER_NAMES = {
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_dt_limit": "time_step_limit",
    "mamba_conv_bias": "use_conv_bias",
}
"""Names of keys that transformers reads, too. A file that has one of these under both names is refused."""


def _read(config: ConfigReader) -> DecoderSpec:
    config.rename(OTHER_NAMES)
    config.ignore(*UNUSED)
    eps = config.get_positive_float("layer_norm_epsilon", 1e-5)
    # transformers reads none of these but the first; norm_eps is said again in published files
    relics = {"residual_in_fp32": False, "attention_bias": False, "tie_word_embeddings": False, "norm_eps": eps}
    config.require_each(relics)
    pairs = _pair(config, _read_kinds(config))
    mlp = MLPSpec(
        hidden=config.get_positive_int("intermediate_size", 21504),
        activation=read_activation(config, "mlp_hidden_act", "relu2"),
        is_gated=False,
        bias=config.get_bool("mlp_bias", False),
    )
    spec = read_decoder_spec(
        config,
        architecture_name="NemotronHForCausalLM",
        model_type="nemotron_h",
        windows=(None,) * len(pairs),
        num_kv_heads=8,
        head_dim=128,
        default_max_positions=4096,
        default_vocab_size=131_072,
        norm={"kind": "rms_wide", "eps": eps},
        attention={"rope": None},
        mlp=mlp,
    )
    spec = with_attention(spec, _read_mamba2(config), [at for at, (kind, _) in enumerate(pairs) if "linear" in kind])
    blocks = {None: None, "mlp": mlp, "moe": _read_experts(config, mlp)}
    return with_mlps(spec, tuple(blocks[kind] for _, kind in pairs))


def _read_kinds(config: ConfigReader) -> list[str]:
    """Return the kind of each block: by layers_block_type, or by the letters of hybrid_override_pattern."""
    letters, kinds = config.get("hybrid_override_pattern", None), config.get("layer_types", None)
    kinds = config.get("layers_block_type", kinds)
    if kinds is None and isinstance(letters, str):
        kinds = [LETTERS.get(letter, letter) for letter in letters]
    known = list(LETTERS.values())
    kinds = [OLD_KINDS.get(str(kind), kind) for kind in kinds] if isinstance(kinds, list) else []
    if not 0 < len(kinds) <= MAX_LAYERS or any(kind not in known for kind in kinds):
        expected = f"the kind of each of at most {MAX_LAYERS} blocks: {' or '.join(known)}"
        raise config.unsupported("layers_block_type", config.get("layers_block_type", letters), expected)
    config.get("num_hidden_layers", None)  # transformers counts the kinds
    return kinds


def _pair(config: ConfigReader, kinds: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return Mamba-2 and attention, each with the feed-forward block behind it or None."""
    pairs: list[tuple[str, str | None]] = []
    for kind in kinds:
        if kind not in ("mlp", "moe"):
            pairs.append((kind, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], kind)
        else:
            raise config.unsupported("layers_block_type", list(kinds), "Mamba-2 or attention before each mlp and moe")
    return pairs


def _read_mamba2(config: ConfigReader) -> Mamba2Spec:
    config.require("mamba_hidden_act", "silu", "swish", None)
    config.require("time_step_limit", *NO_LIMIT)
    num_heads, groups = config.get_positive_int("mamba_num_heads", 128), config.get_positive_int("n_groups", 8)
    if num_heads % groups:
        raise config.unsupported("mamba_num_heads", num_heads, f"a multiple of {groups} groups")
    return Mamba2Spec(
        num_heads=num_heads,
        head_dim=config.get_positive_int("mamba_head_dim", 64),
        num_groups=groups,
        state_dim=config.get_positive_int("ssm_state_size", 128),
        kernel_size=read_kernel_size(config, "conv_kernel", 4),
        projection_bias=config.get_bool("use_bias", False),
        conv_bias=config.get_bool("use_conv_bias", True),
    )


def _read_experts(config: ConfigReader, mlp: MLPSpec) -> MoESpec:
    """Return DeepSeek's mixture of experts without gates, beside a shared block of a width of its own."""
    latent = config.get("moe_latent_size", None) and config.get_positive_int("moe_latent_size")
    if latent and mlp.bias:
        raise config.unsupported("mlp_bias", True, "false where experts have a moe_latent_size")
    assert mlp.activation != "xielu"
    moe = read_deepseek_moe(config, num_experts=8, top_k=2, hidden=7688, num_shared=1, renormalize=True)
    shared = replace(mlp, hidden=config.get_positive_int("moe_shared_expert_intermediate_size", 7688))
    return replace(moe, activation=mlp.activation, is_gated=False, shared=shared, latent=latent)


LAYOUT = {
    **rename_stems(MAMBA2, "mamba.", "mixer."),
    **{name: f"mixer.{name[0]}_proj" for name in ("query", "key", "value", "output")},
    **{name: f"{NEXT_LAYER}mixer.{name}_proj" for name in ("up", "down")},
    **{f"expert_{name}": f"{NEXT_LAYER}mixer.experts.{{}}.{name}_proj.weight" for name in ("up", "down")},
    **{f"shared_mlp_{name}": f"{NEXT_LAYER}mixer.shared_experts.{name}_proj" for name in ("up", "down")},
    "router": f"{NEXT_LAYER}mixer.gate",
    "latent_down": f"{NEXT_LAYER}mixer.fc1_latent_proj",
    "latent_up": f"{NEXT_LAYER}mixer.fc2_latent_proj",
    "correction_bias": f"{NEXT_LAYER}mixer.gate.e_score_correction_bias",
    "attention_norm": "norm",
    "mlp_norm": f"{NEXT_LAYER}norm",
}
NAMES = TensorNames(
    layouts=(LAYOUT,),
    layer="backbone.layers.{}.",
    embedding="backbone.embeddings",
    final_norm="backbone.norm_f",
)
ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("mtp.*",))
