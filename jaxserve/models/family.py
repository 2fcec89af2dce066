"""DecoderFamily: an architecture whose network is the one decoder, and the names of its weights in checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.layers.moe import MOE_NORMS
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Source
from jaxserve.models.attention_spec import Projection
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.cost import Cost, decoder_cost
from jaxserve.models.origins import (
    Layout,
    alternatives,
    array_param,
    distinct_origins,
    head_norm_params,
    norm_params,
    projection_params,
    stacked_arrays,
    whole_tensor,
)
from jaxserve.models.shared_keys_spec import KEY_MODULES, SharedKeysSpec
from jaxserve.models.spec import (
    DecoderSpec,
    LayerInputSpec,
    LayerSpec,
    MLPSpec,
    MoESpec,
    layer_norms,
    mlp_projections,
)

ONE_ROW = "[one row]"
"""End of the name of a vector that checkpoints hold as a matrix of one row."""

NEXT_LAYER = "[next layer]"
"""Start of a stem that lies in the checkpoint's next layer: where attention and feed-forward blocks are numbered in one
row, each is a layer there, and both, or attention alone, are one of the decoder's."""

LLAMA_LAYOUT: Layout = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
SANDWICH: Layout = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
EXPERTS: Layout = {
    "router": "mlp.gate",
    "expert_gate": "mlp.experts.{}.gate_proj.weight",
    "expert_up": "mlp.experts.{}.up_proj.weight",
    "expert_down": "mlp.experts.{}.down_proj.weight",
}
STACKED_EXPERTS: Layout = {  # also how GGUF keeps them
    "router": "mlp.gate",
    "expert_gate": "mlp.experts.gate_proj.weight",
    "expert_up": "mlp.experts.up_proj.weight",
    "expert_down": "mlp.experts.down_proj.weight",
}
FUSED_EXPERTS: Layout = {  # transformers 5 in memory
    "router": "mlp.gate",
    "expert_gate": "mlp.experts.gate_up_proj",
    "expert_up": "mlp.experts.gate_up_proj",
    "expert_down": "mlp.experts.down_proj",
}
LATENT: Layout = {
    "query": "self_attn.q_proj",
    "query_down": "self_attn.q_a_proj",
    "query_norm": "self_attn.q_a_layernorm",
    "query_up": "self_attn.q_b_proj",
    "latent": "self_attn.kv_a_proj_with_mqa",
    "latent_norm": "self_attn.kv_a_layernorm",
    "key_up": "self_attn.kv_b_proj.weight",
    "value_up": "self_attn.kv_b_proj.weight",
}
SHARED_EXPERT: Layout = {
    "shared_gate": "mlp.shared_expert_gate",
    "shared_mlp_gate": "mlp.shared_expert.gate_proj",
    "shared_mlp_up": "mlp.shared_expert.up_proj",
    "shared_mlp_down": "mlp.shared_expert.down_proj",
}
SHARED_EXPERTS: Layout = {  # DeepSeek's names
    "correction_bias": "mlp.gate.e_score_correction_bias",
    "shared_mlp_gate": "mlp.shared_experts.gate_proj",
    "shared_mlp_up": "mlp.shared_experts.up_proj",
    "shared_mlp_down": "mlp.shared_experts.down_proj",
}
FUSED: Layout = {"query": "self_attn.qkv_proj", "key": "self_attn.qkv_proj", "value": "self_attn.qkv_proj"} | {
    "gate": "mlp.gate_up_proj",
    "up": "mlp.gate_up_proj",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStacks:
    """The layout of tensors that hold all experts.

    is_in_out        matrices are [in, out] instead of [out, in]
    is_interleaved   the outputs of gate and up alternate instead of those of gate coming first
    """

    is_in_out: bool = False
    is_interleaved: bool = False


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Names of an architecture's tensors in its checkpoints.

    layouts   ways in which layers are named, the usual one first
    input_…   what makes the inputs that layers have of their own
    """

    layouts: tuple[Layout, ...] = (LLAMA_LAYOUT, {**LLAMA_LAYOUT, **FUSED})
    layer: str = "model.layers.{}."
    embedding: str = "model.embed_tokens"
    embedding_norm: str = "model.embed_norm"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    input_table: str = "model.embed_tokens_per_layer"
    input_projection: str = "model.per_layer_model_projection"
    input_norm: str = "model.per_layer_projection_norm"
    stacks: ExpertStacks = ExpertStacks()

    @property
    def numbers_blocks(self) -> bool:
        """Whether a feed-forward block is a layer of its own in checkpoints."""
        return any(stem.startswith(NEXT_LAYER) for stem in self.layouts[0].values())

    def layer_layouts(self, number: int) -> tuple[Layout, ...]:
        """Return the layouts with the whole stems of a layer whose attention has this number in checkpoints."""

        def place(stem: str) -> str:
            own = stem.removeprefix(NEXT_LAYER)
            return self.layer.format(number + (own != stem)) + own

        return tuple({module: place(stem) for module, stem in layout.items()} for layout in self.layouts)


def named(usual: Layout, *others: Layout, stacks: ExpertStacks | None = None) -> TensorNames:
    """Return Llama's names with these differences: those of the usual layout, then those of further ones."""
    layouts = [{**LLAMA_LAYOUT, **usual}, *({**LLAMA_LAYOUT, **usual, **other} for other in others)]
    return TensorNames(layouts=tuple(layouts), stacks=stacks or ExpertStacks())


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """An architecture that is a DecoderSpec and names for its weights.

    read        config.json → values; takes every key that it understands
    unread      further patterns of tensors that checkpoints may hold and nobody reads; {} is the number of layers
    """

    read: Callable[[ConfigReader], DecoderSpec]
    names: TensorNames = field(default_factory=TensorNames)
    unread: tuple[str, ...] = ()

    def spec(self, hf_config: Mapping[str, Any], where: str = "config.json") -> DecoderSpec:
        """Return the values of a config.json; where: what errors call it.

        Raises UnknownArchitecture, naming the key that is not understood.
        """
        config = ConfigReader(hf_config, where)
        spec = self.read(config)
        config.reject_unread()
        return spec

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every weight of the decoder by its path in the module tree, with its origins in checkpoints."""
        names, table = self.names, (spec.vocab_size, spec.width)
        params: dict[ParamPath, ParamSpec] = {
            ("embed", "table"): whole_tensor(f"{names.embedding}.weight", table, ("vocab", "width"), is_packable=True),
            **norm_params(spec.norm, ("final_norm",), (names.final_norm,), spec.width),
        }
        if not spec.tie_embeddings:
            params["head", "table"] = whole_tensor(f"{names.head}.weight", table, ("vocab", "width"), is_packable=True)
        if spec.has_head_bias:
            params["head", "bias"] = whole_tensor(f"{names.head}.bias", table[:1], ("vocab",))
        if spec.embedding_norm is not None:
            params |= norm_params(spec.embedding_norm, ("embedding_norm",), (names.embedding_norm,), spec.width)
        if spec.layer_inputs is not None:
            params |= _layer_input_params(spec, spec.layer_inputs, names)
        number = 0
        for index, layer in enumerate(spec.layers):
            layouts = names.layer_layouts(number)
            for path, param in _layer_params(spec, layer, layouts, names).items():
                params["layers", index, *path] = param
            is_shared = index + 1 < spec.num_layers and spec.layers[index + 1].is_beside_previous
            number += 1 + (names.numbers_blocks and layer.mlp is not None) - is_shared
        return params

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of tensors that may be there and are not read.

        These are rotary tables, the head of a tied model, and keys of layers that read those of others.
        """
        head = {f"{self.names.head}.weight"} if spec.tie_embeddings else set()
        unread = (pattern.format(spec.num_layers) for pattern in self.unread)
        replaced = (
            f"{self.names.layer.format(index)}{layout[module]}.*"
            for index, layer in enumerate(spec.layers)
            if isinstance(layer.attention, SharedKeysSpec)
            for layout in self.names.layouts
            for module in KEY_MODULES
            if module in layout
        )
        return frozenset({"*.rotary_emb.inv_freq", *unread, *replaced} | head)

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps."""
        return tuple(layer.attention.cache for layer in spec.layers)

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline."""
        return decoder_cost(spec)


def _layer_params(
    spec: DecoderSpec, layer: LayerSpec, layouts: tuple[Layout, ...], names: TensorNames
) -> dict[ParamPath, ParamSpec]:
    attention, params = layer.attention, dict[ParamPath, ParamSpec]()
    for name, leaf, param in projection_params(tuple(attention.projections(spec.width)), layouts):
        params["attention", name, leaf] = param
    if isinstance(layer.mlp, MoESpec):
        params |= _moe_params(spec.width, layer.mlp, layouts, names.stacks)
        params |= _moe_norm_params(spec, layer.mlp, layouts)
    elif layer.mlp is not None:
        for name, leaf, param in projection_params(tuple(mlp_projections(spec.width, layer.mlp)), layouts):
            params["mlp", name, leaf] = param
        if layer.mlp.activation == "xielu":
            stems = tuple(layout["xielu"] for layout in layouts)
            params["mlp", "xielu", "alphas"] = stacked_arrays(stems, ("alpha_p", "alpha_n"), (1,))
            params["mlp", "xielu", "constants"] = stacked_arrays(stems, ("beta", "eps"), ())
    for each in attention.norms():
        stems, path = tuple(layout[each.name] for layout in layouts), ("attention", each.name)
        if each.num_heads is None:
            params |= norm_params(each.norm or spec.norm, path, stems, each.width, each.axis)
        else:
            params |= head_norm_params(each, each.norm or spec.norm, path, stems)
    for array in attention.arrays():
        params["attention", array.name] = array_param(array, tuple(layout[array.name] for layout in layouts))
    for name in layer_norms(layer):
        params |= norm_params(spec.norm, (name,), tuple(layout[name] for layout in layouts), spec.width)
    if spec.layer_inputs is not None:
        inputs = spec.layer_inputs.width
        gate = Projection("gate", spec.width, inputs, False, "width", None)
        both = (gate, Projection("projection", inputs, spec.width, False, "width", "width"))
        own = tuple({each.name: layout[f"input_{each.name}"] for each in both} for layout in layouts)
        for name, leaf, param in projection_params(both, own):
            params["layer_input", name, leaf] = param
        stems = tuple(layout["input_norm"] for layout in layouts)
        params |= norm_params(spec.norm, ("layer_input", "norm"), stems, spec.width)
    if layer.has_output_scale:
        params[("output_scale",)] = alternatives(tuple(layout["output_scale"] for layout in layouts), (1,), (None,))
    return params


def _layer_input_params(spec: DecoderSpec, inputs: LayerInputSpec, names: TensorNames) -> dict[ParamPath, ParamSpec]:
    """Return the weights that make the layers' own inputs."""
    total = spec.num_layers * inputs.width
    projection = Projection("projection", spec.width, total, False, "width", None)
    [(_, _, kernel)] = projection_params((projection,), ({"projection": names.input_projection},))
    table = whole_tensor(
        f"{names.input_table}.weight", (inputs.vocab_size, total), ("vocab", "width"), is_packable=True
    )
    return {
        ("layer_inputs", "embed", "table"): table,
        ("layer_inputs", "projection", "kernel"): kernel,
        **norm_params(spec.norm, ("layer_inputs", "norm"), (names.input_norm,), inputs.width),
    }


def _moe_norm_params(spec: DecoderSpec, moe: MoESpec, layouts: tuple[Layout, ...]) -> dict[ParamPath, ParamSpec]:
    """Return the norms that experts, their router and the block beside them have of their own, and experts' scales."""
    params: dict[ParamPath, ParamSpec] = {}
    for name in MOE_NORMS if moe.has_own_norms else ():
        params |= norm_params(spec.norm, ("mlp", name), tuple(layout[name] for layout in layouts), spec.width)
    if moe.router.input_norm is not None and moe.router.input_norm.has_scale:
        stems = tuple(layout["router_norm"] for layout in layouts)
        params["mlp", "router_norm", "scale"] = alternatives(stems, (spec.width,), (None,))
    if moe.router.has_expert_scale:
        stems = tuple(layout["expert_scale"] for layout in layouts)
        params["mlp", "expert_scale"] = alternatives(stems, (moe.num_experts,), (None,))
    return params


def _moe_params(
    width: int, moe: MoESpec, layouts: tuple[Layout, ...], stacks: ExpertStacks
) -> dict[ParamPath, ParamSpec]:
    """Yield the router, its stacked experts, and the shared block beside them."""
    router = Projection("router", width, moe.num_experts, moe.router.has_bias, "width", None)
    singles = [router] + ([Projection("shared_gate", width, 1, False, "width", None)] if moe.has_shared_gate else [])
    if moe.latent is not None:
        singles.append(Projection("latent_down", width, moe.latent, False, "width", None))
        singles.append(Projection("latent_up", moe.latent, width, False, "width", "width"))
    params: dict[ParamPath, ParamSpec] = {}
    for projection in singles:
        for name, leaf, param in projection_params((projection,), layouts):
            params["mlp", name, leaf] = param
    if moe.router.has_correction_bias:
        stems = (layout["correction_bias"] for layout in layouts)
        sources = tuple(
            Source(stem.removesuffix(ONE_ROW), (1, moe.num_experts), is_row=True)
            if stem.endswith(ONE_ROW)
            else Source(stem, (moe.num_experts,))
            for stem in stems
        )
        params["mlp", "correction_bias"] = ParamSpec(
            (moe.num_experts,), (None,), distinct_origins(sources), is_float32=True
        )
    params |= _expert_params(width, moe, layouts, stacks)
    if moe.shared is not None:
        projections = tuple(mlp_projections(width, moe.shared))
        shared = tuple({each.name: layout[f"shared_mlp_{each.name}"] for each in projections} for layout in layouts)
        for name, leaf, param in projection_params(projections, shared):
            params["mlp", "shared", name, leaf] = param
    return params


def _expert_params(
    width: int, moe: MoESpec, layouts: tuple[Layout, ...], stacks: ExpertStacks
) -> dict[ParamPath, ParamSpec]:
    """Return the stacked kernels and biases of experts."""
    params: dict[ParamPath, ParamSpec] = {}
    experts = tuple(mlp_projections(moe.latent or width, MLPSpec(hidden=moe.hidden, is_gated=moe.is_gated)))
    for projection in experts:
        origins = tuple(_expert_origin(experts, projection, moe.num_experts, layout, stacks) for layout in layouts)
        params["mlp", "experts", projection.name] = ParamSpec(
            (moe.num_experts, projection.width_in, projection.width_out),
            ("experts", projection.axis_in, projection.axis_out),
            tuple(dict.fromkeys(origins)),
            is_packable=True,
        )
        if moe.bias:
            sources = (_expert_bias(experts, projection, moe.num_experts, layout, stacks) for layout in layouts)
            params["mlp", "experts", f"{projection.name}_bias"] = ParamSpec(
                (moe.num_experts, projection.width_out),
                ("experts", projection.axis_out),
                distinct_origins(tuple(sources)),
            )
    return params


def _expert_origin(
    experts: tuple[Projection, ...], projection: Projection, num_experts: int, layout: Layout, stacks: ExpertStacks
) -> Origin:
    """Return a tensor for each expert where the stem has a place for its number, else one stack of all."""
    stem = layout[f"expert_{projection.name}"]
    fused = [each for each in experts if layout[f"expert_{each.name}"] == stem]
    rows, width_out = _fused_rows(fused, projection, stacks)
    if "{}" not in stem:
        if stacks.is_in_out:
            return Origin((Source(stem, (num_experts, projection.width_in, width_out), rows, axis=2),))
        return Origin((Source(stem, (num_experts, width_out, projection.width_in), rows, is_transposed=True),))
    names = (stem.format(expert) for expert in range(num_experts))
    shape = (width_out, projection.width_in)
    return Origin(tuple(Source(name, shape, rows, is_transposed=True) for name in names), "stack")


def _expert_bias(
    experts: tuple[Projection, ...], projection: Projection, num_experts: int, layout: Layout, stacks: ExpertStacks
) -> Source:
    """Return one stack of the biases of all experts."""
    stem = layout[f"expert_{projection.name}_bias"]
    fused = [each for each in experts if layout[f"expert_{each.name}_bias"] == stem]
    rows, width_out = _fused_rows(fused, projection, stacks)
    return Source(stem, (num_experts, width_out), rows, axis=1)


def _fused_rows(
    fused: list[Projection], projection: Projection, stacks: ExpertStacks
) -> tuple[tuple[int, int, int] | None, int]:
    """Return the outputs of a fused tensor that belong to a projection, None for all, and how many there are."""
    width_out, index = sum(each.width_out for each in fused), fused.index(projection)
    if len(fused) == 1:
        return None, width_out
    if stacks.is_interleaved:
        return (index, width_out, len(fused)), width_out
    start = sum(each.width_out for each in fused[:index])
    return (start, start + projection.width_out, 1), width_out
