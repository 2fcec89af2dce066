"""Rerankers that are language models: the probability of a yes against a no, as transformers computes both logits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from jaxserve import LLM, BadConfig, InvalidParameter, PoolingParams
from tests.pooling.models import make, write_modules, write_network

SETTINGS = {"quiet": True, "max_num_seqs": 4, "max_num_batched_tokens": 128, "compilation_cache_dir": "none"}
NO, YES = 259, 260
QUERY, DOCUMENTS = "why", ["because", "Grass is green.", "x" * 60]


@pytest.fixture(scope="module")
def network():
    return make("Qwen3ForCausalLM", max_position_embeddings=640, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = write_network(tmp_path_factory.mktemp("reranker"), network, is_encoder=False)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_tokens(["no", "yes"])
    assert [tokenizer.token_to_id(word) for word in ("no", "yes")] == [NO, YES]
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def llm(path):
    with LLM(str(path), task="score", **SETTINGS) as llm:
        yield llm


def probability_of_yes(network, token_ids) -> float:
    with torch.no_grad():
        logits = network(torch.tensor([list(token_ids)])).logits[0, -1]
    return torch.softmax(logits[[NO, YES]], 0)[1].item()


def test_a_score_is_the_probability_of_a_yes(llm, network):
    outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    expected = [probability_of_yes(network, output.prompt_token_ids) for output in outputs]
    np.testing.assert_allclose([output.score for output in outputs], expected, atol=1e-4)
    assert llm.description["task"].startswith("score (--task score), pooling last, logits of two tokens")


def test_the_question_is_that_of_the_model_card(llm):
    [output] = llm.score(QUERY, DOCUMENTS[0])
    text = llm.detokenize(output.prompt_token_ids)
    assert text.startswith("<|im_start|>system\nJudge whether the Document meets the requirements")
    assert text.endswith("<Query>: why\n<Document>: because<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_of_a_long_document_the_end_is_cut_and_the_question_kept(llm):
    [whole] = llm.score(QUERY, DOCUMENTS[2])
    limit = len(whole.prompt_token_ids) - 20
    [cut] = llm.score(QUERY, DOCUMENTS[2], pooling_params=PoolingParams(truncate_prompt_tokens=limit))
    text = llm.detokenize(cut.prompt_token_ids)
    assert len(cut.prompt_token_ids) == limit
    assert f"<Document>: {'x' * 40}<|im_end|>" in text


def test_a_template_that_knows_pairs_replaces_the_question(path, network):
    template = (
        "{% for message in messages %}{% if message['role'] == 'query' %}Q {{ message['content'] }}{% endif %}"
        "{% if message['role'] == 'document' %} D {{ message['content'] }}{% endif %}{% endfor %}"
    )
    with LLM(str(path), task="score", chat_template=template, **SETTINGS) as llm:
        [output] = llm.score("why", "because")
        assert llm.detokenize(output.prompt_token_ids) == "Q why D because"
        assert output.score == pytest.approx(probability_of_yes(network, output.prompt_token_ids), abs=1e-4)
        with pytest.raises(InvalidParameter, match="served for the task score; this needs one"):
            llm.embed("a")


def test_the_files_of_sentence_transformers_name_the_tokens(path, tmp_path):
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_modules(tmp_path, None)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence.LogitScore"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_LogitScore").mkdir()
    (tmp_path / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": YES, "false_token_id": NO}))
    with LLM(str(tmp_path), **SETTINGS) as llm:
        assert llm.description["task"].startswith("score (the files name the tokens of a yes and a no)")


def test_tokens_that_are_none_are_refused(path: Path) -> None:
    with pytest.raises(BadConfig, match=r"\['maybe', 'yes'\], whose logits are compared, are not two tokens"):
        LLM(str(path), hf_overrides={"classifier_from_token": ["maybe", "yes"]}, **SETTINGS)
