"""Decoders whose tokens see those behind them, too (EmbeddingGemma): vectors and scores are those of transformers."""

import numpy as np
import pytest
import torch

from jaxserve import LLM, BadConfig
from tests.pooling.models import hidden_vectors, make, pool_whole, unit, write_modules, write_network
from tests.pooling.test_dense import CHAINS, apply

SETTINGS = {"quiet": True, "max_num_seqs": 4, "max_num_batched_tokens": 256, "compilation_cache_dir": "none"}
TOLERANCE = 1e-4
LENGTHS = (1, 2, 15, 16, 17, 33, 200)


def random_ids(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 255, length).tolist()


@pytest.fixture(scope="module")
def network():
    return make("Gemma3TextModel")


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = write_network(tmp_path_factory.mktemp("gemma"), network, is_encoder=False)
    chain = CHAINS["EmbeddingGemma's"]
    write_modules(path, "pooling_mode_mean_tokens", dense=chain, normalizes=True, prompts={"query": "q: "})
    return path


def test_the_window_is_the_half_on_each_side(network):
    """transformers counts it so, too: what stands in config.json is the whole window."""
    assert network.config.sliding_window == 8 // 2 + 1


def test_embeddings_are_those_of_transformers(network, path):
    prompts, chain = [random_ids(length) for length in LENGTHS], CHAINS["EmbeddingGemma's"]
    expected = [unit(apply(chain, hidden_vectors(network, ids).mean(0))) for ids in prompts]
    with LLM(str(path), **SETTINGS) as llm:
        assert llm.description["attention"] == "whole sequences"
        together = [output.embedding for output in llm.embed(prompts, use_tqdm=False)]
        alone = [llm.embed([ids])[0].embedding for ids in prompts[:3]]
    np.testing.assert_allclose(together, expected, atol=TOLERANCE)
    np.testing.assert_allclose(alone, expected[:3], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["CLS", "LAST", "ALL"])
def test_every_kind_of_pooling_is_that_of_transformers(kind, network, path):
    ids, chain = random_ids(30), CHAINS["EmbeddingGemma's"]
    vectors = hidden_vectors(network, ids)
    expected = {"CLS": vectors[:1], "LAST": vectors[-1:], "ALL": vectors}[kind]
    [pooled] = pool_whole(path, [ids], pooling=kind)
    np.testing.assert_allclose(
        np.atleast_2d(pooled)[: len(expected)], [apply(chain, vector) for vector in expected], atol=TOLERANCE
    )


def test_a_score_head_reads_the_last_token(tmp_path):
    network = make("Gemma3TextForSequenceClassification", num_labels=3, pad_token_id=258)
    path = write_network(tmp_path, network, is_encoder=False)
    prompts = [random_ids(length) for length in (3, 30)]
    with torch.no_grad():
        expected = [network(torch.tensor([ids])).logits[0].numpy() for ids in prompts]
    np.testing.assert_allclose(pool_whole(path, prompts), expected, atol=TOLERANCE)


def test_it_generates_nothing(path):
    with pytest.raises(BadConfig, match="no logits to generate from"):
        LLM(str(path), task="generate", **SETTINGS)
