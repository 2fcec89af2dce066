"""Answers requests of the Responses API: at once, as a stream, or in the background."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import quart
from quart import Response

from jaxserve import InvalidParameter
from server.chat_run import start_chats
from server.errors import preview, written_json_response
from server.generation import Generation
from server.replies import make_random_id
from server.reply_headers import IGNORED_TOOLS_HEADER, add_names_header, add_unenforced_header
from server.request_reader import HostWork
from server.responses.background import BackgroundRun
from server.responses.checks import ID_PREFIX
from server.responses.mapper import MappedRequest, map_request
from server.responses.output_items import OPENAI_REASONING_PART, REASONING_PART
from server.responses.references import find_holders, is_reference, resolve_references
from server.responses.store import StoredResponse
from server.responses.writer import ResponsesWriter
from server.sampling import get_max_model_len
from server.schemas.responses import ResponsesRequest
from server.send_reply import send_reply
from server.sse import make_stream_response
from server.state import ServerState

_ROUTABLE = re.compile(r"[A-Za-z0-9._~:-]{1,256}")  # ids that stand in a path as they are
NUM_STREAM_COPIES = 5  # of each token: in its delta, in .done of the text, the part and the item, and in the response
OnEnd = Callable[[dict[str, Any]], None]


async def answer_responses(state: ServerState, request: ResponsesRequest, work: HostWork) -> Response:
    """Answer a request that has been checked. Raises ApiError or the library's errors if it cannot be served."""
    if not state.config.responses_store_size:
        request = request.model_copy(update={"store": False})
    return await _ResponsesCall(state, request, work).answer()


class _ResponsesCall:
    """One request, with the owner and the conversation of its response."""

    def __init__(self, state: ServerState, request: ResponsesRequest, work: HostWork) -> None:
        self._state, self._request, self._work = state, request, work
        self._owner = state.auth.find_owner(quart.request)
        self._previous: StoredResponse | None = None
        self._history: tuple[bytes, ...] = ()
        self._holders: Mapping[str, StoredResponse | None] = {}

    async def answer(self) -> Response:
        """Make the response."""
        if self._request.previous_response_id is not None:
            self._find_previous(self._request.previous_response_id)
        self._find_references()
        mapped = await self._work.run(self._map)
        answer = self._answer_later if self._request.background else self._answer_now
        return add_names_header(await answer(mapped), IGNORED_TOOLS_HEADER, mapped.tools.ignored)

    def _find_previous(self, previous_id: str) -> None:
        param = "previous_response_id"
        entry = self._state.responses.get(self._owner, previous_id, param)
        if entry.is_running:
            raise InvalidParameter(f"{param} names a response that is still being generated.", param)
        self._previous = entry
        self._work.add_bytes(entry.own_bytes)

    def _find_references(self) -> None:
        """Find the kept responses whose items the input refers to."""
        if isinstance(self._request.input, str):
            return
        find = partial(self._state.responses.find_holder, self._owner)
        self._holders = find_holders(self._request.input, find)
        sizes = {holder.id: len(holder.body) for holder in self._holders.values() if holder is not None}
        self._work.add_bytes(sum(sizes.values()))

    def _map(self) -> MappedRequest:
        """Make the chat request. What is kept is parsed here, in a thread if it is large."""
        if self._previous is not None:
            self._history = self._previous.conversation
        request = self._request
        if not isinstance(request.input, str) and any(map(is_reference, request.input)):
            request = request.model_copy(update={"input": resolve_references(request.input, self._holders)})
        return map_request(request, self._history, self._state.config, get_max_model_len(self._state.llm))

    async def _answer_now(self, mapped: MappedRequest) -> Response:
        def keep(response: dict[str, Any]) -> None:
            response["store"] = self._state.responses.put(self._owner, self._make_entry(mapped, response))

        generation, writer, interval = await self._start(mapped, keep if self._request.is_stored else _forget)
        return await send_reply(
            self._state, mapped.chat, generation, writer, interval, mapped.unenforced, opens_early=True
        )

    async def _answer_later(self, mapped: MappedRequest) -> Response:
        async def start(run: BackgroundRun) -> tuple[StoredResponse, Generation, ResponsesWriter]:
            generation, writer, _ = await self._start(mapped, run.set_response)
            return self._make_entry(mapped, writer.render_queued(), run), generation, writer

        run = BackgroundRun(self._state.responses, self._owner, self._state.config.sse_keep_alive_interval)
        generation = await run.start(start)
        response = make_stream_response(run.read()) if self._request.stream else written_json_response(run.body)
        return add_unenforced_header(response, generation.jobs, mapped.unenforced)

    async def _start(self, mapped: MappedRequest, on_end: OnEnd) -> tuple[Generation, ResponsesWriter, int]:
        base_id = self._choose_id() if self._request.is_stored else None
        run = await start_chats(
            self._state,
            [mapped.chat],
            self._work,
            ID_PREFIX,
            mapped.field_names,
            base_id,
            shows_tools=mapped.grammar_tool is not None,
            num_copies=NUM_STREAM_COPIES if self._request.stream or self._request.background else 1,
        )
        # The stream helper of OpenAI's SDK for Node throws at a type of event that it does not know, as vLLM's are.
        is_strict = quart.request.headers.get("X-Stainless-Lang") == "js"
        writer = ResponsesWriter(
            self._request,
            mapped,
            run.metadata,
            run.generation,
            run.renderer,
            self._state.tool_metrics,
            on_end,
            OPENAI_REASONING_PART if is_strict else REASONING_PART,
        )
        return run.generation, writer, run.metadata.stream_interval

    def _choose_id(self) -> str:
        """Choose the id of a response that is kept, without its prefix: no other may have it, and it stands in a path.

        Raises InvalidParameter if the request's own is of no use. That of a header may be a proxy's and come again with
        a second try, and then gets a random end. One that no path can hold is replaced.
        """
        header, given = quart.request.headers.get("X-Request-Id"), self._request.request_id
        for base_id in filter(None, (header, None if header else given)):
            if _ROUTABLE.fullmatch(base_id) and self._state.responses.claim(self._owner, ID_PREFIX + base_id):
                return base_id
        if given and not header:
            message = (
                f"request_id is the id of the response that is kept, so it must be new and have letters, digits, '.', "
                f"'_', '~', ':' and '-' only, got {preview(given)}; leave it out, or send store: false."
            )
            raise InvalidParameter(message, "request_id")
        is_routable = header is not None and _ROUTABLE.fullmatch(header) is not None
        return f"{header}-{make_random_id()}" if is_routable else make_random_id()

    def _make_entry(
        self, mapped: MappedRequest, response: dict[str, Any], run: BackgroundRun | None = None
    ) -> StoredResponse:
        items = (*self._history, *(() if mapped.kept_items is None else (mapped.kept_items,)))
        return StoredResponse.from_response(response, items, run)


def _forget(_: dict[str, Any]) -> None:
    """Keep nothing of a response."""
