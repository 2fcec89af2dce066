"""Division of a model among ranks: which numbers are possible, and which part of a checkpoint's tensor a rank gets."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, PartitionSpec

from jaxserve.cache.layer_cache import PagedKeysValues, RecurrentState, StateArray
from jaxserve.errors import BadConfig
from jaxserve.layers.param_spec import Origin, ParamSpec, Source
from jaxserve.layers.scaled_weight import ScaledForm, ScaledWeight, abstract_scaled
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.partition import check_partition, local_caches, place_params
from jaxserve.models.spec import MLPSpec
from jaxserve.parallel.mesh import TENSOR_AXIS
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.ranks import Ranks
from jaxserve.parallel.sharding import EXPERT_RULES, RULES, pad_vocab, split_axes
from jaxserve.weights.shards import read_shard
from tests.models.specs import PLAIN


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        (Ranks(3), "tensor_parallel_size=3 cannot divide 4 query heads; try 1, 2, 4."),
        (Ranks(8), "tensor_parallel_size=8 cannot divide 4 query heads; try 1, 2, 4."),
        (Ranks(16, splits_experts=True), "tensor_parallel_size=16 cannot divide 4 query heads; try 1, 2, 4."),
    ],
)
def test_numbers_that_do_not_divide_a_model_are_refused_with_those_that_do(ranks, reason):
    """The model has 4 query heads, 2 key heads, 24 and 12 hidden numbers and 8 experts."""
    with pytest.raises(BadConfig, match=reason):
        check_partition(PLAIN, ranks)


def test_key_heads_may_be_fewer_than_ranks_but_must_divide_evenly():
    check_partition(PLAIN, Ranks(4))  # 2 key heads
    attention = replace(PLAIN.layers[0].attention, num_kv_heads=3, num_heads=12)
    odd = replace(PLAIN, layers=(replace(PLAIN.layers[0], attention=attention),))
    with pytest.raises(BadConfig, match="cannot divide 3 key heads; try 1, 3, 6, 12"):
        check_partition(odd, Ranks(2))


def test_numbers_that_would_cut_packed_blocks_are_refused_with_those_that_do_not():
    """Heads are half as wide as a block of inputs, and as wide as a group of outputs."""
    attention = replace(PLAIN.layers[0].attention, num_heads=8, num_kv_heads=8, head_dim=16)
    layer = replace(PLAIN.layers[0], attention=attention, mlp=MLPSpec(hidden=192))
    spec = replace(PLAIN, layers=(layer,))
    check_partition(spec, Ranks(8))
    check_partition(spec, Ranks(2), "int8")
    for size, fault in (4, "192 hidden numbers"), (8, "128 numbers of query heads"):
        with pytest.raises(
            BadConfig, match=f"{fault} into whole blocks of 32, which quantization='int4' packs; try 1, 2"
        ):
            check_partition(spec, Ranks(size), "int4")
    narrow_keys = replace(layer, attention=replace(attention, num_heads=16, num_kv_heads=1, head_dim=8))
    with pytest.raises(BadConfig, match="8 numbers of key heads into whole blocks of 16"):
        check_partition(replace(PLAIN, layers=(narrow_keys,)), Ranks(2), "int8")


def test_a_rank_keeps_the_key_heads_of_its_queries():
    cache = PagedKeysValues(num_kv_heads=2, head_dim=8)
    assert [local_caches([cache], size)[0].num_kv_heads for size in (1, 2, 4)] == [2, 1, 1]
    state = RecurrentState(arrays=(StateArray((3, 8), split_axis=1), StateArray((4, 6), "float32", split_axis=0)))
    assert [array.shape for array in local_caches([state], 2)[0].arrays] == [(3, 4), (2, 6)]


def test_value_heads_follow_their_key_heads():
    delta = GatedDeltaSpec(num_key_heads=2, num_value_heads=8, key_dim=8, value_dim=8, kernel_size=4)
    spec = replace(PLAIN, layers=(replace(PLAIN.layers[0], attention=delta),))
    check_partition(spec, Ranks(2))
    with pytest.raises(BadConfig, match="4 cannot divide 2 key heads of the delta rule; try 1, 2"):
        check_partition(spec, Ranks(4))


def test_groups_of_mamba2_lie_on_one_rank_or_fill_several():
    mamba = Mamba2Spec(num_heads=12, head_dim=8, num_groups=4, state_dim=8, kernel_size=4)
    spec = replace(PLAIN, layers=(replace(PLAIN.layers[0], attention=mamba),))
    check_partition(spec, Ranks(2))
    check_partition(spec, Ranks(12))
    with pytest.raises(BadConfig, match="3 cannot divide 4 groups of Mamba-2's heads; try 1, 2, 4, 12"):
        check_partition(spec, Ranks(3))
    with pytest.raises(BadConfig, match="8 cannot divide 12 heads of Mamba-2"):
        check_partition(spec, Ranks(8))


def test_experts_are_split_whole_under_expert_parallelism_alone():
    axes = ("experts", "width", "mlp")
    assert split_axes(axes, RULES) == PartitionSpec(None, None, "tensor")
    assert split_axes(axes, EXPERT_RULES) == PartitionSpec("tensor", None, None)
    assert split_axes(("width", "heads"), EXPERT_RULES) == PartitionSpec(None, "tensor")


@pytest.mark.parametrize(("vocab", "size", "padded"), [(272, 1, 272), (272, 2, 320), (49152, 8, 49152), (1, 4, 128)])
def test_the_vocabulary_is_filled_up_to_whole_words_of_a_mask(vocab, size, padded):
    assert pad_vocab(vocab, size) == padded


def cut(param: ParamSpec, parts: list[np.ndarray], shape: tuple[int, ...], axis: int, size: int) -> list[np.ndarray]:
    """Every rank's part of an array that is split along one axis."""
    step = shape[axis] // size
    tensors = {source.name: part for source, part in zip(param.origins[0].sources, parts, strict=True)}
    return [
        read_shard(
            param.origins[0],
            lambda name, part: tensors[name][part],
            param,
            shape,
            tuple(slice(rank * step, (rank + 1) * step) if each == axis else slice(None) for each in range(len(shape))),
        )
        for rank in range(size)
    ]


