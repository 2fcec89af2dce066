"""POST /v1/embeddings, /pooling, /v1/classify, /v1/score and /v1/rerank, of models that pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from jaxserve import (
    TextPair,
    TextPrompt,
    check_dimensions,
    check_one_vector,
    compute_cosine,
    pair_texts,
)
from server.errors import json_response, written_json_response
from server.pooling_jobs import (
    PooledResult,
    check_input,
    check_normalization,
    check_pooled,
    check_score,
    parse_documents,
    run_pooling,
    translate_input,
)
from server.pooling_reply import (
    compute,
    dump,
    make_classes,
    make_embeddings,
    make_list,
    make_pooled,
    make_ranking,
    make_scores,
)
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, PooledRequest, RerankRequest, ScoreRequest
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import PoolingTask


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the routes of models that pool."""
    routes = Blueprint("pooling", __name__)

    @routes.post("/v1/embeddings")
    async def embed() -> Response:
        """Embed texts."""
        return await _pool(state, is_embedding=True)

    @routes.post("/pooling")
    async def pool() -> Response:
        """Return what the model pools of texts."""
        return await _pool(state, is_embedding=False)

    @routes.post("/v1/classify")
    async def classify() -> Response:
        """Classify texts."""
        request, work = await state.reader.read(ClassifyRequest, check_input)
        task = state.llm.get_pooling_task("classify", "score")
        inputs = await translate_input(request, task, state, work)
        result = await run_pooling(state, request, inputs, "classify", _text_field(request))
        return await _send_list(state, result, partial(make_classes, result, request, task))

    @routes.post("/score")
    @routes.post("/v1/score")
    async def score() -> Response:
        """Score pairs of texts."""
        request, _ = await state.reader.read(ScoreRequest, check_score)
        task = state.llm.get_pooling_task("embed", "score")
        pairs = pair_texts(request.text_1, request.text_2)
        result, scores = await _score(state, request, pairs, task, "score", "text_2")
        data = [{"index": index, "object": "score", "score": each} for index, each in enumerate(scores)]
        return await _send_list(state, result, lambda: data)

    @routes.post("/rerank")
    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank")
    async def rerank() -> Response:
        """Rank documents by how well they answer a query."""
        request, _ = await state.reader.read(RerankRequest, check_pooled)
        task = state.llm.get_pooling_task("embed", "score")
        documents = parse_documents(request)
        pairs = [(request.query, document) for document in documents]
        result, scores = await _score(state, request, pairs, task, "rerank", "documents")
        returns_documents = request.return_documents is not False
        body = make_ranking(result, scores, documents, request.top_n or 0, returns_documents=returns_documents)
        return json_response(body, headers=state.get_load_headers())

    return routes


async def _pool(state: ServerState, *, is_embedding: bool) -> Response:
    """Answer /v1/embeddings, or /pooling, which other models than those that embed have, too."""
    request, work = await state.reader.read(EmbeddingRequest, check_input)
    task = state.llm.get_pooling_task(*(("embed",) if is_embedding else ("embed", "score", "classify")))
    if is_embedding:
        check_one_vector(task)
    check_dimensions(request.dimensions, task, state.llm.embedding_width)
    check_normalization(request, task)
    inputs = await translate_input(request, task, state, work)
    endpoint = "embeddings" if is_embedding else "pooling"
    result = await run_pooling(state, request, inputs, endpoint, _text_field(request))
    make = make_embeddings if is_embedding else make_pooled
    return await _send_list(state, result, partial(make, result, request, task))


async def _score(
    state: ServerState,
    request: PooledRequest,
    pairs: list[tuple[str, str]],
    task: PoolingTask,
    endpoint: str,
    field: str,
) -> tuple[PooledResult, list[float]]:
    """Score pairs of texts: by the model's own head, or by the cosine of both embeddings, each computed once."""
    check_one_vector(task)
    run = partial(run_pooling, state, request, endpoint=endpoint, field=field)
    if task.name == "score":
        result = await run([TextPair(*pair) for pair in pairs])
        return result, [float(scores[0]) for scores in make_scores(result, request, task)]
    place = {text: index for index, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    result = await run([TextPrompt(text) for text in place])
    vectors = [delta.pooled for delta in result.deltas]
    places = [(place[first], place[second]) for first, second in pairs]

    def score() -> list[float]:
        return [compute_cosine(vectors[first], vectors[second]) for first, second in places]

    return result, await compute(score, vectors)


async def _send_list(
    state: ServerState, result: PooledResult, make_data: Callable[[], list[dict[str, Any]]]
) -> Response:
    """Make the reply with one entry for each input. Nothing large is made of vectors on the event loop."""
    shows_cached_tokens = state.config.enable_prompt_tokens_details

    def write() -> bytes:
        return dump(make_list(result, make_data(), shows_cached_tokens=shows_cached_tokens))

    text = await compute(write, [delta.pooled for delta in result.deltas])
    return written_json_response(text, headers=state.get_load_headers())


def _text_field(request: EmbeddingRequest | ClassifyRequest) -> str:
    return "input" if request.messages is None else "messages"
