"""The routes of models that pool, field by field: what becomes of a request, and what a wrong one is told."""

import base64
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from jaxserve.models.pooling_spec import PoolingSpec
from server import pooling_reply
from server.schemas.fields import get_rows
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, RerankRequest, ScoreRequest
from tests.fake_llm import BOS, FakeLLM
from tests.server.api import Api
from tests.server.pooling_llm import CLASSIFIER, EMBEDDER, SCORER, PoolingLLM

ROUTES = {
    "/v1/embeddings": {"input": "ab"},
    "/pooling": {"input": "ab"},
    "/v1/classify": {"input": "ab"},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/score": {"text_1": "a", "text_2": "b"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
}

SCHEMAS: dict[str, type[BaseModel]] = {
    "/v1/embeddings": EmbeddingRequest,
    "/pooling": EmbeddingRequest,
    "/v1/classify": ClassifyRequest,
}
SCHEMAS |= {"/v1/score": ScoreRequest, "/v1/rerank": RerankRequest}
OF_INPUTS, OF_PAIRS = ("/v1/embeddings", "/pooling", "/v1/classify"), ("/v1/score", "/v1/rerank")


@pytest.fixture
def embedder() -> Api:
    return Api(PoolingLLM())


def unit(vector: Any) -> np.ndarray:
    return np.asarray(vector) / np.linalg.norm(vector)


async def embed(api: Api, **fields: Any) -> Any:
    reply = await api.post("/v1/embeddings", {"input": "ab", **fields})
    assert reply.status == 200, reply.text
    return reply.json


async def test_the_forms_of_an_input(embedder: Api) -> None:
    ids = [BOS, ord("a"), ord("b")]
    for form, expected in (
        ("ab", [ids]),
        (["ab", "b"], [ids, [BOS, ord("b")]]),
        ([7, 8], [[7, 8]]),
        ([[7, 8], [9]], [[7, 8], [9]]),
    ):
        body = await embed(embedder, input=form)
        vectors = [entry["embedding"] for entry in body["data"]]
        np.testing.assert_allclose(vectors, [unit(embedder.llm.pool(each)) for each in expected], atol=1e-6)
        assert [entry["index"] for entry in body["data"]] == list(range(len(expected)))
        num_tokens = sum(map(len, expected))
        assert body["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0}
    assert body["id"].startswith("embd-")
    assert body["model"] == "fake/model"


@pytest.mark.parametrize(
    "wrong",
    [None, "", [], [""], ["a", ""], [[]], [[1], []], ["a", 1], [["a"]], [1, -1], [1000], [[1000]], ["a"] * 2049],
)
async def test_a_wrong_input_is_a_400_that_names_it(embedder: Api, wrong: Any) -> None:
    reply = await embedder.post("/v1/embeddings", {"input": wrong})
    assert reply.status == 400, reply.text
    assert reply.error["param"] == "input"


async def test_messages_are_rendered_as_one_text(embedder: Api) -> None:
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    reply = await embedder.post("/v1/embeddings", {"messages": messages})
    assert reply.status == 200
    assert [ids for ids, _ in embedder.llm.prepared] == [tuple(b"abc")]
    both = await embedder.post("/v1/embeddings", {"messages": messages, "input": "a"})
    assert (both.status, both.error["param"]) == (400, "input")


async def test_special_tokens_are_added_unless_the_request_says_so(embedder: Api) -> None:
    await embed(embedder)
    await embed(embedder, add_special_tokens=False)
    assert [ids for ids, _ in embedder.llm.prepared] == [(BOS, *b"ab"), tuple(b"ab")]


async def test_an_embedding_may_be_base64(embedder: Api) -> None:
    plain, packed = [await embed(embedder, encoding_format=form) for form in ("float", "base64")]
    numbers = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(numbers, plain["data"][0]["embedding"], rtol=1e-6)
    wrong = await embedder.post("/v1/embeddings", {"input": "a", "encoding_format": "hex"})
    assert (wrong.status, wrong.error["param"]) == (400, "body.encoding_format")


async def test_an_embedding_is_cut_where_the_model_allows_it(embedder: Api) -> None:
    body = await embed(embedder, dimensions=2)
    np.testing.assert_allclose(body["data"][0]["embedding"], unit(embedder.llm.pool([BOS, *b"ab"])[:2]), atol=1e-6)
    assert len((await embed(embedder, dimensions=4))["data"][0]["embedding"]) == 4
    for dimensions in (0, -1, 3, 5):
        reply = await embedder.post("/v1/embeddings", {"input": "a", "dimensions": dimensions})
        assert (reply.status, reply.error["param"]) == (400, "dimensions")


async def test_an_embedding_gets_length_1_as_the_request_says(embedder: Api) -> None:
    body = await embed(embedder, normalize=False)
    assert body["data"][0]["embedding"] == embedder.llm.pool([BOS, *b"ab"]).tolist()


async def test_a_prompt_of_the_model_goes_before_a_text(embedder: Api) -> None:
    for input_type in ("query", "search_query", "code", "document", None):
        await embed(embedder, input_type=input_type)
    texts = [bytes(ids[1:]).decode() for ids, _ in embedder.llm.prepared]
    assert texts == ["Q:ab", "Q:ab", "C:ab", "ab", "ab"]
    reply = await embedder.post("/v1/embeddings", {"input": "a", "input_type": "song"})
    assert (reply.status, reply.error["param"]) == (400, "input_type")
    assert "the prompts of this model are: query, code" in reply.error["message"]


async def test_a_text_is_cut_as_the_request_says(embedder: Api) -> None:
    long = "x" * 80
    reply = await embedder.post("/v1/embeddings", {"input": long})
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert "truncate_prompt_tokens: -1" in reply.error["message"]
    await embed(embedder, input=long, truncate_prompt_tokens=-1)
    await embed(embedder, input="abcd", truncate_prompt_tokens=2, truncation_side="left")
    assert [len(ids) for ids, _ in embedder.llm.prepared] == [64, 2]
    assert embedder.llm.prepared[1][0] == tuple(b"cd")
    for wrong in (0, -2, 65):
        reply = await embedder.post("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": wrong})
        assert reply.status == 400
        assert reply.error["param"].endswith("truncate_prompt_tokens")


