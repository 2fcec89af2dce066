"""Weights are passed to programs with their vectors in one array, and come out as they went in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.layers.quant import abstract_packed

SHAPES = [[], [(3,)], [(2, 4)], [(3,), (2, 4), (5,)], [(2, 2), (1,), (1,), (4, 1), (3, 2, 2)]]


def random_weights(shapes):
    rng = np.random.default_rng(len(shapes))
    return {("layers", i): jnp.asarray(rng.normal(size=shape).astype(np.float32)) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_every_weight_comes_out_as_it_went_in(shapes):
    weights = random_weights(shapes)
    layout = WeightLayout.from_shapes(weights)
    arguments = layout.pack(weights)
    assert len(arguments) == sum(len(shape) > 1 for shape in shapes) + any(len(shape) == 1 for shape in shapes)
    unpacked = layout.unpack(arguments)
    assert unpacked.keys() == weights.keys()
    for path, weight in weights.items():
        np.testing.assert_array_equal(unpacked[path], weight)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_the_shapes_of_the_arguments_are_known_before_the_weights(shapes):
    weights = random_weights(shapes)
    layout = WeightLayout.from_shapes(weights)
    for argument, shape in zip(layout.pack(weights), layout.pack_shapes(weights), strict=True):
        assert (argument.shape, argument.dtype) == (shape.shape, shape.dtype)


def test_vectors_of_a_rarer_type_stay_apart():
    weights = {("embed",): jnp.ones(5, jnp.bfloat16)} | random_weights([(3,), (4,)])
    layout = WeightLayout.from_shapes(weights)
    assert layout.paths == (("embed",),) and [length for _, length in layout.vectors] == [3, 4]


@pytest.mark.parametrize("axis", ["tensor", None])
def test_vectors_that_are_split_among_devices_stay_apart(axis):
    sharding = NamedSharding(AbstractMesh((2,), ("tensor",)), PartitionSpec(axis))
    leaf = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)
    assert bool(WeightLayout.from_shapes({("norm",): leaf}).vectors) == (axis is None)


def test_quantized_weights_stay_apart():
    layout = WeightLayout.from_shapes({("kernel",): abstract_packed("int8", 32, 16, native=False)})
    assert layout == WeightLayout((("kernel",),), ())
