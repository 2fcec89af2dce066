"""POST /v1/chat/completions/render and /v1/completions/render: what would be run, without running it."""

from dataclasses import asdict
from typing import Any

import quart
from quart import Blueprint, Response

from server.body import read_json
from server.desk import Desk
from server.errors import json_response
from server.reply_headers import name_unenforced
from server.runs import Job
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat, check_completion
from server.schemas.common import GenerationRequest, validate
from server.schemas.completions import CompletionRequest
from server.translate import chat_job, completion_jobs, prompts_of


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("render", __name__)

    @routes.post("/v1/chat/completions/render")
    async def chat() -> Response:
        """One object."""
        request = validate(ChatRequest, await read_json(quart.request, desk.config))
        desk.check_headers(request)
        check_chat(request, desk.config)
        desk.check_model(request.model)
        job = await chat_job(request, desk.llm, desk.config)
        text = {"prompt_text": job.prompt_text} if request.return_prompt_text else {}
        frame = desk.frame("chatcmpl", request)
        return name_unenforced(json_response(_shown(frame.id, frame.model, job, request) | text), [job])

    @routes.post("/v1/completions/render")
    async def complete() -> Response:
        """An array with an object for each prompt, whose id has the prompt's number behind it."""
        request = validate(CompletionRequest, await read_json(quart.request, desk.config))
        desk.check_headers(request)
        check_completion(request, desk.config)
        prompts = prompts_of(request, desk.config)
        desk.check_model(request.model)
        frame = desk.frame("cmpl", request)
        jobs = await completion_jobs(request, prompts, desk.llm, desk.config)
        shown = [_shown(f"{frame.id}-{number}", frame.model, job, request) for number, job in enumerate(jobs)]
        return name_unenforced(json_response(shown), jobs)

    return routes


def _shown(request_id: str, model: str, job: Job, request: GenerationRequest) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "model": model,
        "stream": bool(request.stream),
        "token_ids": list(job.prompt_ids),
        "sampling_params": {name: value for name, value in asdict(job.params).items() if name != "given"},
    }
