"""Origins of weights in checkpoints, by the names that a layout gives to modules: the parts that families share."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from jaxserve.layers.norms import NormSpec
from jaxserve.layers.param_spec import Axis, Origin, ParamPath, ParamSpec, RowBlocks, Source
from jaxserve.models.attention_spec import OwnArray, OwnNorm, Projection

Layout: TypeAlias = Mapping[str, str]
"""Module of a layer → its stem in the checkpoint. Projections that follow each other and share a stem are rows of one
fused tensor, in this order; if the stem ends with BY_HEAD, head by head, with all queries of a key head together. Which
modules a layer has follows from its spec: without a gate it has up and down."""
BY_HEAD = "[by head]"


def rename_stems(layout: Layout, old: str, new: str) -> dict[str, str]:
    """Return the layout with stems that begin with new where they began with old."""
    return {module: new + stem.removeprefix(old) if stem.startswith(old) else stem for module, stem in layout.items()}


def projection_params(
    projections: tuple[Projection, ...], layouts: tuple[Layout, ...]
) -> Iterator[tuple[str, str, ParamSpec]]:
    """Yield (projection, leaf, its spec) for kernels and biases."""
    for projection in projections:
        kernels = tuple(_kernel_source(projections, projection, layout) for layout in layouts)
        shape = (projection.width_in, projection.width_out)
        axes: tuple[Axis | None, Axis | None] = (projection.axis_in, projection.axis_out)
        yield projection.name, "kernel", ParamSpec(shape, axes, distinct_origins(kernels), is_packable=True)
        if projection.bias:
            biases = tuple(
                Source(source.name.removesuffix("weight") + "bias", source.shape[:1], source.rows) for source in kernels
            )
            yield projection.name, "bias", ParamSpec(shape[1:], axes[1:], distinct_origins(biases))


def _kernel_source(projections: tuple[Projection, ...], projection: Projection, layout: Layout) -> Source:
    """Return a tensor of its own, or its rows of a fused one, which holds all projections of the same stem in order."""
    stem = layout[projection.name]
    fused = [each for each in projections if layout[each.name] == stem]
    heads = min(each.num_heads for each in fused) if stem.endswith(BY_HEAD) else 1
    start = sum(each.width_out // heads for each in fused[: fused.index(projection)])
    total, size = sum(each.width_out for each in fused), projection.width_out // heads
    rows = None if len(fused) == 1 else (start, start + size, 1)
    if rows is not None and heads > 1:
        rows = RowBlocks(heads, size, stride=total // heads, start=start)
    return Source(f"{stem.removesuffix(BY_HEAD)}.weight", (total, projection.width_in), rows, is_transposed=True)


def norm_params(
    norm: NormSpec, path: ParamPath, stems: tuple[str, ...], width: int, axis: Axis | None = None
) -> dict[ParamPath, ParamSpec]:
    """Return the numbers of a norm of this width, by what the checkpoints call it."""
    leaves = (("scale", "weight", norm.has_scale), ("bias", "bias", norm.has_bias))
    return {
        (*path, leaf): alternatives(tuple(f"{stem}.{suffix}" for stem in stems), (width,), (axis,))
        for leaf, suffix, is_there in leaves
        if is_there
    }


def head_norm_params(
    own: OwnNorm, norm: NormSpec, path: ParamPath, stems: tuple[str, ...]
) -> dict[ParamPath, ParamSpec]:
    """Return the numbers of a norm of which each head has its own, in one tensor or in one for each head."""
    assert own.num_heads is not None
    shape, heads = (own.num_heads, own.width), range(own.num_heads)

    def origin(stem: str, suffix: str) -> Origin:
        if "{}" in stem:
            return Origin(tuple(Source(f"{stem.format(head)}.{suffix}", shape[1:]) for head in heads), "stack")
        return Origin((Source(f"{stem}.{suffix}", shape),))

    leaves = (("scale", "weight", norm.has_scale), ("bias", "bias", norm.has_bias))
    return {
        (*path, leaf): ParamSpec(shape, (own.axis, None), tuple(origin(stem, suffix) for stem in dict.fromkeys(stems)))
        for leaf, suffix, is_there in leaves
        if is_there
    }


def array_param(array: OwnArray, names: tuple[str, ...]) -> ParamSpec:
    """Return a weight that is neither a projection nor a norm."""
    rows, shape = array.rows, array.shape
    if rows is not None:
        shape = (rows.num * rows.stride, *shape[1:])
    axis = None if rows is None else 0
    return ParamSpec(
        array.shape, array.axes, distinct_origins(tuple(Source(name, shape, rows, axis=axis) for name in names))
    )


def whole_tensor(
    name: str, shape: tuple[int, ...], axes: tuple[Axis | None, ...], *, is_packable: bool = False
) -> ParamSpec:
    """Return a weight that is a tensor of this name, as it is."""
    return ParamSpec(shape, axes, (Origin((Source(name, shape),)),), is_packable)


def alternatives(names: tuple[str, ...], shape: tuple[int, ...], axes: tuple[Axis | None, ...]) -> ParamSpec:
    """Return a weight that is a tensor of one of these names, as it is."""
    return ParamSpec(shape, axes, distinct_origins(tuple(Source(name, shape) for name in names)))


def stacked_arrays(stems: tuple[str, ...], names: tuple[str, ...], shape: tuple[int, ...]) -> ParamSpec:
    """Return small arrays of the same shape as one weight."""
    origins = tuple(
        Origin(tuple(Source(f"{stem}.{name}", shape) for name in names), "stack") for stem in dict.fromkeys(stems)
    )
    return ParamSpec((len(names), *shape), (None,) * (1 + len(shape)), origins)


def distinct_origins(sources: tuple[Source, ...]) -> tuple[Origin, ...]:
    """Return an origin for each of the sources, those that are equal once."""
    return tuple(Origin((source,)) for source in dict.fromkeys(sources))
