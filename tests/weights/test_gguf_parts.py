"""A GGUF model in several files is the model in one."""

import numpy as np
import pytest

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.checkpoint import open_checkpoint
from tests.models.tiny import random_weights, tiny_config
from tests.weights import gguf_writer

CONFIG = tiny_config("llama")
WEIGHTS = random_weights(CONFIG, seed=3)


@pytest.fixture
def parts(tmp_path):
    gguf_writer.write(tmp_path / "m.gguf", CONFIG, WEIGHTS, tensors_of_part=10)
    return sorted(tmp_path.glob("m-*.gguf"))


def test_its_tensors_and_its_config_are_those_of_one_file(parts, tmp_path):
    assert [part.name for part in parts] == [f"m-0000{i}-of-0000{len(parts)}.gguf" for i in range(1, len(parts) + 1)]
    (tmp_path / "whole").mkdir()
    whole = open_checkpoint(gguf_writer.write(tmp_path / "whole" / "m.gguf", CONFIG, WEIGHTS))
    for checkpoint in (open_checkpoint(parts[0]), open_checkpoint(tmp_path)):
        assert checkpoint.config == whole.config
        assert checkpoint.tensors == whole.tensors
        for name in whole.tensors:
            np.testing.assert_array_equal(checkpoint.read(name), whole.read(name))
            checkpoint.release(name)


def test_a_part_that_is_missing_is_named(parts):
    parts[1].unlink()
    with pytest.raises(BadCheckpoint, match=rf"{parts[1].name} is missing"):
        open_checkpoint(parts[0])
    with pytest.raises(BadCheckpoint, match=rf"lacks parts of its \.gguf model: {parts[1].name}\."):
        open_checkpoint(parts[0].parent)


def test_another_part_than_the_first_is_refused_with_the_first(parts):
    with pytest.raises(BadCheckpoint, match=rf"name the first, .*{parts[0].name}"):
        open_checkpoint(parts[1])


def test_parts_in_another_order_are_refused(parts):
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(BadCheckpoint, match=r"says that it is part 2, from 0 on, of 3, not 1"):
        open_checkpoint(parts[0])


def test_a_part_with_another_name_is_refused(parts):
    renamed = parts[0].rename(parts[0].with_name("first.gguf"))
    with pytest.raises(BadCheckpoint, match=r"whose names should end in -00001-of-00003\.gguf"):
        open_checkpoint(renamed)
