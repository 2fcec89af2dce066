"""Through HTTP on a real, tiny model: log-probabilities of the whole vocabulary in every mode, ids that are asked for,
and requests that end because no token can be drawn."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxserve import AsyncLLM, EngineConfig
from tests.models.tiny import random_weights, tiny_config, write
from tests.server.api import Api

VOCAB_SIZE = 272
SICK = 271  # an id that no text has
LOWEST = -9999.0
SOON = ({"allowed_token_ids": [120], "bad_words": ["x"]}, {"allowed_token_ids": [257], "min_tokens": 1})
LATER = {"allowed_token_ids": [120], "bad_words": ["xxx"], "ignore_eos": True, "max_tokens": 9}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, so that an engine starts soon; all that follows the token SICK is NaN."""
    directory = Path(write(tmp_path_factory.mktemp("scores"), "qwen3"))
    config = tiny_config("qwen3") | {"num_hidden_layers": 1}
    (directory / "config.json").write_text(json.dumps(config))
    weights = random_weights(config, seed=3)
    weights["model.embed_tokens.weight"][SICK] = np.nan
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@contextmanager
def opened(model: Path, **config: Any) -> Iterator[AsyncLLM]:
    small = {"max_model_len": 128, "max_num_seqs": 2, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 40}
    llm = AsyncLLM(EngineConfig(model=str(model), max_logprobs=-1, batch_invariant=True, **small, **config))
    try:
        yield llm
    finally:
        llm._client.close()


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[AsyncLLM]:
    with opened(model) as llm:
        yield llm


@pytest.fixture
async def api(llm: AsyncLLM) -> AsyncIterator[Api]:
    yield Api(llm)
    assert llm.num_unfinished == 0


async def completed(api: Api, **fields: Any) -> dict[str, Any]:
    answer = await api.complete(**{"prompt": "abc", "temperature": 0, "max_tokens": 3, **fields})
    assert answer.status == 200, answer.text
    return answer.json["choices"][0]


class TestWholeVocabulary:
    async def test_of_a_chat(self, api):
        fields = {"logprobs": True, "temperature": 1, "seed": 1, "max_tokens": 3, "prompt_logprobs": -1}
        body = (await api.chat(**fields, top_logprobs=-1, return_tokens_as_token_ids=True)).json
        for entry in body["choices"][0]["logprobs"]["content"]:
            first, *others = entry["top_logprobs"]
            assert first["token"] == entry["token"]
            assert len({one["token"] for one in entry["top_logprobs"]}) == VOCAB_SIZE == len(others) + 1
            values = [one["logprob"] for one in others]
            assert values == sorted(values, reverse=True)
            assert sum(np.exp([one["logprob"] for one in entry["top_logprobs"]])) == pytest.approx(1, abs=1e-4)
        for table in body["prompt_logprobs"][1:]:
            assert sorted(map(int, table)) == list(range(VOCAB_SIZE))
            ranks = sorted(one["rank"] for one in table.values())
            assert ranks == list(range(1, VOCAB_SIZE + 1))

    async def test_of_a_completion(self, api):
        choice = await completed(api, logprobs=-1, prompt_logprobs=-1, return_tokens_as_token_ids=True)
        for values in choice["logprobs"]["top_logprobs"]:
            assert len(values) == VOCAB_SIZE
            assert sum(np.exp(list(values.values()))) == pytest.approx(1, abs=1e-4)
        assert [None if one is None else len(one) for one in choice["prompt_logprobs"]] == [None, *[VOCAB_SIZE] * 2]

    async def test_streamed_is_whole(self, api):
        fields = {"logprobs": True, "top_logprobs": -1, "temperature": 1, "seed": 2, "max_tokens": 4}
        whole = (await api.chat(**fields)).json["choices"][0]["logprobs"]["content"]
        events = (await api.chat(**fields, stream=True)).events
        assert [
            one for event in events for one in (event["choices"][0]["logprobs"] or {"content": []})["content"]
        ] == whole

    async def test_a_part_is_its_beginning(self, api):
        all_of_it, part = [
            (await completed(api, logprobs=count, return_tokens_as_token_ids=True))["logprobs"]["top_logprobs"]
            for count in (-1, 30)
        ]
        for every, best in zip(all_of_it, part, strict=True):
            assert list(best.items()) == list(every.items())[:30]


