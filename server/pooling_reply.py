"""The replies of models that pool: embeddings, classes, scores and rankings."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson

from jaxserve import make_embedding, make_probabilities
from server.pooling_jobs import PooledResult
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, PooledRequest

if TYPE_CHECKING:
    from jaxserve import PoolingTask

T = TypeVar("T")
LARGE_NUMBERS = 32 * 1024  # of a reply; what is made of them takes some milliseconds


def make_list(result: PooledResult, data: Sequence[dict[str, Any]], *, shows_cached_tokens: bool) -> dict[str, Any]:
    """Make the body of a reply with one entry for each input."""
    num_tokens = result.num_tokens
    usage: dict[str, Any] = {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0}
    if shows_cached_tokens and result.num_cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": result.num_cached_tokens}
    head = {"id": result.id, "object": "list", "created": result.created, "model": result.model}
    return {**head, "data": data, "usage": usage}


def make_embeddings(result: PooledResult, request: EmbeddingRequest, task: PoolingTask) -> list[dict[str, Any]]:
    """Make the entries of /v1/embeddings."""
    return [
        {"index": index, "object": "embedding", "embedding": vector}
        for index, vector in enumerate(_make_vectors(result, request, task))
    ]


def make_pooled(result: PooledResult, request: EmbeddingRequest, task: PoolingTask) -> list[dict[str, Any]]:
    """Make the entries of /pooling."""
    vectors = _make_vectors(result, request, task)
    return [{"index": index, "object": "pooling", "data": vector} for index, vector in enumerate(vectors)]


def _make_vectors(result: PooledResult, request: EmbeddingRequest, task: PoolingTask) -> list[Any]:
    """Make the embedding of each input, or its scores, as the request wants them written."""
    if task.name == "embed":
        options = {"dimensions": request.dimensions, "normalize": request.normalizes}
        vectors = [make_embedding(delta.pooled, task, **options) for delta in result.deltas]
    else:
        vectors = make_scores(result, request, task)
    if request.encoding_format != "base64":
        return vectors
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]


def make_scores(result: PooledResult, request: PooledRequest, task: PoolingTask) -> list[np.ndarray]:
    """Make the score of each input, or the probabilities of its labels; without the activation what the model says."""
    activates = request.use_activation is not False
    return [make_probabilities(delta.pooled, task, activates=activates) for delta in result.deltas]


def make_classes(result: PooledResult, request: ClassifyRequest, task: PoolingTask) -> list[dict[str, Any]]:
    """Make the entries of /v1/classify."""
    return [
        {"index": index, "label": task.labels[int(probs.argmax())], "probs": probs, "num_classes": len(probs)}
        for index, probs in enumerate(make_scores(result, request, task))
    ]


def make_ranking(
    result: PooledResult, scores: Sequence[float], documents: Sequence[str], top_n: int, *, returns_documents: bool
) -> dict[str, Any]:
    """Make the body of /v1/rerank: the best documents first, of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    results = [
        {
            "index": index,
            **({"document": {"text": documents[index]}} if returns_documents else {}),
            "relevance_score": scores[index],
        }
        for index in order[: top_n or None]
    ]
    return {"id": result.id, "model": result.model, "usage": {"total_tokens": result.num_tokens}, "results": results}


async def compute(function: Callable[[], T], arrays: Sequence[Any]) -> T:
    """Return what a function makes of arrays, in a thread if they have many numbers."""
    num_numbers = sum(int(np.size(array)) for array in arrays)
    return function() if num_numbers <= LARGE_NUMBERS else await asyncio.to_thread(function)


def dump(body: dict[str, Any]) -> bytes:
    """Write a body with numpy's numbers as JSON."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
