"""POST /v1/chat/completions/render and /v1/completions/render: the token ids and parameters that would be run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import quart
from quart import Blueprint, Response

from server.body import read_json
from server.errors import json_response
from server.jobs import parse_prompts, prepare_chat, prepare_completions
from server.reply_headers import add_unenforced_header
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat, check_completion
from server.schemas.common import validate_body
from server.schemas.completions import CompletionRequest
from server.schemas.generation import GenerationRequest
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import Ready


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the endpoints that show what would be run."""
    routes = Blueprint("render", __name__)

    @routes.post("/v1/chat/completions/render")
    async def chat() -> Response:
        """Render a conversation, and return one object."""
        request = validate_body(ChatRequest, await read_json(quart.request, state.config))
        state.check_headers(request)
        check_chat(request, state.config)
        state.check_model(request.model)
        job = await prepare_chat(request, state.llm, state.config)
        text = {"prompt_text": job.prompt_text} if request.return_prompt_text else {}
        frame = state.make_metadata("chatcmpl", request)
        return add_unenforced_header(json_response(_render_job(frame.id, frame.model, job, request) | text), [job])

    @routes.post("/v1/completions/render")
    async def complete() -> Response:
        """Return an array with an object for each prompt; its id ends in the prompt's number."""
        request = validate_body(CompletionRequest, await read_json(quart.request, state.config))
        state.check_headers(request)
        check_completion(request, state.config)
        prompts = parse_prompts(request, state.config)
        state.check_model(request.model)
        frame = state.make_metadata("cmpl", request)
        jobs = await prepare_completions(request, prompts, state.llm, state.config)
        rendered = [_render_job(f"{frame.id}-{number}", frame.model, job, request) for number, job in enumerate(jobs)]
        return add_unenforced_header(json_response(rendered), jobs)

    return routes


def _render_job(request_id: str, model: str, job: Ready, request: GenerationRequest) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "model": model,
        "stream": bool(request.stream),
        "token_ids": list(job.prompt_ids),
        "sampling_params": {name: value for name, value in asdict(job.params).items() if name != "given"},
    }
