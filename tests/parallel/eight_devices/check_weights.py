"""Eight ranks read a checkpoint once together: each its own part, from every format."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.config import EngineConfig
from jaxserve.conversion import convert_model
from jaxserve.models import registry
from jaxserve.models.partition import place_params
from jaxserve.parallel.placement import choose_placements
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from jaxserve.weights.protocol import Checkpoint
from tests.parallel.eight_devices.models import PACKABLE, write
from tests.weights import gguf_writer, tiny
from tests.weights.counting import CountingCheckpoint


def in_safetensors(path: Path) -> Checkpoint:
    return open_checkpoint(path)


def in_gguf(path: Path) -> Checkpoint:
    source = open_checkpoint(path)
    tensors = {name: source.read(name) for name in source.tensors}
    return open_checkpoint(gguf_writer.write(path / "a.gguf", source.config, tensors, kind=Kind.Q8_0))


def in_orbax(path: Path) -> Checkpoint:
    source = open_checkpoint(path)
    return open_checkpoint(tiny.write_orbax(path / "saved", load(source), source.config))


def converted(path: Path, quantization: Any) -> Checkpoint:
    convert_model(str(path), path / quantization, quantization=quantization)
    return open_checkpoint(path / quantization)


def load(checkpoint: Checkpoint, **sizes: Any) -> dict:
    config = EngineConfig(**({"quantization": "none"} | sizes))
    [placement] = choose_placements(config)
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    params = architecture.params(spec)
    shapes = registry.abstract_params(params, jnp.float32, config.quantization)
    return load_params(checkpoint, params, place_params(shapes, params, spec, placement))


@pytest.mark.parametrize("has_expert_parallelism", [False, True])
@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("written_in", [in_safetensors, in_gguf, in_orbax])
def test_eight_ranks_read_one_checkpoint(tmp_path, written_in, family, quantization, has_expert_parallelism):
    checkpoint = written_in(write(tmp_path, family, **PACKABLE[family], num_key_value_heads=8))
    counting = CountingCheckpoint(checkpoint)
    sizes = {"tensor_parallel_size": 8, "enable_expert_parallel": has_expert_parallelism}
    whole = load(checkpoint, quantization=quantization)
    split = load(counting, quantization=quantization, **sizes)
    assert counting.num_bytes == sum(info.nbytes for info in checkpoint.tensors.values())
    for path, weight in whole.items():
        (leaf,), (filled_up,) = (map(np.asarray, jax.tree.leaves(each)) for each in (weight, split[path]))
        np.testing.assert_array_equal(filled_up[tuple(map(slice, leaf.shape))], leaf, err_msg=str(path))


@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize("family", PACKABLE)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_packed_leaves_are_read_as_they_would_have_been_packed(tmp_path, quantization, family, size):
    """The vocabulary is filled up, key heads are repeated, and experts are whole."""
    path = write(tmp_path, family, **PACKABLE[family], num_key_value_heads=2, vocab_size=100)
    for whole_experts in {False, family == "qwen3_moe" and size > 1}:
        sizes = {"tensor_parallel_size": size, "enable_expert_parallel": whole_experts, "quantization": quantization}
        direct = load(open_checkpoint(path), **sizes)
        counting = CountingCheckpoint(
            converted(path, quantization) if not whole_experts else open_checkpoint(path / quantization)
        )
        leaves = load(counting, **sizes)
        assert counting.num_bytes <= sum(info.nbytes for info in counting.tensors.values()) * 1.5
        for leaf, weight in direct.items():
            np.testing.assert_array_equal(
                *map(np.asarray, (jax.tree.leaves(each)[0] for each in (weight, leaves[leaf])))
            )
