"""POST /tokenize and /detokenize; GET /tokenizer_info, with --enable-tokenizer-info-endpoint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from jaxserve import InvalidParameter
from server.body import make_validation_error
from server.client_fields import client_fields
from server.config import ServerConfig
from server.errors import json_response
from server.rendering import make_chat_prompt
from server.replies import in_slices
from server.request_reader import HostWork
from server.sampling import get_max_model_len
from server.schemas.checks import check_reasoning_effort
from server.schemas.template import check_messages, check_template_fields
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from server.state import ServerState

if TYPE_CHECKING:
    from jaxserve import AsyncLLM


def make_blueprint(state: ServerState) -> Blueprint:
    """Make the blueprint of /tokenize, /detokenize and /tokenizer_info."""
    routes = Blueprint("tokens", __name__)

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        """Tokenize a text or a conversation."""
        request, work = await state.reader.read(TokenizeRequest, partial(_check, config=state.config))
        state.check_model(request.model)
        slot = state.admit(1)
        ids = await slot.run(_tokenize(request, state, work, slot.places.caller))
        strings = await in_slices(ids, state.llm.tokenizer.pieces) if request.return_token_strs else None
        limit = get_max_model_len(state.llm)
        body = {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings}
        return await work.run(partial(json_response, body))

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        """Decode token ids."""
        request, work = await state.reader.read(DetokenizeRequest)
        state.check_model(request.model)
        slot = state.admit(1)
        return await slot.run(work.run(partial(_detokenize, request, state.llm)))

    if state.config.enable_tokenizer_info_endpoint:

        @routes.get("/tokenizer_info")
        async def tokenizer_info() -> Response:
            """Return the tokenizer's configuration."""
            return json_response(_describe_tokenizer(state.llm.tokenizer))

    return routes


def _check(request: TokenizeRequest, config: ServerConfig) -> None:
    if request.prompt is None and request.messages is None:
        raise make_validation_error(["body.prompt: Field required, unless there are messages"], "body.prompt")
    if request.messages is None:
        return
    if request.prompt is not None:
        raise InvalidParameter("prompt and messages cannot both be given.", "prompt")
    check_messages(request.messages)
    check_template_fields(request, config)
    check_reasoning_effort(request.reasoning_effort)


def _detokenize(request: DetokenizeRequest, llm: AsyncLLM) -> Response:
    llm.check_token_ids(request.tokens, "tokens")
    return json_response({"prompt": llm.decode(request.tokens)})


async def _tokenize(request: TokenizeRequest, state: ServerState, work: HostWork, caller: str) -> list[int]:
    if request.prompt is None:
        prompt = await work.run(partial(make_chat_prompt, request, state.config))
        with client_fields({"prompt": "messages"}):
            return (await state.llm.render_chat(prompt, counting=True, caller=caller)).token_ids
    with client_fields({}):
        return await state.llm.encode(
            request.prompt,
            add_special_tokens=request.add_special_tokens is not False,
            counting=True,
            caller=caller,
        )


def _describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return tokenizer_config.json with the chat templates, from whatever file they came, and without its path."""
    templates = tokenizer.chat_templates
    template = templates.get("default") if len(templates) < 2 else templates
    config = {name: value for name, value in tokenizer.config.items() if name != "name_or_path"}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **config, "chat_template": template}
