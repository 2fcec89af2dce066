"""POST /generative_scoring: the probabilities of some tokens behind a query and each of several items, as in vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from jaxserve import InvalidParameter, SamplingParams
from server.client_fields import client_fields
from server.config import ServerConfig
from server.errors import json_response
from server.replies import count_usage, now_s
from server.sampling import get_max_model_len
from server.schemas.checks import check_cache_salt, check_label
from server.schemas.generative_scoring import GenerativeScoringRequest
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

ID_PREFIX = "generative-scoring-"
FIELD_NAMES = {"logprob_token_ids": "label_token_ids", "prompt": "items", "n": "items"}


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /generative_scoring."""
    routes = Blueprint("generative_scoring", __name__)

    @routes.post("/generative_scoring")
    async def score() -> Response:
        """Score items by the probability of the next token."""
        request, _ = await state.reader.read(GenerativeScoringRequest, partial(_check, config=state.config))
        return await _score(state, request)

    return routes


def _check(request: GenerativeScoringRequest, config: ServerConfig) -> None:
    check_label("request_id", request.request_id)
    check_cache_salt(request.cache_salt)
    num, limit = len(request.items), config.max_completion_prompts
    if num > limit:
        raise InvalidParameter(f"items has {num} items; at most {limit} are allowed.", "items")


async def _score(state: ServerState, request: GenerativeScoringRequest) -> Response:
    llm = state.llm
    rank = state.check_headers(request)
    adapter = state.check_model(request.model)
    llm.check_token_ids(request.label_token_ids, "label_token_ids")
    if request.apply_softmax is False and llm.config.logprobs_mode.endswith("logits"):
        raise InvalidParameter("apply_softmax must be true: --logprobs-mode returns logits here.", "apply_softmax")
    slot = state.admit(len(request.items), "items")
    reply_id, created = state.make_reply_id(slot, ID_PREFIX, request.request_id), now_s()
    with client_fields(FIELD_NAMES):
        params = SamplingParams(
            max_tokens=1, logprobs=0, logprob_token_ids=request.labels, priority=request.priority or 0
        )
        prompts = await slot.run(_make_prompts(request, llm, slot.places.caller))
        preparing = llm.prepare_all(
            prompts,
            params,
            None,
            slot.places,
            cache_salt=state.get_cache_salt(request),
            adapter=adapter,
            data_parallel_rank=rank,
        )
        jobs = await slot.run(preparing)
    deltas = await state.start(slot, reply_id, jobs, "structured_outputs").collect()
    scores = []
    for delta in deltas:
        assert delta.logprobs is not None, "they were asked for"
        logprobs = {entry.token_id: entry.logprob for entry in delta.logprobs[0].requested}
        is_relative = request.apply_softmax is not False
        scores.append(compute_score(logprobs, request.label_token_ids[0], is_relative=is_relative))
    body: dict[str, Any] = {
        "id": reply_id,
        "object": "list",
        "created": created,
        "model": state.model_names[0] if adapter is None else adapter.name,
        "data": [{"index": index, "object": "score", "score": each} for index, each in enumerate(scores)],
        "usage": count_usage(sum(len(job.prompt_ids) for job in jobs), sum(len(delta.token_ids) for delta in deltas)),
    }
    return json_response(body, headers=state.get_load_headers())


async def _make_prompts(request: GenerativeScoringRequest, llm: AsyncLLM, caller: str) -> list[list[int]]:
    """Join the query to each item, and leave out at the end what leaves no room for one token more, as vLLM does."""

    async def encode(part: str | list[int], *, adds_special_tokens: bool) -> list[int]:
        if not isinstance(part, str):
            return part
        return await llm.encode(part, add_special_tokens=adds_special_tokens, counting=True, caller=caller)

    query = await encode(request.query, adds_special_tokens=request.add_special_tokens is not False)
    items = [await encode(item, adds_special_tokens=False) for item in request.items]
    limit = get_max_model_len(llm) - 1
    return [(item + query if request.item_first else query + item)[:limit] for item in items]


def compute_score(logprobs: Mapping[int, float], label: int, *, is_relative: bool) -> float:
    """Return the probability of a label: among these labels if it is relative, else among all tokens.

    logprobs: of each label, or of a relative score its logit.
    """
    if not is_relative:
        return math.exp(logprobs[label])
    highest = max(logprobs.values())
    return math.exp(logprobs[label] - highest) / sum(math.exp(each - highest) for each in logprobs.values())
