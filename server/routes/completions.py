"""POST /v1/completions."""

import quart
from quart import Blueprint, Response

from server.body import read_json
from server.completion_reply import CompletionReply, CompletionStream, Echo
from server.desk import Desk
from server.errors import json_response
from server.reply_headers import name_unenforced
from server.schemas.checks import check_completion
from server.schemas.common import validate
from server.schemas.completions import CompletionRequest
from server.sse import stream_response
from server.translate import completion_jobs, prompts_of


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    async def complete() -> Response:
        request = validate(CompletionRequest, await read_json(quart.request, desk.config))
        desk.check_headers(request)
        check_completion(request, desk.config)
        prompts = prompts_of(request, desk.config)
        desk.check_model(request.model)
        visit = desk.admit(len(prompts) * (request.n or 1), "prompt" if request.n in (None, 1) else "n")
        frame = desk.frame("cmpl", request)
        jobs = await completion_jobs(request, prompts, desk.llm, desk.config)
        pairs = zip(prompts, jobs, strict=True) if request.echo else ()
        echoes = [Echo.of(prompt, job, desk.llm) for prompt, job in pairs]
        run = desk.begin(visit, frame.id, jobs, request.cache_salt)
        if request.stream:
            keep_alive_s = desk.config.sse_keep_alive_interval
            stream = CompletionStream(request, frame, run, echoes)
            response = await stream_response(run, stream, interval=frame.interval, keep_alive_s=keep_alive_s)
        else:
            reply = CompletionReply(request, frame, run, echoes)
            response = json_response(await reply.whole(), headers=desk.load_headers())
        return name_unenforced(response, jobs)

    return routes
