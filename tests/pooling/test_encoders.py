"""Vectors and scores of encoders are those of transformers: of any length, alone and in a crowd, also of pairs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from jaxserve import LLM, BadCheckpoint, BadConfig, PoolingParams, PromptTooLong, UnknownArchitecture
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import open_model
from jaxserve.parallel.placement import Placement
from tests.pooling.models import WORDS, hidden_vectors, make, unit, write_modules, write_network
from tests.weights import quantized_writer as writer

SETTINGS = {"quiet": True, "max_num_seqs": 4, "max_num_batched_tokens": 80, "compilation_cache_dir": "none"}
TOLERANCE = 1e-4
PACKED = writer.Form(
    writer.compressed("pack-quantized", writer.integers(4, "group", group_size=32)), writer.words(group_size=32)
)
FAMILIES = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "ModernBert")
# RoBERTa's positions count behind the padding id.
LONGEST = {"Roberta": 70, "XLMRoberta": 70}


def random_text(num_words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng([seed, num_words]).choice(WORDS, num_words))


def encode_words(text: str) -> list[int]:
    return [2, *(5 + int(word[1:]) for word in text.split()), 3]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def network(family):
    return make(f"{family}Model")


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = write_network(tmp_path_factory.mktemp("encoder"), network, is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", normalizes=True)
    return path


@pytest.fixture(scope="module")
def llm(path):
    with LLM(str(path), **SETTINGS) as llm:
        yield llm


def test_embeddings_are_those_of_transformers(llm, network, family):
    texts = [
        random_text(num, seed) for seed in range(3) for num in (1, 2, 13, 14, 15, 30, 62, LONGEST.get(family, 72) - 2)
    ]
    expected = [unit(hidden_vectors(network, encode_words(text)).mean(0)) for text in texts]
    together = [output.embedding for output in llm.embed(texts, use_tqdm=False)]
    np.testing.assert_allclose(together, expected, atol=TOLERANCE)
    alone = [llm.embed(text)[0].embedding for text in texts[:6]]
    np.testing.assert_allclose(alone, expected[:6], atol=TOLERANCE)


def test_a_head_scores_as_that_of_transformers(family, tmp_path):
    network = make(f"{family}ForSequenceClassification", num_labels=3)
    write_network(tmp_path, network, is_encoder=True)
    texts = [random_text(num) for num in (1, 20, 40)]
    with torch.no_grad():
        logits = [network(torch.tensor([encode_words(text)])).logits[0] for text in texts]
    with LLM(str(tmp_path), **SETTINGS) as llm:
        outputs = llm.classify(texts, use_tqdm=False)
    np.testing.assert_allclose(
        [output.probs for output in outputs], [each.softmax(-1).numpy() for each in logits], atol=TOLERANCE
    )


@pytest.fixture(scope="module")
def bert():
    return make("BertModel")


@pytest.fixture(scope="module")
def bert_path(bert, tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("bert"), bert, is_encoder=True)


class TestBert:
    @pytest.mark.parametrize("kind", ["CLS", "LAST", "MEAN"])
    def test_every_kind_of_pooling_is_that_of_transformers(self, bert, bert_path, kind):
        texts = [random_text(num) for num in (3, 20)]
        pick = {
            "CLS": lambda vectors: vectors[0],
            "LAST": lambda vectors: vectors[-1],
            "MEAN": lambda vectors: vectors.mean(0),
        }
        expected = [unit(pick[kind](hidden_vectors(bert, encode_words(text)))) for text in texts]
        with LLM(str(bert_path), pooling=kind, **SETTINGS) as llm:
            np.testing.assert_allclose([each.embedding for each in llm.embed(texts)], expected, atol=TOLERANCE)

    def test_with_the_pooling_all_every_token_has_a_vector(self, bert, bert_path):
        texts = [random_text(num) for num in (3, 20)]
        with LLM(str(bert_path), pooling="ALL", **SETTINGS) as llm:
            for vectors, text in zip(llm.encode(texts), texts, strict=True):
                np.testing.assert_allclose(vectors, unit(hidden_vectors(bert, encode_words(text))), atol=TOLERANCE)

    def test_under_batch_invariance_neighbours_change_no_bit(self, bert_path):
        texts = [random_text(num) for num in (3, 4, 20, 21, 50)]
        with LLM(str(bert_path), batch_invariant=True, **SETTINGS) as llm:
            together = [output.embedding for output in llm.embed(texts)]
            assert together == [llm.embed(text)[0].embedding for text in texts]

    def test_a_cut_text_keeps_the_tokens_that_the_tokenizer_adds(self, bert_path):
        text = random_text(100)
        with LLM(str(bert_path), **SETTINGS) as llm:
            with pytest.raises(PromptTooLong, match="it has 102 tokens, and this model reads 72"):
                llm.embed(text)
            [output] = llm.embed(text, pooling_params=PoolingParams(truncate_prompt_tokens=-1))
            assert list(output.prompt_token_ids) == [*encode_words(text)[:71], 3]

    def test_no_text_is_longer_than_the_files_allow(self, bert_path):
        (bert_path / "modules.json").write_text('[{"idx": 0, "path": "", "type": "x.Transformer"}]')
        (bert_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
        try:
            with LLM(str(bert_path), **SETTINGS) as llm:
                assert llm.config.max_model_len == 20
        finally:
            (bert_path / "modules.json").unlink()

    def test_what_is_not_computed_is_refused_by_name(self, bert_path):
        modules = '[{"idx": 0, "path": "", "type": "x.Transformer"}, {"idx": 1, "path": "1_LSTM", "type": "x.LSTM"}]'
        (bert_path / "modules.json").write_text(modules)
        try:
            with pytest.raises(BadCheckpoint, match="has a module LSTM, which is not computed here"):
                LLM(str(bert_path), **SETTINGS)
        finally:
            (bert_path / "modules.json").unlink()
        with pytest.raises(UnknownArchitecture, match="'position_embedding_type' is"):
            LLM(str(bert_path), hf_overrides={"position_embedding_type": "relative_key"}, **SETTINGS)
        with pytest.raises(UnknownArchitecture, match="the key 'new_arithmetic'"):
            LLM(str(bert_path), hf_overrides={"new_arithmetic": 3}, **SETTINGS)
        with pytest.raises(BadConfig, match="no logits to generate from"):
            LLM(str(bert_path), task="generate", **SETTINGS)

    @pytest.mark.parametrize("is_packed", [False, True])
    def test_several_devices_are_refused_whatever_the_weights(self, tmp_path, is_packed):
        plain = write_network(tmp_path / "plain", make("BertModel", intermediate_size=64), is_encoder=True)
        config, tensors = json.loads((plain / "config.json").read_text()), {}
        for name, value in load_file(plain / "model.safetensors").items():
            packs = is_packed and name.startswith("encoder.layer") and value.ndim == 2
            tensors |= PACKED.write(name.removesuffix(".weight"), value)[0] if packs else {name: value}
        path = writer.write_checkpoint(
            tmp_path / "served", config | ({"quantization_config": PACKED.config} if is_packed else {}), tensors
        )
        two = Placement((SimpleNamespace(platform="cpu"), SimpleNamespace(platform="cpu")))
        with pytest.raises(BadConfig, match="tensor_parallel_size=2 is for decoders; BertModel takes 1"):
            open_model(EngineConfig(model=str(path)), two, None, None)


@pytest.fixture(scope="module")
def cross_network():
    return make("BertForSequenceClassification", num_labels=1)


@pytest.fixture(scope="module")
def cross_encoder(cross_network, tmp_path_factory):
    path = write_network(tmp_path_factory.mktemp("cross"), cross_network, is_encoder=True)
    with LLM(str(path), **SETTINGS) as llm:
        yield llm


class TestCrossEncoder:
    @staticmethod
    def score(network, first: str, second: str) -> float:
        ids = [*encode_words(first), *encode_words(second)[1:]]
        types = [0] * len(encode_words(first)) + [1] * (len(ids) - len(encode_words(first)))
        with torch.no_grad():
            logits = network(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
        return torch.sigmoid(logits).item()

    def test_pairs_are_scored_as_by_transformers(self, cross_encoder, cross_network):
        query, documents = random_text(4), [random_text(num) for num in (1, 9, 30)]
        scores = [output.score for output in cross_encoder.score(query, documents)]
        np.testing.assert_allclose(
            scores, [self.score(cross_network, query, each) for each in documents], atol=TOLERANCE
        )

    def test_the_longer_text_of_a_pair_is_cut_first(self, cross_encoder):
        first, second = random_text(4), random_text(100)
        params = PoolingParams(truncate_prompt_tokens=20)
        [output] = cross_encoder.score(first, second, pooling_params=params)
        words = encode_words(second)[1:-1]
        assert list(output.prompt_token_ids) == [*encode_words(first), *words[: 20 - 3 - 4], 3]
