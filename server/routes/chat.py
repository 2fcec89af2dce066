"""POST /v1/chat/completions."""

import quart
from quart import Blueprint, Response

from server.body import read_json
from server.chat_reply import ChatReply, ChatStream, speech_of
from server.desk import Desk
from server.errors import json_response
from server.reply_headers import name_unenforced
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat
from server.schemas.common import validate
from server.sse import stream_response
from server.translate import chat_job


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat() -> Response:
        request = validate(ChatRequest, await read_json(quart.request, desk.config))
        desk.check_headers(request)
        check_chat(request, desk.config)
        desk.check_model(request.model)
        visit = desk.admit(request.n or 1)
        frame = desk.frame("chatcmpl", request, reads_reasoning=True)
        job = await chat_job(request, desk.llm, desk.config)
        run = desk.begin(visit, frame.id, [job], request.cache_salt)
        how = (request, frame, run, speech_of(request, desk.config), desk.tools)
        if request.stream:
            keep_alive_s = desk.config.sse_keep_alive_interval
            stream = ChatStream(*how)
            response = await stream_response(run, stream, interval=frame.interval, keep_alive_s=keep_alive_s)
        else:
            response = json_response(await ChatReply(*how).whole(), headers=desk.load_headers())
        return name_unenforced(response, [job])

    return routes
