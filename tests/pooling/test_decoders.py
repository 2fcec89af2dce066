"""Embeddings of a decoder are those of transformers: of any length, alone and in a crowd, in chunks, from the cache."""

import numpy as np
import pytest
import torch

from jaxserve import LLM, InvalidParameter, PoolingParams, PromptTooLong
from tests.pooling.models import hidden_vectors, make, unit, write_modules, write_network

SETTINGS = {"quiet": True, "max_num_seqs": 4, "max_num_batched_tokens": 48, "compilation_cache_dir": "none"}
LENGTHS = (1, 2, 15, 16, 17, 33, 100, 200)
TOLERANCE = 1e-4


def random_ids(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, length]).integers(0, 255, length).tolist()


@pytest.fixture(scope="module")
def network():
    return make("Qwen3Model")


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = write_network(tmp_path_factory.mktemp("embedder"), network, is_encoder=False)
    write_modules(path, "pooling_mode_lasttoken", normalizes=True, prompts={"query": "Q: ", "document": ""})
    return path


@pytest.fixture(scope="module")
def llm(path):
    with LLM(str(path), matryoshka_dimensions=(8, 16), **SETTINGS) as llm:
        yield llm


def embed(llm: LLM, *prompts: list[int]) -> np.ndarray:
    return np.array([output.embedding for output in llm.embed(list(prompts), use_tqdm=False)])


def test_the_task_is_found_in_the_files(llm):
    assert llm.description["task"] == "embed (modules.json), pooling last, length 1"


@pytest.mark.parametrize("length", LENGTHS)
def test_an_embedding_is_that_of_transformers(llm, network, length):
    ids = random_ids(length)
    expected = unit(hidden_vectors(network, ids)[-1])
    np.testing.assert_allclose(embed(llm, ids)[0], expected, atol=TOLERANCE)


def test_an_embedding_in_a_crowd_is_that_of_transformers(llm, network):
    prompts = [random_ids(length, seed) for seed in range(4) for length in LENGTHS]
    expected = [unit(hidden_vectors(network, ids)[-1]) for ids in prompts]
    np.testing.assert_allclose(embed(llm, *prompts), expected, atol=TOLERANCE)


def test_a_prefix_from_the_cache_changes_nothing(llm, network):
    ids = random_ids(90, seed=7)
    first = llm.embed([ids], use_tqdm=False)[0]
    again = llm.embed([ids], use_tqdm=False)[0]
    longer = llm.embed([[*ids, 5, 6]], use_tqdm=False)[0]
    assert (first.num_cached_tokens, again.num_cached_tokens, longer.num_cached_tokens) == (0, 80, 80)
    np.testing.assert_allclose(again.embedding, first.embedding, atol=1e-6)
    np.testing.assert_allclose(longer.embedding, unit(hidden_vectors(network, [*ids, 5, 6])[-1]), atol=TOLERANCE)


def test_a_cut_embedding_has_length_1_again(llm, network):
    ids = random_ids(20)
    [output] = llm.embed([ids], pooling_params=PoolingParams(dimensions=8))
    np.testing.assert_allclose(output.embedding, unit(hidden_vectors(network, ids)[-1][:8]), atol=TOLERANCE)
    [vector] = llm.encode([ids], pooling_params=PoolingParams(dimensions=8))
    np.testing.assert_allclose(vector, output.embedding, atol=1e-6)


def test_an_embedding_may_keep_its_length(llm, network):
    ids = random_ids(20)
    [output] = llm.embed([ids], pooling_params=PoolingParams(normalize=False))
    np.testing.assert_allclose(output.embedding, hidden_vectors(network, ids)[-1], atol=10 * TOLERANCE)


def test_other_dimensions_are_refused_with_those_that_would_do(llm):
    with pytest.raises(InvalidParameter, match=r"dimensions is 9 and must be one of 8, 16, 32"):
        llm.embed(["a"], pooling_params=PoolingParams(dimensions=9))


def test_a_prompt_goes_before_a_text_by_its_name(llm):
    [query] = llm.embed(["text"], input_type="search_query")
    [plain] = llm.embed(["Q: text"], input_type="document")
    assert query == plain
    with pytest.raises(InvalidParameter, match=r"input_type is 'other'; the prompts of this model are: query"):
        llm.embed(["text"], input_type="other")


def test_a_pair_is_scored_by_the_cosine(llm, network):
    query, *documents = (list(text.encode()) for text in ("one", "two", "three"))
    [first, *others] = [hidden_vectors(network, ids)[-1] for ids in (query, *documents)]
    scores = [output.score for output in llm.score("one", ["two", "three"])]
    np.testing.assert_allclose(scores, [unit(first) @ unit(other) for other in others], atol=TOLERANCE)


def test_a_text_that_is_too_long_is_refused_or_cut(llm):
    with pytest.raises(PromptTooLong, match="it has 300 tokens, and this model reads 256"):
        llm.embed(["x" * 300])
    cut = llm.embed(["x" * 300], pooling_params=PoolingParams(truncate_prompt_tokens=-1))[0]
    assert cut.prompt_token_ids == (ord("x"),) * 256
    left = llm.embed(["abc"], pooling_params=PoolingParams(truncate_prompt_tokens=2, truncation_side="left"))[0]
    assert left.prompt_token_ids == tuple(b"bc")


def test_a_model_that_pools_generates_nothing(llm):
    with pytest.raises(InvalidParameter, match="served for the task embed and generates no text"):
        llm.generate("a", max_tokens=1)


def test_the_mean_is_that_of_all_chunks(path, network):
    ids = random_ids(150)
    with LLM(str(path), pooling="MEAN", **SETTINGS) as llm:
        outputs = llm.embed([ids, ids], use_tqdm=False)
    assert [output.num_cached_tokens for output in outputs] == [0, 0]
    for output in outputs:
        np.testing.assert_allclose(output.embedding, unit(hidden_vectors(network, ids).mean(0)), atol=TOLERANCE)


def test_with_the_pooling_all_every_token_has_a_vector(path, network):
    prompts = [random_ids(100), random_ids(3)]
    with LLM(str(path), pooling="ALL", **SETTINGS) as llm:
        for vectors, ids in zip(llm.encode(prompts, use_tqdm=False), prompts, strict=True):
            np.testing.assert_allclose(vectors, unit(hidden_vectors(network, ids)), atol=TOLERANCE)


def test_under_batch_invariance_neighbours_change_no_bit(path):
    prompts = [random_ids(length) for length in (5, 40, 70)]
    with LLM(str(path), batch_invariant=True, enable_prefix_caching=False, **SETTINGS) as llm:
        together = embed(llm, *prompts)
        alone = np.concatenate([embed(llm, ids) for ids in prompts])
    assert (together == alone).all()


def test_a_score_head_is_read(tmp_path):
    network = make("Qwen3ForSequenceClassification", num_labels=3, pad_token_id=258)
    write_network(tmp_path, network, is_encoder=False)
    ids = random_ids(30)
    with torch.no_grad():
        expected = network(torch.tensor([ids])).logits[0].softmax(-1).numpy()
    with LLM(str(tmp_path), **SETTINGS) as llm:
        [output] = llm.classify([ids])
    np.testing.assert_allclose(output.probs, expected, atol=TOLERANCE)
    assert output.label == f"LABEL_{expected.argmax()}"
