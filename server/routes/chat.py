"""POST /v1/chat/completions, about one conversation, and /v1/chat/completions/batch, about several."""

from collections.abc import Sequence
from functools import partial

from quart import Blueprint, Response

from server.chat_reply import ChatWriter
from server.chat_run import start_chats
from server.request_reader import HostWork
from server.schemas.batch_chat import BatchChatRequest
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_batch, check_chat
from server.send_reply import send_reply
from server.state import ServerState

ID_PREFIX = "chatcmpl-"


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the endpoints that answer conversations."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat() -> Response:
        """Answer a conversation, whole or as a stream."""
        request, work = await state.reader.read(ChatRequest, partial(check_chat, config=state.config))
        return await answer_chats(state, [request], work)

    @routes.post("/v1/chat/completions/batch")
    async def batch() -> Response:
        """Answer several conversations in one reply, each with one choice."""
        request, work = await state.reader.read(BatchChatRequest, partial(check_batch, config=state.config))
        return await answer_chats(state, await work.run(request.to_chat_requests), work)

    return routes


async def answer_chats(state: ServerState, requests: Sequence[ChatRequest], work: HostWork) -> Response:
    """Answer requests that have been checked and differ in their messages only.

    Raises ApiError or the library's errors if they cannot be served.
    """
    run = await start_chats(state, requests, work, ID_PREFIX)
    writer = ChatWriter(requests[0], run.metadata, run.generation, run.renderers, state.tool_metrics)
    return await send_reply(state, requests[0], run.generation, writer, run.metadata.stream_interval)