async def test_shared_fields_are_those_of_chat() -> None:
    api = Api(PoolingLLM(scheduling_policy="priority"))
    body = await embed(api, model="fake/model", priority=3, request_id="mine", cache_salt="salt", user="somebody")
    assert body["id"] == "embd-mine"
    assert api.llm.prepared[0][1].priority == 3
    assert api.llm.options["cache_salt"] == "salt"
    for wrong in ({"model": "other"}, {"cache_salt": "a/b"}, {"request_id": "x" * 257}, {"user": "x" * 257}):
        reply = await api.post("/v1/embeddings", {"input": "a", **wrong})
        assert reply.status == (404 if "model" in wrong else 400)
    plain = Api(PoolingLLM())
    assert (await plain.post("/v1/embeddings", {"input": "a", "priority": 1})).status == 400


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/score"])
async def test_headers_stand_for_fields_as_for_chat(route: str) -> None:
    headers = {"X-Request-Id": "mine", "X-Vllm-Priority": "5", "X-data-parallel-rank": "0"}
    api = Api(PoolingLLM(scheduling_policy="priority"))
    reply = await api.post(route, {**ROUTES[route], "priority": 3, "request_id": "other"}, headers=headers)
    assert reply.json["id"].endswith("-mine")
    assert (api.llm.prepared[0][1].priority, api.llm.options["data_parallel_rank"]) == (5, 0)
    for name in ("X-Vllm-Priority", "X-data-parallel-rank"):
        refused = await Api(PoolingLLM()).post(route, ROUTES[route], headers={name: "5"})
        assert (refused.status, refused.error["type"]) == (400, "BadRequestError")


