"""POST /v1/responses, and GET, DELETE and cancel of responses that are kept."""

from functools import partial

import quart
from quart import Blueprint, Response

from jaxserve import InvalidParameter
from server.errors import ApiError, json_response, preview, written_json_response
from server.responses.checks import check_responses
from server.responses.runner import answer_responses
from server.responses.store import StoredResponse
from server.routes.control import BOOLEANS, read_choice
from server.schemas.responses import ResponsesRequest
from server.sse import make_stream_response
from server.state import ServerState

ID = "response_id"


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of the Responses API."""
    routes = Blueprint("responses", __name__)

    def find(response_id: str) -> StoredResponse:
        return state.responses.get(state.auth.find_owner(quart.request), response_id, ID)

    @routes.post("/v1/responses")
    async def respond() -> Response:
        """Answer items, whole, as a stream, or in the background."""
        request, work = await state.reader.read(ResponsesRequest, partial(check_responses, config=state.config))
        return await answer_responses(state, request, work)

    @routes.get("/v1/responses/<response_id>")
    async def retrieve(response_id: str) -> Response:
        """Return a response that is kept, or the events of one in the background."""
        is_stream, after = read_choice("stream", BOOLEANS, "false"), _read_starting_after()
        _refuse_include()
        entry = find(response_id)
        if after >= 0 and not is_stream:
            raise InvalidParameter("starting_after is for events; ask with stream=true.", "starting_after")
        if not is_stream:
            return written_json_response(entry.body)
        if entry.run is None:
            raise InvalidParameter("stream is for responses that were made with background: true.", "stream")
        if after >= entry.run.num_events:
            message = (
                f"starting_after must be less than {entry.run.num_events}, the number of events so far, got {after}."
            )
            raise InvalidParameter(message, "starting_after")
        return make_stream_response(entry.run.read(after))

    @routes.delete("/v1/responses/<response_id>")
    async def delete(response_id: str) -> Response:
        """Forget a response; one that is still being generated ends."""
        entry = state.responses.delete(state.auth.find_owner(quart.request), response_id)
        if entry.run is not None and entry.is_running:
            entry.run.cancel()
        return json_response({"id": response_id, "object": "response.deleted", "deleted": True})

    @routes.post("/v1/responses/<response_id>/cancel")
    async def cancel(response_id: str) -> Response:
        """End a response that is being generated in the background."""
        entry = find(response_id)
        if entry.run is None:
            raise InvalidParameter("Only responses that were made with background: true can be cancelled.", ID)
        if not entry.is_running:
            raise InvalidParameter("The response has ended already.", ID)
        entry.run.cancel()
        return written_json_response(entry.body)

    return routes


def _refuse_include() -> None:
    if "include" in quart.request.args or "include[]" in quart.request.args:
        raise InvalidParameter(
            "include is for POST /v1/responses: a response is kept with what was asked for then; leave it out.",
            "include",
        )


def _read_starting_after() -> int:
    """Return the number of the last event that the client has, from the query; -1: none."""
    text = quart.request.args.get("starting_after")
    if text is None:
        return -1
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise ApiError(
            400, f"starting_after must be the number of an event, not {preview(text)}.", param="starting_after"
        )
    return int(text)
