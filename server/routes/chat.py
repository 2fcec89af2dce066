"""POST /v1/chat/completions."""

from functools import partial

from quart import Blueprint, Response

from server.chat_reply import ChatWriter, make_message_renderer
from server.jobs import prepare_chat
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat
from server.schemas.constraints import find_constraint_field
from server.send_reply import send_reply
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /v1/chat/completions."""
    routes = Blueprint("chat", __name__)

    @routes.post("/v1/chat/completions")
    async def chat() -> Response:
        """Answer a conversation, whole or as a stream."""
        request, work = await state.reader.read(ChatRequest, partial(check_chat, config=state.config))
        rank = state.check_headers(request)
        adapter = state.check_model(request.model)
        slot = state.admit(request.n or 1)
        metadata = state.make_metadata(slot, "chatcmpl", request, adapter, parses_reasoning=True)
        salt = state.get_cache_salt(request)
        job = await slot.run(prepare_chat(request, state.llm, state.config, work, slot.places, salt, rank, adapter))
        generation = state.start(slot, metadata.id, [job], find_constraint_field(request))
        renderer = make_message_renderer(request, state.config)
        writer = ChatWriter(request, metadata, generation, renderer, state.tool_metrics)
        return await send_reply(state, request, generation, writer, metadata.stream_interval)

    return routes
