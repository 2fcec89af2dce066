"""Every family is loaded from packed checkpoints in every form: no name and no layout of its tensors is in the way.

fp8 is run every time; the other forms, 45 s together, are marked long.
"""

import re
from functools import cache

import numpy as np
import pytest

from tests.models.tiny import random_weights, tiny_config
from tests.weights import quantized_writer as writer
from tests.weights.packed_cases import ALWAYS_PACKED, PACKED_CASES, PACKED_FORMS
from tests.weights.test_quantized_models import assert_same_leaves, load

NOT_PACKED = re.compile(r"embed|lm_head|norm|conv|router|\bgate\.weight|shared_expert_gate|A_log")
LARGEST_GROUP = 32  # inputs that share a scale


@cache
def weights_of(family):
    return random_weights(tiny_config(family), seed=3)


def is_packed(name: str, value: np.ndarray) -> bool:
    """Whether it is a matrix of a linear layer, whatever its name, whose inputs are whole groups."""
    is_matrix = value.ndim == 2 and name.endswith(".weight") and not NOT_PACKED.search(name)
    return is_matrix and value.shape[0] % 8 == 0 and value.shape[1] % LARGEST_GROUP == 0


CASES = [
    pytest.param(*case, id="-".join(case), marks=() if case[1] == ALWAYS_PACKED else pytest.mark.long)
    for case in PACKED_CASES
]


@pytest.mark.parametrize(("family", "form_name"), CASES)
def test_a_packed_checkpoint_has_the_leaves_of_the_unpacked_one(family, form_name, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "is_packed", is_packed)
    config, form = tiny_config(family), writer.FORMS[PACKED_FORMS[form_name]]
    stored, plain = writer.pack(form, weights_of(family))
    assert stored.keys() - plain.keys() or any(stored[name].dtype != plain[name].dtype for name in plain)
    packed = writer.write_checkpoint(tmp_path / "packed", config | {"quantization_config": form.config}, stored)
    assert_same_leaves(load(packed), load(writer.write_checkpoint(tmp_path / "plain", config, plain)))