@pytest.mark.parametrize("route", ["/v1/score", "/score"])
async def test_pairs_are_one_with_one_or_many_or_each_with_its_own(route: str) -> None:
    api = Api(PoolingLLM(SCORER))
    for text_1, text_2, expected in (("a", "b", "b"), ("a", ["b", "c"], "bc"), (["a", "b"], ["c", "d"], "cd")):
        reply = await api.post(route, {"text_1": text_1, "text_2": text_2})
        scores = [entry["score"] for entry in reply.json["data"]]
        np.testing.assert_allclose(scores, [1 / (1 + np.exp(-ord(letter) / 100)) for letter in expected], rtol=1e-5)
    wrongs: list[dict[str, Any]] = [{"text_1": each} for each in (["a", "b"], ["a", "b", "c"], "", ["a"] * 2049)]
    wrongs += [{"text_2": each} for each in ([], [1], ["b"] * 2049)]
    for wrong in wrongs:
        reply = await api.post(route, {"text_1": "a", "text_2": ["b", "c", "d", "e"], **wrong})
        assert reply.status == 400, wrong
        assert reply.error["param"] == next(iter(wrong))


@pytest.mark.parametrize(("limit", "is_main"), [(3, False), (10**6, True)])
async def test_what_is_made_of_many_numbers_is_made_in_a_thread(
    limit: int, is_main: bool, embedder: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, make = [], pooling_reply.make_embedding

    def record(*arguments: Any, **options: Any) -> np.ndarray:
        threads.append(threading.current_thread())
        return make(*arguments, **options)

    monkeypatch.setattr(pooling_reply, "LARGE_NUMBERS", limit)
    monkeypatch.setattr(pooling_reply, "make_embedding", record)
    await embedder.post("/v1/embeddings", {"input": ["a", "b", "c"]})
    assert [thread is threading.main_thread() for thread in threads] == [is_main] * 3


async def test_a_model_that_embeds_scores_by_the_cosine(embedder: Api) -> None:
    reply = await embedder.post("/v1/score", {"text_1": "a", "text_2": ["a", "zz"]})
    first, other = (unit(embedder.llm.pool([BOS, *text])) for text in (b"a", b"zz"))
    np.testing.assert_allclose([entry["score"] for entry in reply.json["data"]], [1, first @ other], atol=1e-6)
    assert len(embedder.llm.prepared) == 2, "a text is embedded once"


@pytest.mark.parametrize("route", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_are_ranked_best_first(route: str) -> None:
    api = Api(PoolingLLM(SCORER))
    body = {"query": "q", "documents": ["b", "d", "c", "d"]}
    reply = await api.post(route, body)
    assert [result["index"] for result in reply.json["results"]] == [1, 3, 2, 0]
    assert reply.json["results"][2]["document"] == {"text": "c"}
    assert reply.json["usage"] == {"total_tokens": 16}
    short = await api.post(route, {**body, "top_n": 2, "return_documents": False})
    assert [set(result) for result in short.json["results"]] == [{"index", "relevance_score"}] * 2
    for top_n in (0, 9, None):
        assert len((await api.post(route, {**body, "top_n": top_n})).json["results"]) == 4
    for name, wrong in (("query", ""), ("documents", []), ("documents", [""]), ("documents", [1]), ("top_n", -1)):
        reply = await api.post(route, {**body, name: wrong})
        assert (reply.status, reply.error["param"]) == (400, name)


async def test_a_classifier_gives_every_label_a_probability() -> None:
    api = Api(PoolingLLM(CLASSIFIER))
    reply = await api.post("/v1/classify", {"input": ["a", "b"]})
    [first, _] = reply.json["data"]
    assert (first["label"], first["num_classes"]) == ("bad", 3)
    np.testing.assert_allclose(first["probs"], np.exp([0, -1, -2]) / np.exp([0, -1, -2]).sum(), rtol=1e-5)


async def test_pooling_returns_what_every_kind_of_model_pools(embedder: Api) -> None:
    reply = await embedder.post("/pooling", {"input": "ab"})
    np.testing.assert_allclose(reply.json["data"][0]["data"], unit(embedder.llm.pool([BOS, *b"ab"])), atol=1e-6)
    for task in (SCORER, CLASSIFIER):
        reply = await Api(PoolingLLM(task)).post("/pooling", {"input": "ab"})
        assert len(reply.json["data"][0]["data"]) == len(task.labels)


async def test_an_activation_can_be_left_out(embedder: Api) -> None:
    pooled = [embedder.llm.pool([BOS, *b"ab"]), *(PoolingLLM(task).pool(b"ab") for task in (SCORER, CLASSIFIER))]
    apis = [embedder, Api(PoolingLLM(SCORER)), Api(PoolingLLM(CLASSIFIER))]
    for api, expected in zip(apis, pooled, strict=True):
        reply = await api.post("/pooling", {"input": "ab", "use_activation": False})
        np.testing.assert_allclose(reply.json["data"][0]["data"], expected, rtol=1e-6)
    for api, route, key in ((apis[2], "/v1/classify", "probs"), (apis[1], "/v1/score", "score")):
        body = {"input": "ab", "text_1": "a", "text_2": "ab", "use_activation": False}
        whole = {"probs": pooled[2], "score": pooled[1][0]}
        np.testing.assert_allclose((await api.post(route, body)).json["data"][0][key], whole[key], rtol=1e-6)
    ranked = await apis[1].post("/v1/rerank", {"query": "a", "documents": ["ab"], "use_activation": False})
    np.testing.assert_allclose(ranked.json["results"][0]["relevance_score"], pooled[1][0], rtol=1e-6)
    for api, more, param in ((apis[0], {"use_activation": False}, "use_activation"), (apis[2], {}, "normalize")):
        reply = await api.post("/pooling", {"input": "a", "normalize": True, **more})
        assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize("task", [EMBEDDER, SCORER, CLASSIFIER])
async def test_whatever_is_pooled_may_be_base64(task: Any) -> None:
    api = Api(PoolingLLM(task))
    plain, packed = [
        (await api.post("/pooling", {"input": "ab", "encoding_format": form})).json["data"][0]["data"]
        for form in ("float", "base64")
    ]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed), "<f4"), plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("routes", "field", "value"),
    [
        (SCHEMAS, "padding", "max_length"),
        (SCHEMAS, "chat_template_kwargs", {"a": 1}),
        (SCHEMAS, "mm_processor_kwargs", {"a": 1}),
        (OF_INPUTS, "media_io_kwargs", {"image": {}}),
        (OF_INPUTS, "chat_template", "x"),
        (OF_INPUTS, "add_generation_prompt", True),
        (OF_INPUTS, "continue_final_message", True),
        (OF_INPUTS[:2], "embed_dtype", "float16"),
        (OF_INPUTS[:2], "endianness", "big"),
        (OF_PAIRS, "instruction", "x"),
        (OF_PAIRS, "max_tokens_per_query", 5),
        (OF_PAIRS, "max_tokens_per_doc", 5),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(routes: Iterable[str], field: str, value: Any) -> None:
    for route in routes:
        api = Api(PoolingLLM(CLASSIFIER if route == "/v1/classify" else EMBEDDER))
        reply = await api.post(route, {**ROUTES[route], field: value})
        assert (reply.status, reply.error["param"]) == (400, field)
        assert reply.error["message"].startswith(f"{field} is not supported yet")
        for nothing in (None, *get_rows(SCHEMAS[route])[field].neutral):
            assert (await api.post(route, {**ROUTES[route], field: nothing})).status == 200


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/score", "/v1/rerank"])
async def test_vectors_of_all_tokens_are_no_embedding(route: str) -> None:
    task = replace(EMBEDDER, spec=PoolingSpec(kind="all"))
    reply = await Api(PoolingLLM(task)).post(route, ROUTES[route])
    assert reply.status == 400
    assert "served with --pooling ALL" in reply.error["message"]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_of_another_task_is_a_400_that_names_the_flag(route: str) -> None:
    reply = await Api(FakeLLM()).post(route, ROUTES[route])
    assert (reply.status, reply.error["type"]) == (400, "BadRequestError")
    assert "served for the task generate" in reply.error["message"]
    assert "--task" in reply.error["message"]


async def test_a_model_that_pools_answers_no_conversation(embedder: Api) -> None:
    for reply in (await embedder.chat(), await embedder.complete()):
        assert (reply.status, reply.error["type"]) == (400, "BadRequestError")
        assert "--task generate" in reply.error["message"]


async def test_what_does_not_fit_into_a_reply_is_refused_before_it_runs() -> None:
    api = Api(PoolingLLM(EMBEDDER), max_reply_bytes=1000)
    reply = await api.post("/v1/embeddings", {"input": ["a"] * 20})
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert "--max-reply-bytes" in reply.error["message"]
