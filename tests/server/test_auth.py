"""API keys: which paths need one, how it is sent, and the 401."""

import pytest

from jaxserve import BadConfig
from server.config import ServerConfig

KEYS = ("first", "schlüssel")


def bearer(key: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {key}"}


async def test_without_keys_everybody_may_come_in(api):
    assert (await api.get("/v1/models", headers=bearer("anything"))).status == 200


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_each_configured_key_opens_whatever_the_case_of_the_scheme(make_api, key, scheme):
    answer = await make_api(api_key=KEYS).get("/v1/models", headers=bearer(key, scheme))
    assert answer.status == 200


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer("first", "Basic"), {"Authorization": "first"}, bearer("")]
)
async def test_a_wrong_or_absent_key_gets_the_string_error(make_api, headers):
    answer = await make_api(api_key=KEYS).get("/v1/models", headers=headers)
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_two_authorization_headers_are_refused(make_api):
    headers = [("Authorization", "Bearer first"), ("Authorization", "Bearer first")]
    response = await make_api(api_key=KEYS).client.get("/v1/models", headers=headers)
    assert response.status_code == 401


@pytest.mark.parametrize("path", ["/metrics", "/tokenize", "/version", "/load", "/docs", "/no/such/path", "/v1/models"])
async def test_every_other_path_needs_a_key_even_one_that_leads_nowhere(make_api, path):
    assert (await make_api(api_key=KEYS).get(path)).status == 401


@pytest.mark.parametrize("path", ["/health", "/ping", "/live", "/"])
async def test_health_and_the_page_need_none(make_api, path):
    assert (await make_api(api_key=KEYS).get(path)).status in (200, 404)


async def test_open_paths_are_open(make_api):
    api = make_api(api_key=KEYS, open_paths=("/metrics,/tokenize", "/version"))
    assert [(await api.get(path)).status for path in ("/metrics", "/version", "/tokenize")] == [200, 200, 405]
    assert (await api.get("/load")).status == 401


async def test_the_key_comes_before_method_body_and_route(make_api):
    api = make_api(api_key=KEYS)
    assert (await api.get("/v1/chat/completions")).status == 401
    assert (await api.post("/v1/chat/completions", b"{")).status == 401


async def test_options_needs_no_key(make_api):
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    api = make_api(api_key=KEYS, allowed_origins=("*",))
    answer = await api.call("OPTIONS", "/v1/chat/completions", headers=headers)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_an_empty_key_is_refused_at_start():
    with pytest.raises(BadConfig, match="api_key"):
        ServerConfig(api_key=("",))
