"""Runs chat requests from their admission to the start of their generation, for every endpoint that comes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from server.chat_message import MessageRenderer
from server.chat_reply import make_message_renderer
from server.client_fields import client_fields
from server.generation import Generation
from server.jobs import prepare_chats
from server.replies import ReplyMetadata
from server.request_reader import HostWork
from server.schemas.chat import ChatRequest
from server.schemas.constraints import find_constraint_field
from server.state import ServerState


@dataclass(frozen=True, slots=True)
class ChatRun:
    """Conversations that are answered.

    metadata    what all parts of the reply have in common
    generation  the output for all of them
    renderers   show the output for each conversation as messages
    """

    metadata: ReplyMetadata
    generation: Generation
    renderers: Sequence[MessageRenderer]

    @property
    def renderer(self) -> MessageRenderer:
        """The renderer of the only conversation."""
        (renderer,) = self.renderers
        return renderer


async def start_chats(
    state: ServerState,
    requests: Sequence[ChatRequest],
    work: HostWork,
    id_prefix: str,
    field_names: Mapping[str, str] = MappingProxyType({}),
    base_id: str | None = None,
    *,
    shows_tools: bool = False,
    num_copies: int = 1,
) -> ChatRun:
    """Admit, prepare and start requests that have been checked, as one. It belongs to the current task.

    requests: they differ in their messages only; several have no tools, and one answer each.
    id_prefix: beginning of the reply's id. field_names: the client's names of fields by those of chat, for errors.
    base_id: the rest of the reply's id; None: the client's, or random. shows_tools: the prompt has the tools, although
    tool_choice may be none. num_copies: how often the reply has each token.

    Raises ApiError or the library's errors if it cannot be served, or not now.
    """
    request = requests[0]
    rank = state.check_headers(request)
    adapter = state.check_model(request.model)
    slot = state.admit(len(requests) * (request.n or 1), "n" if len(requests) == 1 else "messages")
    metadata = state.make_metadata(slot, id_prefix, request, adapter, base_id=base_id, parses_reasoning=True)
    salt = state.get_cache_salt(request)
    config = replace(state.config, exclude_tools_when_tool_choice_none=False) if shows_tools else state.config
    with client_fields(field_names):
        preparing = prepare_chats(
            requests, state.llm, config, work, slot.places, salt, rank, adapter, num_copies=num_copies
        )
        jobs = await slot.run(preparing)
    constraint_field = find_constraint_field(request)
    generation = state.start(slot, metadata.id, jobs, field_names.get(constraint_field, constraint_field))
    return ChatRun(metadata, generation, [make_message_renderer(each, state.config) for each in requests])