@given(size=st.sampled_from([1, 2, 4]), axis=st.sampled_from([0, 1]))
def test_the_parts_of_all_ranks_are_the_whole(size, axis):
    whole = np.arange(32.0).reshape(4, 8)
    param = ParamSpec((4, 8), ("width", "mlp"), (Origin((Source("a", (4, 8)),)),))
    np.testing.assert_array_equal(np.concatenate(cut(param, [whole], (4, 8), axis, size), axis), whole)


def test_missing_rows_of_the_vocabulary_are_zeros():
    table = np.ones((5, 2))
    param = ParamSpec((5, 2), ("vocab", "width"), (Origin((Source("a", (5, 2)),)),))
    first, second = cut(param, [table], (8, 2), 0, 2)
    assert first.tolist() == [[1, 1]] * 4
    assert second.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


def test_ranks_beyond_the_key_heads_have_the_same_one():
    kernel = np.arange(8.0).reshape(2, 4)  # two key heads of two numbers
    param = ParamSpec((2, 4), ("width", "kv_heads"), (Origin((Source("a", (2, 4)),)),))
    parts = cut(param, [kernel], (2, 8), 1, 4)
    assert [part[0].tolist() for part in parts] == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_a_rank_stacks_its_own_experts_alone():
    experts = [np.full((2, 3), float(expert)) for expert in range(4)]
    sources = tuple(Source(f"e{expert}", (2, 3)) for expert in range(4))
    param = ParamSpec((4, 2, 3), ("experts", "width", "mlp"), (Origin(sources, "stack"),))
    _, second = cut(param, experts, (4, 2, 3), 0, 2)
    assert second.shape == (2, 2, 3) and second[:, 0, 0].tolist() == [2, 3]


class AbsentDevices(Placement):
    """So many devices that nothing is put on."""

    __slots__ = ()

    @property
    def mesh(self):
        return AbstractMesh((self.size,), (TENSOR_AXIS,))


@pytest.mark.parametrize("form", [ScaledForm(), ScaledForm(has_kernel=True)])
@pytest.mark.parametrize(
    ("hidden", "size", "group"), [(1408, 1, 128), (1408, 2, 64), (768, 4, 64), (29568, 2, 64), (14336, 8, 128)]
)
def test_a_group_of_int4_is_the_largest_that_divides_the_inputs_of_a_rank(hidden, size, group, form):
    placement = AbsentDevices(tuple(jax.devices()[:1]) * size)
    down = ParamSpec((hidden, 64), ("mlp", "width"), (Origin((Source("down", (hidden, 64)),)),))
    path = ("layers", 0, "mlp", "down", "kernel")
    shape = abstract_scaled("int4", down.shape, is_table=False, form=form)
    placed = place_params({path: shape}, {path: down}, PLAIN, placement)[path]
    assert isinstance(placed, ScaledWeight) and (placed.group, placed.shape) == (group, down.shape)
    for array in (placed.data, placed.scale):
        assert array.sharding.shard_shape(array.shape)[0] == hidden // size // group
