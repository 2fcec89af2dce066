"""MoESpec from the keys of config.json that the families share."""

from collections.abc import Container
from dataclasses import replace

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.config_values import read_activation, read_top_k
from jaxserve.models.spec import DecoderSpec, MLPSpec, MoESpec

UNUSED = ("aux_loss_alpha", "ep_size", "num_mtp_layers", "num_nextn_predict_layers", "seq_aux")
"""Keys of configs in DeepSeek-V3's words that concern training, or layers for drafts of tokens."""


def read_num_experts(config: ConfigReader, *names: str, default: int) -> int:
    """Return the number of experts, which has one of these names, or several that agree.

    Raises UnknownArchitecture for names that disagree.
    """
    counts = {
        name: config.get_positive_int(name, maximum=MAX_EXPERTS) for name in names if config.get(name, None) is not None
    }
    if len(set(counts.values())) > 1:
        (first, count), (_, other), *_ = counts.items()
        raise config.unsupported(first, count, f"{other}, as beside it")
    return next(iter(counts.values()), default)


def with_experts(spec: DecoderSpec, moe: MoESpec, indices: Container[int]) -> DecoderSpec:
    """Return the spec with a mixture of experts in the layers of these indices."""
    layers = enumerate(spec.layers)
    return replace(
        spec, layers=tuple(replace(layer, mlp=moe) if index in indices else layer for index, layer in layers)
    )


def mix_experts(
    config: ConfigReader,
    router: RouterSpec,
    *,
    num_experts: int,
    hidden: int,
    shared: int = 0,
    has_shared_gate: bool = False,
) -> MoESpec:
    """Return experts of so many hidden numbers; shared are those of the block beside them, 0: there is none."""
    activation = read_activation(config)
    return MoESpec(
        num_experts=num_experts,
        hidden=hidden,
        router=router,
        activation=activation,
        shared=MLPSpec(hidden=shared, activation=activation) if shared else None,
        has_shared_gate=has_shared_gate,
    )


def read_qwen_experts(
    config: ConfigReader, *, num_experts: int, top_k: int, hidden: int, shared: int = 0, renormalize: bool
) -> MoESpec:
    """Return Qwen's experts by softmax, num_experts of them, and a shared block behind a gate, or none.

    top_k, hidden and the numbers of the shared block hold where the config says nothing; 0: there is no such block.
    """
    router = RouterSpec(top_k=read_top_k(config, num_experts, top_k), renormalize=renormalize)
    hidden = config.get_positive_int("moe_intermediate_size", hidden)
    if shared:
        shared = config.get_positive_int("shared_expert_intermediate_size", shared)
    return mix_experts(
        config, router, num_experts=num_experts, hidden=hidden, shared=shared, has_shared_gate=shared > 0
    )


def read_sparse_layers(config: ConfigReader, num_layers: int) -> frozenset[int]:
    """Return Qwen's layers that have experts: every `decoder_sparse_step`-th, but for those of `mlp_only_layers`."""
    dense, step = config.get("mlp_only_layers", []), config.get_positive_int("decoder_sparse_step", 1)
    return frozenset(index for index in range(num_layers) if index not in dense and (index + 1) % step == 0)


def read_sparse_types(config: ConfigReader, num_layers: int, num_dense: int) -> list[int]:
    """Return the layers that have experts: by `mlp_layer_types`, or all but the first ones, by default num_dense.

    Raises UnknownArchitecture for other types, and for more or fewer entries than layers.
    """
    num_dense = min(config.get_whole_number("first_k_dense_replace", num_dense), num_layers)
    types = config.get("mlp_layer_types", ["dense"] * num_dense + ["sparse"] * (num_layers - num_dense))
    if not isinstance(types, list) or len(types) != num_layers or not set(types) <= {"dense", "sparse"}:
        raise config.unsupported("mlp_layer_types", types, f"{num_layers} entries, each 'dense' or 'sparse'")
    return [index for index, kind in enumerate(types) if kind == "sparse"]


def read_deepseek_moe(
    config: ConfigReader,
    *,
    num_experts: int,
    top_k: int,
    hidden: int,
    num_shared: int,
    renormalize: bool,
    scale: float = 1.0,
    num_groups: int = 1,
    top_groups: int = 1,
) -> MoESpec:
    """Return DeepSeek-V3's mixture: sigmoids, a correction of the choice, groups, and shared experts as one block.

    The arguments hold where the config says nothing. Raises UnknownArchitecture for groups that cannot be.
    """
    count = read_num_experts(config, "n_routed_experts", "num_local_experts", default=num_experts)
    router = RouterSpec(
        top_k=read_top_k(config, count, top_k),
        score="sigmoid",
        renormalize=config.get_bool("norm_topk_prob", renormalize),
        scale=config.get_positive_float("routed_scaling_factor", scale),
        has_correction_bias=True,
        num_groups=config.get_positive_int("n_group", num_groups),
        top_groups=config.get_positive_int("topk_group", top_groups),
    )
    config.require("scoring_func", "sigmoid", None)
    config.require("topk_method", "noaux_tc", None)
    return read_deepseek_experts(config, router, num_experts=count, hidden=hidden, num_shared=num_shared)


def read_deepseek_experts(
    config: ConfigReader, router: RouterSpec, *, num_experts: int, hidden: int, num_shared: int
) -> MoESpec:
    """Return the experts of a router, and the shared ones as one block.

    num_experts is their number; hidden and num_shared hold where the config says nothing. Raises UnknownArchitecture
    for groups that cannot be.
    """
    config.require("moe_layer_freq", 1, None)
    config.ignore(*UNUSED)
    hidden = config.get_positive_int("moe_intermediate_size", hidden)
    num_shared = config.get_whole_number("n_shared_experts", num_shared)
    try:
        return mix_experts(config, router, num_experts=num_experts, hidden=hidden, shared=num_shared * hidden)
    except ValueError as error:
        raise config.unsupported("n_group", router.num_groups, f"groups that can be chosen from: {error}") from None
