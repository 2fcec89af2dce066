"""Runs a chat request from its admission to the start of its generation, for every endpoint that comes to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from server.chat_message import MessageRenderer
from server.chat_reply import make_message_renderer
from server.client_fields import client_fields
from server.generation import Generation
from server.jobs import prepare_chat
from server.replies import ReplyMetadata
from server.request_reader import HostWork
from server.schemas.chat import ChatRequest
from server.schemas.constraints import find_constraint_field
from server.state import ServerState


@dataclass(frozen=True, slots=True)
class ChatRun:
    """A chat request that runs.

    metadata    what all parts of its reply have in common
    generation  its output
    renderer    shows the output as messages
    """

    metadata: ReplyMetadata
    generation: Generation
    renderer: MessageRenderer


async def start_chat(
    state: ServerState,
    request: ChatRequest,
    work: HostWork,
    id_prefix: str,
    field_names: Mapping[str, str] = MappingProxyType({}),
    base_id: str | None = None,
    *,
    shows_tools: bool = False,
    num_copies: int = 1,
) -> ChatRun:
    """Admit, prepare and start a request that has been checked. It belongs to the current task.

    id_prefix: beginning of the reply's id. field_names: the client's names of fields by those of chat, for errors.
    base_id: the rest of the reply's id; None: the client's, or random. shows_tools: the prompt has the tools, although
    tool_choice may be none. num_copies: how often the reply has each token.

    Raises ApiError or the library's errors if it cannot be served, or not now.
    """
    rank = state.check_headers(request)
    adapter = state.check_model(request.model)
    slot = state.admit(request.n or 1)
    metadata = state.make_metadata(slot, id_prefix, request, adapter, base_id=base_id, parses_reasoning=True)
    salt = state.get_cache_salt(request)
    config = replace(state.config, exclude_tools_when_tool_choice_none=False) if shows_tools else state.config
    with client_fields(field_names):
        preparing = prepare_chat(
            request, state.llm, config, work, slot.places, salt, rank, adapter, num_copies=num_copies
        )
        job = await slot.run(preparing)
    constraint_field = find_constraint_field(request)
    generation = state.start(slot, metadata.id, [job], field_names.get(constraint_field, constraint_field))
    return ChatRun(metadata, generation, make_message_renderer(request, state.config))
