"""The default model itself, from its GGUF, held to transformers over the same dequantised weights.

Live on three prompts, logits after every token; by goldens on all twenty, decoded token by token through the pages.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.layers.quant import PackedWeight
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests import assets
from tests.models.paged import Paged
from tests.models.torch_model import TorchModel

pytestmark = pytest.mark.assets

GOLDENS = json.loads((Path(__file__).parents[1] / "data/goldens/smollm2-135m-instruct.json").read_text())["goldens"]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(assets.model())


@pytest.fixture(scope="module")
def leaves(checkpoint):
    """Every weight, through the loader that the engine uses."""
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    return load_params(checkpoint, architecture.params(spec), shapes, ignored=architecture.ignored_tensors(spec))


@pytest.fixture(scope="module")
def torch_model(checkpoint):
    return TorchModel(checkpoint.config, {name: checkpoint.read(name) for name in checkpoint.tensors})


@pytest.fixture(scope="module")
def answered(checkpoint, leaves):
    """All goldens' prompts at once, answered greedily: the tokens [20, 64] and the logits after prompt and answer."""
    paged = Paged(
        registry.find_architecture(checkpoint.config).spec(checkpoint.config), leaves, rows=len(GOLDENS), backend="cpu"
    )
    rows = [logits[-1] for logits in paged.feed(*(golden["prompt_ids"] for golden in GOLDENS))]
    after_prompt, answer = rows, []
    for _ in GOLDENS[0]["answer_ids"]:
        answer.append([int(row.argmax()) for row in rows])
        rows = [logits[-1] for logits in paged.feed(*([token] for token in answer[-1]))]
    return np.array(answer).T.tolist(), after_prompt, rows


def test_twenty_prompts_are_continued_as_transformers_continues_them(answered):
    assert answered[0] == [golden["answer_ids"] for golden in GOLDENS]


@pytest.mark.parametrize(("which", "key"), [(1, "best_after_prompt"), (2, "best_after_answer")])
def test_the_best_logits_are_the_goldens(answered, which, key):
    for logits_V, golden in zip(answered[which], GOLDENS, strict=True):
        for token, expected in golden[key].items():
            assert logits_V[int(token)] == pytest.approx(expected, abs=TOLERANCE)


def test_goldens_are_no_close_calls():
    assert min(golden["smallest_gap"] for golden in GOLDENS) > TOLERANCE


def test_logits_match_transformers_live(checkpoint, leaves, torch_model):
    sequences = [golden["prompt_ids"] + golden["answer_ids"] for golden in (GOLDENS[0], GOLDENS[8], GOLDENS[15])]
    paged = Paged(registry.find_architecture(checkpoint.config).spec(checkpoint.config), leaves, rows=len(sequences))
    for tokens, logits in zip(sequences, paged.feed(*sequences), strict=True):
        assert np.abs(logits - torch_model.logits(tokens)).max() < TOLERANCE


def test_int4_takes_every_block_of_the_file_over_as_it_is(checkpoint):
    """Its projections are Q4_1 and its table Q8_0, so the packed weights are exactly the file's."""
    architecture = registry.find_architecture(checkpoint.config)
    leaves = architecture.params(architecture.spec(checkpoint.config))
    shapes = registry.abstract_params(leaves, jnp.float32, "int4")
    packed = [
        (leaves[path].origins[0].sources[0].name, shape.kind)
        for path, shape in shapes.items()
        if isinstance(shape, PackedWeight)
    ]
    assert len(packed) == 30 * 7 + 1
    assert all(checkpoint.read_blocks(name, kind) is not None for name, kind in packed)
