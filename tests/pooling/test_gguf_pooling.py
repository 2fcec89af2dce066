"""Embedders and rerankers in GGUF files: pooling, dense layers and the head of "yes" and "no" are those of the file."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from jaxserve import BadCheckpoint
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import open_model
from jaxserve.text.pair_prompt import format_pair
from jaxserve.weights.gguf_ranking import RANK
from tests.pooling.models import hidden_vectors, make, pool_whole
from tests.weights import gguf_writer

TOLERANCE = 1e-4
GEMMA_EMBEDDING = gguf.MODEL_ARCH.GEMMA_EMBEDDING
PROMPTS = [np.random.default_rng(length).integers(0, 255, length).tolist() for length in (1, 9, 40)]
PAIR = "Is {document} right of {query}?"
RANKING = {"pooling_type": RANK, "classifier.output_labels": ["yes", "no"]}


def write(directory, network, **how):
    """The file of a network, whose tensors have the names that a model with logits gives them."""
    network.save_pretrained(directory)
    tensors = {
        name if name.startswith("model.") else f"model.{name}": value
        for name, value in load_file(directory / "model.safetensors").items()
    }
    config = network.config.to_dict()
    if how.get("arch") is GEMMA_EMBEDDING:  # what is in the file is the whole window
        how["metadata"] = {"attention.sliding_window": 8, "attention.causal": False} | how.get("metadata", {})
    return gguf_writer.write(directory / "model.gguf", config, tensors, **how)


def open_task(path, **settings):
    return open_model(EngineConfig(model=str(path), **settings), None, None, None).task


@pytest.mark.parametrize(("kind", "pooling"), [(1, "mean"), (2, "cls"), (3, "last")])
def test_a_decoder_that_says_how_it_is_pooled_embeds(kind, pooling, tmp_path):
    path = write(tmp_path, make("Qwen3Model"), metadata={"pooling_type": kind})
    for each in (path, tmp_path / "folder"):
        if each != path:
            each.mkdir()
            path.rename(each / "model.gguf")
        task = open_task(each)
        assert (task.name, task.spec.kind, task.normalizes) == ("embed", pooling, True)


@pytest.mark.parametrize("kind", [None, 0])
def test_one_that_says_nothing_generates(kind, tmp_path):
    assert open_task(write(tmp_path, make("Qwen3Model"), metadata={"pooling_type": kind})) is None


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"'qwen3.pooling_type' is '9'; it should be one of 0, 1, 2, 3, 4"):
        open_task(write(tmp_path, make("Qwen3Model"), metadata={"pooling_type": 9}))


@pytest.mark.parametrize("has_dense", [False, True])
def test_embeddinggemma_embeds_as_in_transformers(has_dense, tmp_path):
    """Scores are over the root of the head's size, which such files take for granted."""
    rng, sizes = np.random.default_rng(0), {"layer_types": None, "num_hidden_layers": 7, "query_pre_attn_scalar": 16}
    network = make("Gemma3TextModel", **sizes)
    dense = {
        "dense_2.weight": rng.normal(size=(48, 32)).astype(np.float32) / 6,
        "dense_3.weight": rng.normal(size=(32, 48)).astype(np.float32) / 6,
    }
    widths = {"dense_2_feat_in": 32, "dense_2_feat_out": 48, "dense_3_feat_in": 48, "dense_3_feat_out": 32}
    how = {"metadata": {"pooling_type": 1} | (widths if has_dense else {}), "own": dense if has_dense else None}
    path = write(tmp_path, network, arch=GEMMA_EMBEDDING, **how)
    expected = np.array([hidden_vectors(network, ids).mean(0) for ids in PROMPTS])
    if has_dense:
        expected = expected @ dense["dense_2.weight"].T @ dense["dense_3.weight"].T
    np.testing.assert_allclose(pool_whole(path, PROMPTS), expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0])
def test_bert_embeds_as_in_transformers(kind, tmp_path):
    """Also from blocks that stay packed, which are coarser."""
    network = make("BertModel")
    network.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    config = network.config.to_dict() | {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default"}}
    config["rope_parameters"]["rope_theta"] = 1.0
    absent = {"attention.head_count_kv": None, "rope.freq_base": None}
    keys = {"pooling_type": 2, "attention.causal": False} | absent
    path = gguf_writer.write(tmp_path / "model.gguf", config, tensors, metadata=keys, kind=kind)
    prompts = [[2, 9, 3], [2, *range(5, 45), 3]]
    expected = [hidden_vectors(network, ids)[0] for ids in prompts]
    tolerance = TOLERANCE if kind == gguf.GGMLQuantizationType.F32 else 0.2
    np.testing.assert_allclose(pool_whole(path, prompts), expected, atol=tolerance)


def test_a_bert_without_types_of_tokens_is_refused(tmp_path):
    config = make("BertModel").config.to_dict() | {"num_key_value_heads": 4}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1.0}
    tables = {name: np.zeros((80, 32), np.float32) for name in ("word_embeddings", "position_embeddings")}
    tensors = {f"embeddings.{name}.weight": value for name, value in tables.items()}
    with pytest.raises(BadCheckpoint, match=r"tensor 'token_types\.weight' is missing or not a table"):
        open_task(gguf_writer.write(tmp_path / "model.gguf", config, tensors))


@pytest.fixture(scope="module")
def reranker():
    return make("Qwen3ForCausalLM", tie_word_embeddings=True)


def rows_of(network, *ids):
    return network.lm_head.weight.detach().numpy()[list(ids)].copy()


def test_a_reranker_scores_by_the_difference_of_both_rows(reranker, tmp_path):
    own, general = {"cls.output.weight": rows_of(reranker, 7, 9)}, {"tokenizer.chat_template.rerank": PAIR}
    path = write(tmp_path, reranker.model, metadata=RANKING, own=own, general=general)
    model = open_model(EngineConfig(model=str(path)), None, None, None)
    assert (model.task.name, model.task.spec.kind, model.task.activation) == ("score", "last", "sigmoid")
    assert format_pair(model.task.pair_format, "{document}", "b") == "Is b right of {document}?"
    [score_1D] = [model.checkpoint.read("score.weight", part) for part in [(slice(0, 1), slice(0, 32))]]
    with torch.no_grad():
        hidden = reranker.model(torch.tensor([PROMPTS[1]])).last_hidden_state[0, -1]
        yes, no = reranker.lm_head(hidden)[[7, 9]]
    assert hidden.numpy() @ score_1D[0] == pytest.approx((yes - no).item(), abs=TOLERANCE)
    assert model.leaves["dense", 0, "linear", "kernel"].shape == (32, 1)


@pytest.mark.parametrize(
    ("metadata", "own", "message"),
    [
        (RANKING, {}, "pools by rank and has no tensor 'cls.output.weight'"),
        ({"pooling_type": RANK}, {"cls.output.weight": np.ones((2, 32), np.float32)}, "'classifier.output_labels' is"),
        (RANKING, {"cls.output.weight": np.ones((3, 32), np.float32)}, "'qwen3.classifier.output_labels' is"),
    ],
)
def test_another_head_is_refused(reranker, tmp_path, metadata, own, message):
    with pytest.raises(BadCheckpoint, match=message.replace("'classifier", "'qwen3.classifier")):
        open_task(write(tmp_path, reranker.model, metadata=metadata, own=own))
