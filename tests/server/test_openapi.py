"""The OpenAPI document says what the server does: its routes, its limits, its defaults. That answers have the form it
says is checked with every call of the server's tests, in conforms.py."""

from typing import Any

import pytest

from jaxserve.models.registry import ARCHITECTURES
from server.openapi.document import list_routes
from server.openapi.operations import OPERATIONS
from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.fields import SupportStatus, get_rows
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT, Api

SCHEMAS = (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
ROWS = {schema.__name__: get_rows(schema) for schema in SCHEMAS}
ROUTES = {"ChatRequest": "/v1/chat/completions", "CompletionRequest": "/v1/completions"}
ROUTES |= {"TokenizeRequest": "/tokenize", "DetokenizeRequest": "/detokenize"}
BODIES: dict[str, dict[str, Any]] = {"ChatRequest": CHAT, "CompletionRequest": {"prompt": "ab"}}
BODIES |= {"TokenizeRequest": {"prompt": "ab"}, "DetokenizeRequest": {"tokens": [104]}}
BESIDE = {"top_logprobs": {"logprobs": True}, "logprob_token_ids": {"logprobs": True}, "max_tokens": {"echo": True}}
FIELDS = [(name, field) for name in ROUTES for field in ROWS[name]]


def fields_of(api: Api, schema: str) -> dict[str, dict[str, Any]]:
    return api.document.content["components"]["schemas"][schema]["properties"]


def borders(keywords: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values that are just allowed, and values that just are not."""
    good: list[Any] = []
    bad: list[Any] = []
    step = 1 if "integer" in str(keywords.get("type")) else 1e-6
    for name, sign in (("minimum", -1), ("maximum", 1)):
        if name in keywords:
            good.append(keywords[name])
            bad.append(keywords[name] + sign * step)
    if "exclusiveMinimum" in keywords:
        bad.append(keywords["exclusiveMinimum"])
        good.append(keywords["exclusiveMinimum"] + step)
    if "const" in keywords.get("not", {}):
        bad.append(keywords["not"]["const"])
    if "enum" in keywords:
        good += keywords["enum"]
        bad.append("something else")
    text = "ab" * 70_000
    if "maxLength" in keywords:
        good.append(text[: keywords["maxLength"]])
        bad.append(text[: keywords["maxLength"] + 1])
    if "minLength" in keywords:
        good.append(text[: keywords["minLength"]])
        bad.append(text[: keywords["minLength"] - 1])
    one, beyond = borders(keywords["items"]) if "items" in keywords else ([], [])
    good += [[value] for value in one]
    bad += [[value] for value in beyond]
    if one and "maxItems" in keywords:
        good.append(one[:1] * keywords["maxItems"])
        bad.append(one[:1] * (keywords["maxItems"] + 1))
    if one and "minItems" in keywords:
        bad.append([])
    return good, bad


def is_refused_whole(answer: Any, field: str) -> bool:
    return answer.status == 400 and answer.error["message"].startswith(f"{field} is not supported yet")


@pytest.fixture
def api() -> Api:
    """Its model can do everything that a field may ask for."""
    return Api(FakeLLM(tool_parser="hermes", reasoning_parser="qwen3"), max_n=8)


@pytest.mark.parametrize(("schema", "field"), FIELDS)
async def test_every_range_is_the_one_that_is_checked(api: Api, schema: str, field: str) -> None:
    good, bad = borders(fields_of(api, schema)[field])
    body = BODIES[schema] | BESIDE.get(field, {})
    for value in good:
        answer = await api.post(ROUTES[schema], {**body, field: value})
        assert answer.status == 200 or is_refused_whole(answer, field), (value, answer.text)
    for value in bad:
        answer = await api.post(ROUTES[schema], {**body, field: value})
        assert answer.status == (404 if field == "model" else 400), (value, answer.text)
        assert answer.error["param"].startswith((field, f"body.{field}"))
        assert ROWS[schema][field].status is SupportStatus.REFUSED or not is_refused_whole(answer, field)


@pytest.mark.parametrize("schema", ROUTES)
async def test_null_means_absent_for_every_optional_field(api: Api, schema: str) -> None:
    nulls = {name: None for name, row in ROWS[schema].items() if not row.is_required and name not in BODIES[schema]}
    answers = [await api.post(ROUTES[schema], {**more, **BODIES[schema]}) for more in ({}, nulls)]
    without, with_nulls = ({**answer.json, "id": "", "created": 0} for answer in answers)
    assert (answers[1].status, with_nulls) == (200, without)
    assert len(set(api.llm.calls)) <= 1


@pytest.mark.parametrize(("schema", "field"), FIELDS)
async def test_every_default_is_what_absence_means(api: Api, schema: str, field: str) -> None:
    if "default" not in fields_of(api, schema)[field]:
        return
    default = fields_of(api, schema)[field]["default"]
    answers = [await api.post(ROUTES[schema], {**BODIES[schema], **said}) for said in ({}, {field: default})]
    plain, told = (
        {key: value for key, value in answer.json.items() if key not in ("id", "created")} for answer in answers
    )
    assert plain == told
    assert len(set(api.llm.calls)) <= 1


async def test_the_routes_are_those_of_the_app(make_api) -> None:
    switches = {"enable_tokenizer_info_endpoint": True, "enable_debug_endpoints": True, "server_dev_mode": True}
    switches |= {"allow_runtime_lora_updating": True}
    assert list_routes(make_api(**switches).app) == set(OPERATIONS)


@pytest.mark.parametrize("schema", ROUTES)
async def test_the_example_of_each_body_is_answered(api: Api, schema: str) -> None:
    content = api.document.content["paths"][ROUTES[schema]]["post"]["requestBody"]["content"]["application/json"]
    api.document.validate(content["example"], content["schema"], "the example")
    assert (await api.post(ROUTES[schema], content["example"])).status == 200


async def test_it_is_served_as_it_is(api: Api) -> None:
    answer = await api.get("/openapi.json")
    assert answer.json == api.document.content
    assert answer.json["openapi"].startswith("3.1")


@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_every_field_says_what_becomes_of_it(api: Api, schema: str, field: str) -> None:
    said, support = fields_of(api, schema)[field], ROWS[schema][field]
    assert said["x-support"] == support.status.name.lower()
    assert support.note in said["description"]
    assert ("Not supported yet" in said["description"]) == (support.status is SupportStatus.REFUSED)


def test_every_architecture_that_could_be_served_is_in_it(api: Api) -> None:
    rows = api.document.content["x-model-families"]
    assert {row["architecture"] for row in rows} == set(ARCHITECTURES)


async def test_a_server_without_keys_speaks_of_none(api: Api) -> None:
    assert "securitySchemes" not in api.document.content["components"]
    assert "401" not in api.document.content["paths"]["/v1/models"]["get"]["responses"]


async def test_a_server_with_keys_says_where_they_are_needed(make_api) -> None:
    api = make_api(api_key=("k",), open_paths=("/metrics",))
    said = (await api.get("/openapi.json", headers={"Authorization": "Bearer k"})).json
    assert said["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    needed = {path: said["paths"][path]["get"]["security"] for path in ("/health", "/metrics", "/", "/v1/models")}
    assert needed == {"/health": [], "/metrics": [], "/": [], "/v1/models": [{"key": []}]}


async def test_the_limits_are_this_servers_own(make_api) -> None:
    llm = FakeLLM(max_logprobs=5)
    llm.sampling_defaults = {"temperature": 0.6}
    fields = fields_of(make_api(llm=llm, max_n=3, served_model_name=("a", "b")), "ChatRequest")
    assert (fields["n"]["maximum"], fields["top_logprobs"]["maximum"]) == (3, 5)
    assert (fields["temperature"]["default"], fields["model"]["enum"]) == (0.6, ["a", "b", "", None])
    boundless = fields_of(make_api(llm=FakeLLM(max_logprobs=-1)), "ChatRequest")["top_logprobs"]
    assert (boundless["minimum"], "maximum" in boundless) == (-1, False)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_they_can_be_switched_off(make_api, path: str) -> None:
    assert (await make_api().get(path)).status == 200
    api = make_api(disable_fastapi_docs=True)
    assert (await api.get(path)).status == 404
    assert path not in api.document.content["paths"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_they_need_a_key_like_everything(make_api, path: str) -> None:
    api = make_api(api_key=("k",))
    assert (await api.get(path)).status == 401
    assert (await api.get(path, headers={"Authorization": "Bearer k"})).status == 200


async def test_a_proxys_prefix_is_where_the_server_is(make_api) -> None:
    assert make_api(root_path="/llm/").document.content["servers"] == [{"url": "/llm"}]
