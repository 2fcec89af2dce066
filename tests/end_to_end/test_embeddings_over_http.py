"""Servers of models that pool, through the openai SDK and plain HTTP."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from tests.end_to_end.running_server import RunningServer
from tests.pooling.models import WORDS, hidden_vectors, make, unit, write_modules, write_network

FLAGS = ("--max-num-seqs", "8", "--max-num-batched-tokens", "80", "--served-model-name", "tiny")
TEXTS = [" ".join(WORDS[start : start + num]) for start, num in ((0, 1), (3, 5), (7, 20), (9, 40))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, list[np.ndarray]]]:
    network = make("BertModel")
    path = write_network(Path(tmp_path_factory.mktemp("server")), network, is_encoder=True)
    write_modules(path, "pooling_mode_mean_tokens", normalizes=True)
    vectors = [hidden_vectors(network, [2, *(5 + int(word[1:]) for word in text.split()), 3]) for text in TEXTS]
    with RunningServer(path, *FLAGS) as server:
        yield server, [unit(each.mean(0)) for each in vectors]


def test_the_sdk_reads_embeddings_in_either_format(server) -> None:
    running, expected = server
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none") as client:
        packed = client.embeddings.create(model="tiny", input=TEXTS)  # the SDK asks for base64 and decodes it
        plain = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
        np.testing.assert_allclose([each.embedding for each in packed.data], expected, atol=1e-4)
        np.testing.assert_allclose([each.embedding for each in plain.data], expected, atol=1e-4)
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 74
        with pytest.raises(openai.BadRequestError, match="--task generate"):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "w1"}])
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="tiny", input="w1", dimensions=8)


def test_scores_and_ranks_are_cosines(server) -> None:
    running, expected = server
    cosines = [float(expected[0] @ each) for each in expected[1:]]
    with httpx.Client(base_url=running.url) as client:
        body = client.post("/v1/score", json={"text_1": TEXTS[0], "text_2": TEXTS[1:]}).json()
        np.testing.assert_allclose([each["score"] for each in body["data"]], cosines, atol=1e-4)
        ranked = client.post("/v2/rerank", json={"query": TEXTS[0], "documents": TEXTS[1:]}).json()["results"]
        assert [each["index"] for each in ranked] == sorted(range(3), key=lambda index: -cosines[index])


async def test_many_callers_at_once_get_their_own_vectors_and_nothing_is_left(server) -> None:
    running, expected = server
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:

        async def embed(index: int) -> None:
            reply = await client.post("/v1/embeddings", json={"input": TEXTS[index % 4]})
            np.testing.assert_allclose(reply.json()["data"][0]["embedding"], expected[index % 4], atol=1e-4)

        await asyncio.gather(*map(embed, range(60)))
        metrics = (await client.get("/metrics")).text
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' in metrics
    finished = re.search(r'vllm:request_success_total\{[^}]*"stop"[^}]*\} (\d+)', metrics)
    assert finished is not None
    assert int(finished[1]) >= 60
