"""ModernBERT is that of transformers in every variant of its config: windows, rotations, biases, and score heads."""

import json

import numpy as np
import pytest
import torch

from jaxserve import LLM, UnknownArchitecture
from tests.pooling.models import hidden_vectors, make, pool_whole, write_network
from tests.pooling.test_encoders import SETTINGS, encode_words, random_text

TOLERANCE = 1e-4
FULL = "full_attention"
VARIANTS = {
    "every other layer is full": {"global_attn_every_n_layers": 2},
    "a type for each layer": {"layer_types": [FULL, FULL, "sliding_attention", FULL]},
    "an odd window": {"local_attention": 5},
    "one rotation": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        }
    },
    "biases everywhere": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
    "another activation": {"hidden_activation": "silu"},
}
HEADS = {
    "the first token": {"num_labels": 3},
    "the mean": {"num_labels": 3, "classifier_pooling": "mean"},
    "biases": {"num_labels": 2, "classifier_bias": True, "norm_bias": True},
    "another activation": {"num_labels": 2, "classifier_activation": "relu"},
}
PROMPTS = [encode_words(random_text(num)) for num in (1, 10, 40, 60)]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_hidden_vectors_are_those_of_transformers(values, tmp_path):
    network = make("ModernBertModel", **values)
    pooled = pool_whole(write_network(tmp_path, network, is_encoder=True), PROMPTS, pooling="ALL")
    for vectors, ids in zip(pooled, PROMPTS, strict=True):
        np.testing.assert_allclose(vectors[: len(ids)], hidden_vectors(network, ids), atol=TOLERANCE)


@pytest.mark.parametrize("values", HEADS.values(), ids=HEADS)
def test_a_head_scores_as_that_of_transformers(values, tmp_path):
    network = make("ModernBertForSequenceClassification", **values)
    with torch.no_grad():
        expected = [network(torch.tensor([ids])).logits[0].numpy() for ids in PROMPTS]
    pooled = pool_whole(write_network(tmp_path, network, is_encoder=True), PROMPTS)
    np.testing.assert_allclose(pooled, expected, atol=TOLERANCE)


def test_pairs_are_scored_as_by_transformers(tmp_path):
    network = make("ModernBertForSequenceClassification", num_labels=1)
    path = write_network(tmp_path, network, is_encoder=True)
    query, documents = random_text(4), [random_text(num) for num in (1, 9, 30)]
    ids = [[*encode_words(query), *encode_words(each)[1:]] for each in documents]
    with torch.no_grad():
        expected = [torch.sigmoid(network(torch.tensor([each])).logits).item() for each in ids]
    with LLM(str(path), **SETTINGS) as llm:
        scores = [output.score for output in llm.score(query, documents)]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


def test_a_published_config_is_read_and_a_masked_model_embeds(tmp_path):
    """The checkpoint of a model that fills in masked tokens has a head that nobody reads, and older keys."""
    network = make("ModernBertForMaskedLM")
    path = write_network(tmp_path, network, is_encoder=True)
    config = json.loads((path / "config.json").read_text())
    for name in ("rope_parameters", "layer_types"):
        del config[name]
    config |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}
    config |= {"layer_norm_eps": 1e-5, "position_embedding_type": "absolute", "reference_compile": False}
    (path / "config.json").write_text(json.dumps(config))
    expected = [hidden_vectors(network.model, ids).mean(0) for ids in PROMPTS]
    np.testing.assert_allclose(pool_whole(path, PROMPTS), expected, atol=TOLERANCE)


def test_what_is_not_computed_is_refused_by_name(tmp_path):
    path = write_network(tmp_path, make("ModernBertForSequenceClassification"), is_encoder=True)
    for overrides, message in (
        ({"classifier_pooling": "max"}, "'classifier_pooling' is 'max'"),
        ({"classifier_activation": "mish"}, "'classifier_activation' is 'mish'"),
        ({"new_arithmetic": 3}, "the key 'new_arithmetic'"),
    ):
        with pytest.raises(UnknownArchitecture, match=message):
            LLM(str(path), hf_overrides=overrides, **SETTINGS)
