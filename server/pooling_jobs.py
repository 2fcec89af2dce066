"""Runs the texts of a request on a model that pools: translation of the body, preparation, and the pooled results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxserve import ChatPrompt, InvalidParameter, PoolingParams, RequestError, TextPair, TextPrompt, find_prompt
from server.client_fields import client_fields
from server.config import ServerConfig
from server.pooling_metrics import ID_PREFIXES
from server.replies import now_s
from server.request_reader import HostWork
from server.schemas.checks import check_cache_salt, check_label
from server.schemas.fields import refuse_unsupported
from server.schemas.pooling import (
    MAX_INPUTS,
    EmbeddingRequest,
    InputRequest,
    PooledRequest,
    RerankRequest,
    ScoreRequest,
)
from server.schemas.template import check_messages, merge_template_kwargs
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import PoolingTask, Ready, TextDelta

Input = TextPrompt | ChatPrompt | TextPair | list[int]
BYTES_PER_NUMBER = 14  # of a reply, roughly; of base64 less


@dataclass(frozen=True, slots=True)
class PooledResult:
    """The pooled results of one request.

    id       of the reply
    created  Unix time in seconds
    model    first served model name
    jobs     the prepared texts
    deltas   one for each of them, with what is pooled
    """

    id: str
    created: int
    model: str
    jobs: Sequence[Ready]
    deltas: Sequence[TextDelta]

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(job.prompt_ids) for job in self.jobs)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens that were found in the prefix cache."""
        return sum(delta.num_cached_tokens for delta in self.deltas)


async def run_pooling(
    state: ServerState,
    request: PooledRequest,
    inputs: Sequence[Input],
    endpoint: str,
    field: str,
) -> PooledResult:
    """Admit, prepare and run the texts of a request, and wait for all of them.

    endpoint: one of ID_PREFIXES. field: the request's field that errors about a text name.

    Raises RequestError or ApiError if the request cannot be served.
    """
    rank = state.check_headers(request)
    params = make_params(request)
    adapter = state.check_model(request.model)
    assert adapter is None, "an engine that pools has no adapters"
    slot = state.admit(len(inputs), field)
    clock = asyncio.get_running_loop().time
    started = clock()
    reply_id = state.make_reply_id(slot, ID_PREFIXES[endpoint], request.request_id)
    created, salt = now_s(), state.get_cache_salt(request)
    with client_fields({"prompt": field}):
        prepare = state.llm.prepare_pooling(inputs, params, slot.places, cache_salt=salt, data_parallel_rank=rank)
        jobs = await slot.run(prepare)
    _check_reply_size(jobs, state, field)
    generation = state.start(slot, reply_id, jobs, "structured_outputs")
    deltas = await generation.collect()
    result = PooledResult(reply_id, created, state.model_names[0], jobs, deltas)
    state.pooling_metrics.observe(
        endpoint, num_texts=len(inputs), num_tokens=result.num_tokens, seconds=clock() - started
    )
    return result


def check_pooled(request: PooledRequest) -> None:
    """Check what types cannot express. Raises InvalidParameter or Unsupported about the field at fault."""
    for name in ("request_id", "user"):
        check_label(name, getattr(request, name))
    check_cache_salt(request.cache_salt)
    refuse_unsupported(request)


def check_score(request: ScoreRequest) -> None:
    """Check the body of a request about pairs of texts. Raises InvalidParameter about the field at fault."""
    check_pooled(request)
    for name, texts in (("text_1", request.text_1), ("text_2", request.text_2)):
        if isinstance(texts, list) and len(texts) > MAX_INPUTS:
            raise InvalidParameter(f"{name} has {len(texts)} texts; at most {MAX_INPUTS} are allowed.", name)


def check_input(request: InputRequest) -> None:
    """Check the body of a request about single texts. Raises InvalidParameter about the field at fault."""
    check_pooled(request)
    if (request.input is None) == (request.messages is None):
        raise _input_error("needs a text, token ids or a list of either, or messages in its place")
    if request.messages is not None:
        check_messages(request.messages)


