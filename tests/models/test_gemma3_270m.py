"""Gemma 3 270M from its GGUF, beyond its window of 512 tokens, held to transformers over the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.models import registry
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests import assets
from tests.models.paged import Paged
from tests.models.torch_model import TorchModel

pytestmark = pytest.mark.assets

TEXT = (
    "The Great Barrier Reef is the world's largest coral reef system, composed of over 2,900 individual reefs and 900 "
    "islands. It is located in the Coral Sea, off the coast of Queensland, Australia. The reef can be seen from outer "
    "space and is the world's biggest single structure made by living organisms. "
)
COMPARED = 24


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(assets.model("gemma-3-270m"))


@pytest.fixture(scope="module")
def tokens():
    tokenizer = Tokenizer.load(assets.model("gemma-3-270m"))
    paragraph = tokenizer.encode(TEXT, add_special_tokens=False)
    return [*tokenizer.encode(""), *paragraph * 12][:576]


@pytest.fixture(scope="module")
def logits(checkpoint, tokens):
    """After each token, in chunks, of which the last and the first are kept: a vocabulary of 262,144 is wide."""
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    ignored = architecture.ignored_tensors(spec)
    leaves = load_params(checkpoint, architecture.params(spec), shapes, ignored=ignored)
    paged = Paged(spec, leaves, capacity=len(tokens), backend="cpu")
    chunks = [paged.feed(tokens[start : start + 64])[0] for start in range(0, len(tokens), 64)]
    return chunks[0], chunks[-1]


def test_logits_match_transformers_behind_the_window(checkpoint, tokens, logits):
    model = TorchModel(checkpoint.config, {name: checkpoint.read(name) for name in checkpoint.tensors})
    expected = model.logits(tokens)[-COMPARED:]
    assert np.abs(logits[1][-COMPARED:] - expected).max() < 1e-3


def test_an_english_paragraph_is_hardly_surprising(tokens, logits):
    """Perplexity from its beginning: 4.3 were seen; a model misread in any way gives hundreds."""
    first = logits[0][:-1].astype(np.float64)
    log_normalizer = np.log(np.exp(first - first.max(-1, keepdims=True)).sum(-1)) + first.max(-1)
    logprobs = first[np.arange(len(first)), tokens[1 : len(first) + 1]] - log_normalizer
    assert np.exp(-logprobs.mean()) < 6
