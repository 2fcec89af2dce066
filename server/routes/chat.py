"""POST /v1/chat/completions."""

from functools import partial

from quart import Blueprint, Response

from server.chat_reply import ChatWriter
from server.chat_run import start_chat
from server.request_reader import HostWork
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat
from server.send_reply import send_reply
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /v1/chat/completions."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat() -> Response:
        """Answer a conversation, whole or as a stream."""
        request, work = await state.reader.read(ChatRequest, partial(check_chat, config=state.config))
        return await answer_chat(state, request, work)

    return routes


async def answer_chat(state: ServerState, request: ChatRequest, work: HostWork) -> Response:
    """Answer a request that has been checked. Raises ApiError or the library's errors if it cannot be served."""
    run = await start_chat(state, request, work, "chatcmpl-")
    writer = ChatWriter(request, run.metadata, run.generation, run.renderer, state.tool_metrics)
    return await send_reply(state, request, run.generation, writer, run.metadata.stream_interval)
