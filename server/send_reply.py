"""Sends the reply of a generation endpoint, whole or as a stream, as its writer makes it."""

from collections.abc import Iterable

from quart import Response

from server.errors import json_response
from server.generation import Generation
from server.reply_headers import add_unenforced_header
from server.schemas.generation import GenerationRequest
from server.sse import stream_response
from server.state import ServerState
from server.writer import Writer


async def send_reply(
    state: ServerState,
    request: GenerationRequest,
    generation: Generation,
    writer: Writer,
    interval: int,
    unenforced: Iterable[str] = (),
    *,
    opens_early: bool = False,
) -> Response:
    """Make the HTTP response of a generation.

    interval: tokens of a choice that a chunk waits for. unenforced: names of further things that the answer need not
    follow. opens_early: see stream_response.

    Raises ApiError if the generation failed before its first byte.
    """
    if request.stream:
        keep_alive_s = state.config.sse_keep_alive_interval
        response = await stream_response(
            generation, writer, interval=interval, keep_alive_s=keep_alive_s, opens_early=opens_early
        )
    else:
        response = json_response(await writer.write_whole(), headers=state.get_load_headers())
    return add_unenforced_header(response, generation.jobs, unenforced)
