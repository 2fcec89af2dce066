"""POST /tokenize and /detokenize: what the model would read, without running it. GET /tokenizer_info, behind a flag."""

import asyncio
from typing import Any

import quart
from quart import Blueprint, Response

from jaxserve import InvalidParameter
from server.body import invalid, read_json
from server.config import ServerConfig
from server.desk import Desk
from server.errors import json_response
from server.rendering import render
from server.replies import gently
from server.sampling import context_tokens
from server.schemas.checks import check_effort
from server.schemas.common import validate
from server.schemas.template import check_messages, check_template_fields
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from server.translate import TOKENIZE_FACTOR, check_ids, check_text


def blueprint(desk: Desk) -> Blueprint:
    routes = Blueprint("tokens", __name__)

    @routes.post("/tokenize")
    async def tokenize() -> Response:
        request = validate(TokenizeRequest, await read_json(quart.request, desk.config))
        _check(request, desk.config)
        desk.check_model(request.model)
        ids = await _ids(request, desk)
        strings = await gently(ids, desk.llm.tokenizer.pieces) if request.return_token_strs else None
        limit = context_tokens(desk.llm)
        return json_response({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings})

    @routes.post("/detokenize")
    async def detokenize() -> Response:
        request = validate(DetokenizeRequest, await read_json(quart.request, desk.config))
        desk.check_model(request.model)
        check_ids(request.tokens, desk.llm, "tokens")
        return json_response({"prompt": await asyncio.to_thread(desk.llm.decode, request.tokens)})

    if desk.config.enable_tokenizer_info_endpoint:

        @routes.get("/tokenizer_info")
        async def tokenizer_info() -> Response:
            return json_response(_description(desk.llm.tokenizer))

    return routes


def _check(request: TokenizeRequest, config: ServerConfig) -> None:
    if request.prompt is None and request.messages is None:
        raise invalid(["body.prompt: Field required, unless there are messages"], "body.prompt")
    if request.messages is None:
        return
    if request.prompt is not None:
        raise InvalidParameter("prompt and messages cannot both be given.", "prompt")
    check_messages(request.messages)
    check_template_fields(request, config)
    check_effort(request.reasoning_effort)


async def _ids(request: TokenizeRequest, desk: Desk) -> list[int]:
    if request.prompt is None:
        return (await render(request, desk.llm, desk.config, counting=True)).token_ids
    check_text(request.prompt, desk.llm, "prompt", TOKENIZE_FACTOR)
    return await desk.llm.encode(
        request.prompt, add_special_tokens=request.add_special_tokens is not False, counting=True
    )


def _description(tokenizer: Any) -> dict[str, Any]:
    """tokenizer_config.json, with the templates wherever they stood, and without where it once lay."""
    templates = tokenizer.chat_templates
    template = templates.get("default") if len(templates) < 2 else templates
    known = {name: value for name, value in tokenizer.config.items() if name != "name_or_path"}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **known, "chat_template": template}