class TestIdsThatAreAskedFor:
    async def test_they_have_the_values_of_the_whole_vocabulary(self, api):
        fields = {"logprobs": True, "temperature": 0, "max_tokens": 4, "return_tokens_as_token_ids": True}
        ids = [256, 97, 0, 271, 97]
        whole, asked, streamed = [
            await api.chat(**fields, **more)
            for more in (
                {"top_logprobs": -1},
                {"top_logprobs": 2, "logprob_token_ids": ids},
                {"top_logprobs": 2, "logprob_token_ids": ids, "stream": True},
            )
        ]
        asked = asked.json["choices"][0]["logprobs"]["content"]
        for every, entry in zip(whole.json["choices"][0]["logprobs"]["content"], asked, strict=True):
            known = {one["token"]: one for one in every["top_logprobs"]}
            assert entry["top_logprobs"][:2] == every["top_logprobs"][:2]
            listed = [one["token"] for one in entry["top_logprobs"]]
            assert len(set(listed)) == len(listed)
            assert {f"token_id:{one}" for one in ids} <= set(listed)
            for one in entry["top_logprobs"]:
                assert one["bytes"] == known[one["token"]]["bytes"]
                assert one["logprob"] == pytest.approx(known[one["token"]]["logprob"], abs=1e-5)
        chunks = [event["choices"][0]["logprobs"] or {"content": []} for event in streamed.events]
        assert [one for chunk in chunks for one in chunk["content"]] == asked


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"])
async def test_the_numbers_are_those_of_the_mode(model, api, mode):
    """All of the second half of the vocabulary is forbidden, and one token biased."""
    shape = {"allowed_token_ids": list(range(136)), "logit_bias": {"7": 5}, "temperature": 0.5, "seed": 1}
    fields = {"max_tokens": 1, "logprobs": -1, "return_tokens_as_token_ids": True, "return_token_ids": True, **shape}
    raw = (await completed(api, **fields))["logprobs"]["top_logprobs"][0]
    with opened(model, logprobs_mode=mode) as llm:
        choice = await completed(Api(llm), **fields)
    found = choice["logprobs"]["top_logprobs"][0]
    raw_V, found_V = [np.array([table[f"token_id:{id}"] for id in range(VOCAB_SIZE)]) for table in (raw, found)]
    assert choice["logprobs"]["token_logprobs"][0] == found[f"token_id:{choice['token_ids'][0]}"]
    expected_V = raw_V.copy()
    if mode.startswith("processed"):
        expected_V[7] += 5
        expected_V = np.where(np.arange(VOCAB_SIZE) < 136, expected_V / 0.5, -np.inf)
    if mode.endswith("logprobs"):
        expected_V = expected_V - np.log(np.sum(np.exp(expected_V)))
    else:
        shift = np.max(found_V) - np.max(expected_V)  # the raw logits are known up to their sum
        expected_V = expected_V + shift
        assert mode != "raw_logits" or abs(shift) > 1e-3
    expected_V = np.where(np.isfinite(expected_V), expected_V, LOWEST)
    np.testing.assert_allclose(found_V, expected_V, atol=1e-4)


class TestNoTokenIsLeft:
    @pytest.mark.parametrize("fields", SOON, ids=str)
    @pytest.mark.parametrize("stream", [False, True])
    async def test_at_the_first_token_it_is_a_400(self, api, llm, fields, stream):
        before = await completed(api)
        nonfinite = llm.stats().counters["nonfinite_logits"]
        for answer in (await api.chat(**fields, stream=stream), await api.complete(**fields, stream=stream)):
            assert (answer.status, answer.error["type"]) == (400, "BadRequestError")
            assert "no token" in answer.error["message"]
        assert await completed(api) == before
        assert llm.stats().counters["nonfinite_logits"] == nonfinite

    async def test_later_it_is_a_400_of_a_whole_answer_and_an_event_of_a_stream(self, api):
        before = await completed(api)
        assert (await completed(api, **LATER | {"max_tokens": 2}))["text"] == "xx"
        whole = await api.chat(**LATER)
        assert (whole.status, whole.error["type"]) == (400, "BadRequestError")
        stream = await api.chat(**LATER, stream=True)
        *chunks, last = stream.events
        assert stream.status == 200
        assert last == whole.json
        assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks) == "xx"
        assert [one["choices"][0]["finish_reason"] for one in chunks] == [None] * len(chunks)
        assert await completed(api) == before


async def test_what_is_not_finite_is_a_500_and_harms_nobody_else(api, llm):
    before = await completed(api, logprobs=2)
    nonfinite = llm.stats().counters["nonfinite_logits"]
    for stream in (False, True):
        answer = await api.complete(prompt=[97, SICK], stream=stream)
        assert (answer.status, answer.error["type"]) == (500, "InternalServerError")
    fields = {"allowed_token_ids": [SICK], "max_tokens": 5, "return_token_ids": True}
    stream = await api.chat(**fields, stream=True)
    *chunks, last = stream.events
    assert [one for chunk in chunks for one in chunk["choices"][0].get("token_ids", [])] == [SICK]
    assert (stream.status, last["error"]["code"]) == (200, 500)
    assert await completed(api, logprobs=2) == before
    assert llm.stats().counters["nonfinite_logits"] == nonfinite + 3
