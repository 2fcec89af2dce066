"""POST /v1/chat/completions."""

import quart
from quart import Blueprint, Response

from server.body import read_json
from server.chat_reply import ChatReply, ChatStream, make_message_renderer
from server.errors import json_response
from server.jobs import make_chat_job
from server.reply_headers import add_unenforced_header
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat
from server.schemas.common import validate_body
from server.sse import stream_response
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /v1/chat/completions."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat() -> Response:
        """Answer a conversation, whole or as a stream."""
        request = validate_body(ChatRequest, await read_json(quart.request, state.config))
        state.check_headers(request)
        check_chat(request, state.config)
        state.check_model(request.model)
        slot = state.admit(request.n or 1)
        metadata = state.make_metadata("chatcmpl", request, parses_reasoning=True)
        job = await make_chat_job(request, state.llm, state.config)
        generation = state.start(slot, metadata.id, [job], request.cache_salt)
        reply_arguments = (
            request,
            metadata,
            generation,
            make_message_renderer(request, state.config),
            state.tool_metrics,
        )
        if request.stream:
            keep_alive_s = state.config.sse_keep_alive_interval
            stream = ChatStream(*reply_arguments)
            response = await stream_response(
                generation, stream, interval=metadata.stream_interval, keep_alive_s=keep_alive_s
            )
        else:
            response = json_response(await ChatReply(*reply_arguments).build(), headers=state.get_load_headers())
        return add_unenforced_header(response, [job])

    return routes
