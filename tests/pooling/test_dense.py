"""Modules of sentence-transformers behind the pooling: Dense layers and Normalize, in the order of modules.json."""

import json

import numpy as np
import pytest
import torch

from jaxserve import LLM, BadCheckpoint, InvalidParameter, PoolingParams
from tests.pooling.models import hidden_vectors, make, pool_whole, unit, write_modules, write_network
from tests.pooling.test_encoders import SETTINGS, TOLERANCE, encode_words, random_text

WIDTH = 32
PROMPTS = [encode_words(random_text(num)) for num in (1, 20, 60)]
TORCH = {"Identity": torch.nn.Identity(), "Tanh": torch.nn.Tanh(), "ReLU": torch.nn.ReLU(), "GELU": torch.nn.GELU()}
Module = tuple[dict, dict[str, np.ndarray]]


def dense(width_in: int, width_out: int, activation: str = "Identity", *, bias: bool = False) -> Module:
    rng = np.random.default_rng([width_in, width_out])
    tensors = {"linear.weight": rng.normal(size=(width_out, width_in)).astype(np.float32) / 4}
    if bias:
        tensors["linear.bias"] = rng.normal(size=width_out).astype(np.float32)
    config = {"in_features": width_in, "out_features": width_out, "bias": bias}
    return config | {"activation_function": f"torch.nn.modules.activation.{activation}"}, tensors


def apply(modules: list[Module | None], vector: np.ndarray) -> np.ndarray:
    for module in modules:
        if module is None:
            vector = unit(vector)
            continue
        config, tensors = module
        activate = TORCH[config["activation_function"].rpartition(".")[2]]
        product = tensors["linear.weight"] @ vector + tensors.get("linear.bias", 0.0)
        vector = activate(torch.tensor(product)).numpy()
    return vector


CHAINS = {
    "EmbeddingGemma's": [dense(WIDTH, 64), dense(64, WIDTH)],
    "to a smaller vector": [dense(WIDTH, 12, "Tanh", bias=True)],
    "of a vector of length 1": [None, dense(WIDTH, 20, "ReLU", bias=True), None, dense(20, 24, "GELU")],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_an_encoder_with_dense_modules_pools_as_they_say(chain, tmp_path):
    network = make("BertModel")
    path = write_network(tmp_path, network, is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", dense=chain)
    expected = [apply(chain, hidden_vectors(network, ids).mean(0)) for ids in PROMPTS]
    np.testing.assert_allclose(pool_whole(path, PROMPTS), expected, atol=TOLERANCE)


def test_a_normalize_behind_them_is_of_the_embedding(tmp_path):
    network, chain = make("BertModel"), CHAINS["to a smaller vector"]
    path = write_network(tmp_path, network, is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", dense=chain, normalizes=True)
    texts = [random_text(num) for num in (1, 20, 60)]
    expected = np.array([apply(chain, hidden_vectors(network, encode_words(text)).mean(0)) for text in texts])
    with LLM(str(path), matryoshka_dimensions=(8,), **SETTINGS) as llm:
        whole = [output.embedding for output in llm.embed(texts, use_tqdm=False)]
        cut = [each.embedding for each in llm.embed(texts, pooling_params=PoolingParams(dimensions=8))]
        with pytest.raises(InvalidParameter, match="dimensions is 32 and must be one of 8, 12"):
            llm.embed(texts, pooling_params=PoolingParams(dimensions=32))
    np.testing.assert_allclose(whole, unit(expected), atol=TOLERANCE)
    np.testing.assert_allclose(cut, unit(expected[:, :8]), atol=TOLERANCE)


def test_a_decoder_has_them_behind_its_last_token(tmp_path):
    network, chain = make("Qwen3Model"), CHAINS["EmbeddingGemma's"]
    path = write_network(tmp_path, network, is_encoder=False)
    write_modules(path, "pooling_mode_lasttoken", dense=chain, normalizes=True)
    ids = np.random.default_rng(0).integers(0, 255, 100).tolist()
    with LLM(str(path), **SETTINGS) as llm:
        first, again = (llm.embed([ids], use_tqdm=False)[0] for _ in range(2))
    expected = unit(apply(chain, hidden_vectors(network, ids)[-1]))
    assert again.num_cached_tokens > 0
    np.testing.assert_allclose([first.embedding, again.embedding], [expected] * 2, atol=TOLERANCE)


def test_each_token_has_its_own_with_the_pooling_all(tmp_path):
    network, chain = make("BertModel"), CHAINS["to a smaller vector"]
    path = write_network(tmp_path, network, is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", dense=chain)
    [vectors] = pool_whole(path, PROMPTS[:1], pooling="ALL")
    expected = [apply(chain, vector) for vector in hidden_vectors(network, PROMPTS[0])]
    np.testing.assert_allclose(vectors[: len(expected)], expected, atol=TOLERANCE)


@pytest.fixture
def path(tmp_path):
    path = write_network(tmp_path, make("BertModel"), is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", dense=[dense(WIDTH, 12)])
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation_function": "torch.nn.Mish"}, "'activation_function' is 'Mish'; known are GELU, Identity"),
        ({"module_input_name": "token_embeddings"}, "'module_input_name' is 'token_embeddings'"),
        ({"in_features": "many"}, "'in_features' is 'many'"),
        ({"in_features": 33}, "'in_features' is 33, and vectors before it have 32 numbers"),
        ({"out_features": 11}, r"'2_Dense/linear.weight' has shape \(12, 32\); the config asks for \(11, 32\)"),
        ({"out_features": 0}, "'out_features' is 0"),
        ({"bias": 1}, "'bias' is 1; it must be true or false"),
        ({"bias": True}, "lacks tensor '2_Dense/linear.bias'"),
    ],
)
def test_a_module_that_is_not_computed_is_refused_by_name(path, values, message):
    file = path / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(BadCheckpoint, match=message):
        LLM(str(path), **SETTINGS)


def test_a_module_of_other_vectors_is_refused(tmp_path):
    path = write_network(tmp_path, make("BertModel"), is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", dense=[dense(WIDTH, 12), dense(13, 12)])
    with pytest.raises(BadCheckpoint, match="3_Dense: 'in_features' is 13, and vectors before it have 12 numbers"):
        LLM(str(path), **SETTINGS)


def test_pickled_weights_of_a_module_are_not_read(path):
    (path / "2_Dense" / "model.safetensors").rename(path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"2_Dense/model\.safetensors is missing; what is there is pickled"):
        LLM(str(path), **SETTINGS)


def test_a_folder_outside_is_not_read(path):
    modules = json.loads((path / "modules.json").read_text())
    modules[-1]["path"] = f"../{path.name}/2_Dense"
    (path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadCheckpoint, match="is not in this directory"):
        LLM(str(path), **SETTINGS)


def test_a_mean_of_chunks_has_no_dense_modules(tmp_path):
    path = write_network(tmp_path, make("Qwen3Model"), is_encoder=False)
    write_modules(path, "pooling_mode_mean_tokens", dense=[dense(WIDTH, 12)])
    with pytest.raises(BadCheckpoint, match="a module Dense behind the mean of a decoder"):
        LLM(str(path), **SETTINGS)


def test_a_dense_module_before_the_pooling_is_refused(path):
    modules = json.loads((path / "modules.json").read_text())
    (path / "modules.json").write_text(json.dumps([modules[0], modules[2], modules[1]]))
    with pytest.raises(BadCheckpoint, match="a module Dense, before any Pooling"):
        LLM(str(path), **SETTINGS)
