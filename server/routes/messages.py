"""POST /v1/messages and POST /v1/messages/count_tokens."""

from functools import partial

from quart import Blueprint, Response

from server.chat_run import start_chats
from server.client_fields import client_fields
from server.errors import json_response
from server.messages.mapper import FIELD_NAMES, map_messages
from server.messages.writer import MessagesWriter
from server.rendering import make_chat_prompt
from server.reply_headers import IGNORED_TOOLS_HEADER, add_names_header
from server.sampling import get_max_model_len
from server.schemas.messages import CountTokensRequest, MessagesRequest
from server.send_reply import send_reply
from server.state import ServerState

ID_PREFIX = "msg_"


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the Messages API."""
    routes = Blueprint("messages", __name__)
    model = {"has_reasoning": state.llm.reasoning_parser is not None, "max_model_len": get_max_model_len(state.llm)}
    map_request = partial(map_messages, config=state.config, **model)

    @routes.post("/v1/messages")
    async def answer() -> Response:
        """Answer a conversation, whole or as a stream."""
        request, work = await state.reader.read(MessagesRequest)
        mapped = await work.run(partial(map_request, request))
        run = await start_chats(state, [mapped.chat], work, ID_PREFIX, FIELD_NAMES)
        writer = MessagesWriter(request, run.metadata, run.generation, run.renderer, state.tool_metrics)
        response = await send_reply(state, mapped.chat, run.generation, writer, run.metadata.stream_interval)
        return add_names_header(response, IGNORED_TOOLS_HEADER, mapped.ignored_tools)

    @routes.post("/v1/messages/count_tokens")
    async def count_tokens() -> Response:
        """Count the tokens of a conversation."""
        request, work = await state.reader.read(CountTokensRequest)
        mapped = await work.run(partial(map_request, request))
        state.check_model(request.model)
        slot = state.admit(1)
        prompt = await work.run(partial(make_chat_prompt, mapped.chat, state.config))
        with client_fields(FIELD_NAMES):
            rendered = await slot.run(state.llm.render_chat(prompt, counting=True, caller=slot.places.caller))
        response = json_response({"input_tokens": len(rendered.token_ids)})
        return add_names_header(response, IGNORED_TOOLS_HEADER, mapped.ignored_tools)

    return routes
