"""POST /v1/completions."""

from functools import partial

from quart import Blueprint, Response

from server.completion_reply import CompletionWriter, PromptEcho
from server.jobs import parse_prompts, prepare_completions
from server.request_reader import HostWork
from server.schemas.checks import check_completion
from server.schemas.completions import CompletionRequest
from server.schemas.constraints import find_constraint_field
from server.send_reply import send_reply
from server.state import ServerState


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of POST /v1/completions."""
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    async def complete() -> Response:
        """Complete prompts, whole or as a stream."""
        request, work = await state.reader.read(CompletionRequest, partial(check_completion, config=state.config))
        return await answer_completion(state, request, work)

    return routes


async def answer_completion(state: ServerState, request: CompletionRequest, work: HostWork) -> Response:
    """Answer a request that has been checked. Raises ApiError or the library's errors if it cannot be served."""
    rank = state.check_headers(request)
    prompts = await work.run(partial(parse_prompts, request, state.config))
    adapter = state.check_model(request.model)
    slot = state.admit(len(prompts) * (request.n or 1), "prompt" if request.n in (None, 1) else "n")
    metadata = state.make_metadata(slot, "cmpl-", request, adapter)
    salt = state.get_cache_salt(request)
    jobs = await slot.run(
        prepare_completions(request, prompts, state.llm, state.config, work, slot.places, salt, rank, adapter)
    )
    pairs = zip(prompts, jobs, strict=True) if request.echo else ()
    echoes = [PromptEcho.from_prompt(prompt, job, state.llm) for prompt, job in pairs]
    generation = state.start(slot, metadata.id, jobs, find_constraint_field(request))
    writer = CompletionWriter(request, metadata, generation, echoes)
    return await send_reply(state, request, generation, writer, metadata.stream_interval)
