"""POST /invocations: one path for several APIs, told apart by the body, as hosts like SageMaker call models."""

from functools import partial
from typing import Any

from quart import Blueprint, Response

from server.body import make_validation_error
from server.request_reader import Kind
from server.responses.checks import check_responses
from server.responses.runner import answer_responses
from server.routes.chat import answer_chats
from server.routes.completions import answer_completion
from server.schemas.chat import ChatRequest
from server.schemas.checks import check_chat, check_completion
from server.schemas.completions import CompletionRequest
from server.schemas.responses import ResponsesRequest
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /invocations."""
    routes = Blueprint("invocations", __name__)
    kinds: dict[str, Kind] = {
        "messages": (ChatRequest, partial(check_chat, config=state.config)),
        "prompt": (CompletionRequest, partial(check_completion, config=state.config)),
        "input": (ResponsesRequest, partial(check_responses, config=state.config)),
    }

    def choose(body: dict[str, Any]) -> Kind:
        for name, kind in kinds.items():
            if body.get(name) is not None:
                return kind
        raise make_validation_error([f"body: Field required: {', '.join(kinds)}"], "body")

    @routes.post("/invocations")
    async def invoke() -> Response:
        """Answer a body with messages as chat, with a prompt as completions, with an input as Responses."""
        request, work = await state.reader.read_any(choose)
        if isinstance(request, ChatRequest):
            return await answer_chats(state, [request], work)
        if isinstance(request, CompletionRequest):
            return await answer_completion(state, request, work)
        assert isinstance(request, ResponsesRequest)
        return await answer_responses(state, request, work)

    return routes
