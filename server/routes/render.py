"""POST /v1/chat/completions/render and /v1/completions/render: the token ids and parameters that would be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response

from jaxserve import InvalidParameter
from server.config import ServerConfig
from server.errors import json_response
from server.jobs import parse_prompts, prepare_chats, prepare_completions
from server.replies import ReplyMetadata
from server.reply_headers import add_unenforced_header
from server.request_slots import RequestSlot
from server.sampling import get_max_model_len
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat, check_completion
from server.schemas.completions import CompletionRequest
from server.schemas.generation import GenerationRequest
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import Ready

Offsets = Sequence[tuple[int, int]]


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the endpoints that show what would be run."""
    routes = Blueprint("render", __name__)

    @routes.post("/v1/chat/completions/render")
    async def chat() -> Response:
        """Render a conversation, and return one object."""
        request, work = await state.reader.read(ChatRequest, partial(check_chat, config=state.config))
        state.check_headers(request)
        adapter = state.check_model(request.model)
        slot = state.admit(1)
        frame = state.make_metadata(slot, "chatcmpl-", request, adapter)
        (job,) = await slot.run(prepare_chats([request], state.llm, state.config, work, slot.places))
        text = {"prompt_text": job.prompt_text} if request.return_prompt_text else {}
        adds = bool(request.add_special_tokens)
        (offsets,) = await slot.run(_find_offsets(state, slot, request, [job], [job.prompt_text], adds))

        def render() -> Response:
            """Make the response."""
            rendered = _render_job(frame.id, frame.model, job, request, _render_parameters(job), offsets)
            return json_response(rendered | text)

        return add_unenforced_header(await work.run(render), [job])

    @routes.post("/v1/completions/render")
    async def complete() -> Response:
        """Return an array with an object for each prompt; its id ends in the prompt's number."""
        request, work = await state.reader.read(CompletionRequest, partial(check_completion, config=state.config))
        state.check_headers(request)
        prompts = await work.run(partial(parse_prompts, request, state.config))
        adapter = state.check_model(request.model)
        slot = state.admit(len(prompts), "prompt")
        frame = state.make_metadata(slot, "cmpl-", request, adapter)
        jobs = await slot.run(prepare_completions(request, prompts, state.llm, state.config, work, slot.places))
        adds = request.add_special_tokens is not False
        offsets = await slot.run(_find_offsets(state, slot, request, jobs, prompts, adds))
        rendered = await work.run(partial(_render_jobs, frame, jobs, request, state.config, offsets))
        return add_unenforced_header(rendered, jobs)

    return routes


async def _find_offsets(
    state: ServerState,
    slot: RequestSlot,
    request: GenerationRequest,
    jobs: Sequence[Ready],
    sources: Sequence[str | list[int] | None],
    adds_special_tokens: bool,
) -> list[Offsets | None]:
    """Return of each job where its tokens stand in its source; None if nobody wants to know, or it is no text.

    adds_special_tokens: as the jobs were prepared.
    """
    if not request.return_token_offsets:
        return [None] * len(jobs)
    found: list[Offsets | None] = []
    for job, source in zip(jobs, sources, strict=True):
        offsets = None
        if isinstance(source, str):
            offsets = await state.llm.find_token_offsets(
                source, add_special_tokens=adds_special_tokens, caller=slot.places.caller
            )
            offsets = job.params.truncate(offsets, get_max_model_len(state.llm))
        found.append(offsets)
    return found


def _render_jobs(
    frame: ReplyMetadata,
    jobs: Sequence[Ready],
    request: GenerationRequest,
    config: ServerConfig,
    offsets: Sequence[Offsets | None],
) -> Response:
    """Make the array of all jobs, whose parameters differ in max_tokens only.

    Raises InvalidParameter if it were larger than --max-reply-bytes.
    """
    parameters = _render_parameters(jobs[0])
    num_bytes = len(jobs) * len(orjson.dumps(parameters))
    if num_bytes > config.max_reply_bytes:
        raise InvalidParameter(
            f"The reply would repeat the parameters for each prompt, {num_bytes} bytes; at most "
            f"{config.max_reply_bytes} are allowed. Render fewer prompts at once.",
            "prompt",
        )
    return json_response(
        [
            _render_job(f"{frame.id}-{number}", frame.model, job, request, parameters, offsets[number])
            for number, job in enumerate(jobs)
        ]
    )


def _render_job(
    request_id: str,
    model: str,
    job: Ready,
    request: GenerationRequest,
    parameters: dict[str, Any],
    offsets: Offsets | None,
) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "model": model,
        "stream": bool(request.stream),
        "token_ids": list(job.prompt_ids),
        "token_offsets": offsets,
        "sampling_params": parameters | {"max_tokens": job.params.max_tokens},
    }


def _render_parameters(job: Ready) -> dict[str, Any]:
    return {name: value for name, value in asdict(job.params).items() if name != "given"}