def check_normalization(request: EmbeddingRequest, task: PoolingTask) -> None:
    """Check the switches of an embedding's length. Raises InvalidParameter if they differ, or nothing is embedded."""
    if request.normalize is None:
        return
    if task.name != "embed":
        message = f"normalize is for embeddings, and this model is served for the task {task.name}; use use_activation."
        raise InvalidParameter(message, "normalize")
    if request.use_activation not in (None, request.normalize):
        message = "use_activation and normalize are one switch of embeddings; leave one of them out."
        raise InvalidParameter(message, "use_activation")


def make_params(request: PooledRequest) -> PoolingParams:
    """Make the library's parameters. Raises InvalidParameter if a value is out of its range."""
    names = ("truncate_prompt_tokens", "truncation_side", "priority", "dimensions")
    values = {name: getattr(request, name, None) for name in names}
    return PoolingParams(**{name: value for name, value in values.items() if value is not None})


def make_inputs(request: InputRequest, task: PoolingTask, config: ServerConfig) -> list[Input]:
    """Make the texts of a request.

    Raises InvalidParameter if one is no text and no list of token ids, or empty, or there are too many.
    """
    if request.messages is not None:
        return [
            ChatPrompt(
                messages=[message.model_dump(exclude_none=True) for message in request.messages],
                add_generation_prompt=False,
                add_special_tokens=request.add_special_tokens is not False,
                template_kwargs=merge_template_kwargs(None, None, config),
            )
        ]
    before = find_prompt(request.input_type, task) if isinstance(request, EmbeddingRequest) else ""
    adds_special_tokens = request.add_special_tokens is not False
    return [
        TextPrompt(before + each, adds_special_tokens) if isinstance(each, str) else each
        for each in _parse_input(request.input)
    ]


def _parse_input(given: Any) -> list[str | list[int]]:
    """Return the inputs, each a text or token ids."""
    if isinstance(given, str) or (given and all(map(_is_token_id, given))):
        given = [given]
    if not given:
        raise _input_error("is empty")
    if len(given) > MAX_INPUTS:
        raise _input_error(f"has {len(given)} texts; at most {MAX_INPUTS} are allowed")
    if not all(given):
        raise _input_error("has an empty text")
    if all(isinstance(each, str) for each in given):
        return list(given)
    if all(isinstance(each, list) and all(map(_is_token_id, each)) for each in given):
        return [[int(token_id) for token_id in each] for each in given]
    raise _input_error("has to be a text, a list of texts, a list of token ids, or a list of such lists")


def parse_documents(request: RerankRequest) -> list[str]:
    """Return the documents of a request.

    Raises InvalidParameter about the field at fault if one is empty or no text, or there are none or too many.
    """
    if not request.query:
        raise InvalidParameter("query is empty.", "query")
    documents = request.documents
    if not documents or len(documents) > MAX_INPUTS:
        raise InvalidParameter(f"documents has {len(documents)} texts; 1 to {MAX_INPUTS} are allowed.", "documents")
    if not all(isinstance(document, str) and document for document in documents):
        raise InvalidParameter("documents has to be a list of texts, none of them empty.", "documents")
    if request.top_n is not None and request.top_n < 0:
        raise InvalidParameter(f"top_n has to be 0 or more; it is {request.top_n}.", "top_n")
    return documents


def _check_reply_size(jobs: Sequence[Ready], state: ServerState, field: str) -> None:
    """Check that what is pooled fits into a reply, before anything runs. Raises InvalidParameter if not."""
    task, num_vectors = state.llm.task, len(jobs)
    if task is None or task.name != "embed":
        return
    if task.spec.kind == "all":
        num_vectors = sum(len(job.prompt_ids) for job in jobs)
    num_numbers, limit = num_vectors * state.llm.embedding_width, state.config.max_reply_bytes
    if num_numbers * BYTES_PER_NUMBER > limit:
        raise InvalidParameter(
            f"{num_numbers} numbers would be computed; a reply has at most {limit} bytes (--max-reply-bytes). Send"
            " fewer texts at a time.",
            field,
        )


async def translate_input(request: InputRequest, task: PoolingTask, state: ServerState, work: HostWork) -> list[Input]:
    """Make the texts of a request, in a thread if it is large."""
    return await work.run(partial(make_inputs, request, task, state.config))


def _is_token_id(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _input_error(reason: str) -> RequestError:
    return InvalidParameter(f"input {reason}.", "input")
