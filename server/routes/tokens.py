"""POST /tokenize and /detokenize: what the model would read, without running it."""

import quart
from quart import Blueprint, Response

from jaxserve import InvalidParameter
from server.body import read_json
from server.desk import Desk
from server.errors import json_response
from server.schemas.checks import check_messages, check_template_fields
from server.schemas.common import validate
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from server.translate import TOKENIZE_FACTOR, check_ids, check_text, context_tokens, render


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("tokens", __name__)

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        request = validate(TokenizeRequest, await read_json(quart.request, desk.config))
        _check_tokenize(request)
        desk.check_model(request.model)
        ids = await _ids(request, desk)
        strings = [desk.llm.tokenizer.piece(one) for one in ids] if request.return_token_strs else None
        limit = context_tokens(desk.llm)
        return json_response({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings})

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        request = validate(DetokenizeRequest, await read_json(quart.request, desk.config))
        desk.check_model(request.model)
        check_ids(request.tokens, desk.llm, "tokens")
        return json_response({"prompt": desk.llm.decode(request.tokens)})

    return routes


def _check_tokenize(request: TokenizeRequest) -> None:
    if (request.prompt is None) == (request.messages is None):
        raise InvalidParameter("Either prompt or messages is needed, and only one of them.", "prompt")
    if request.messages is not None:
        check_messages(request.messages)
        check_template_fields(request)
    if request.tools:
        raise InvalidParameter("tools is not supported yet; leave it out.", "tools")


async def _ids(request: TokenizeRequest, desk: Desk) -> list[int]:
    if request.prompt is None:
        return await render(request, desk.llm, counting=True)
    check_text(request.prompt, desk.llm, "prompt", TOKENIZE_FACTOR)
    return await desk.llm.encode(
        request.prompt, add_special_tokens=request.add_special_tokens is not False, counting=True
    )
