"""API keys: which paths need one, how it is sent, and the 401."""

from types import SimpleNamespace

import pytest

from jaxserve import BadConfig
from server import auth
from server.auth import ApiKeyAuth
from server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.server.live_server import serve_live

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


AUTHORIZATIONS = {
    "the first key": ["Bearer first"],
    "the last key": ["Bearer last"],
    "a wrong key": ["Bearer wrong"],
    "a key that begins right": ["Bearer firs"],
    "an empty key": ["Bearer "],
    "another scheme": ["Basic first"],
    "no scheme": ["first"],
    "no header": [],
    "two headers": ["Bearer first", "Bearer first"],
}


@pytest.mark.parametrize("name", AUTHORIZATIONS)
def test_whatever_is_presented_is_hashed_once_and_compared_with_every_key(name, monkeypatch):
    """The same work for everybody, so that the time of a refusal tells nothing."""
    keys = ("first", "middle", "last")
    checked = ApiKeyAuth(ServerConfig(api_key=keys))
    hashed, compared = [], []
    sha256, compare_digest = auth.hashlib.sha256, auth.hmac.compare_digest

    def count_hash(data: bytes):
        hashed.append(data)
        return sha256(data)

    def count_comparison(one: bytes, other: bytes) -> bool:
        compared.append((len(one), other))
        return compare_digest(one, other)

    monkeypatch.setattr(auth, "hashlib", SimpleNamespace(sha256=count_hash))
    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=count_comparison))
    assert checked.is_authorized("GET", "/version", AUTHORIZATIONS[name]) == name.endswith(("first key", "last key"))
    assert len(hashed) == 1
    assert compared == [(32, sha256(key.encode()).digest()) for key in keys]


PATHS = (
    *("/version", "/%76ersion", "//version", "///version", "/VERSION", "/version/", "/version%2f", "/./version"),
    *("/health/../version", "/health%2f..%2fversion", "/health/..%2f/version", "/live;/version", "/live;x=/version"),
    *("/version?/health", "/version%3f/health", "/version?path=/health", "/version#/health", "/version;/health"),
    *("/healthz", "/HEALTH", "//health", "/health/", "/health%00", "/%68ealth/", "/health%2f", "/liv%65/x"),
    *("http://elsewhere/version", "http://elsewhere//version", "http://elsewhere/health/../version"),
    *("http://health/version", "http:///version", "http://x/version?/health"),
)
HOSTS = ("x", "x/health", "x/health?", "/health", "health", "x/live#", "x:80/health", "", "x@/health", "[::1]/live")


@pytest.fixture(scope="module")
def reach():
    """Return the statuses of requests with a key, or without one, whose targets and hosts are written as they are."""

    async def reach(*requests: tuple[str, str], key: str | None) -> list[int]:
        statuses = []
        async with serve_live(FakeLLM(), api_key=KEYS, max_connections=1000) as live:
            for target, host in requests:
                sent = f"Authorization: Bearer {key}\r\n" if key else ""
                async with live.connection() as peer:
                    await peer.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{sent}\r\n".encode())
                    statuses.append((await peer.read_reply())[0])
        return statuses

    return reach


async def test_no_way_to_write_a_path_or_a_host_replaces_the_key(reach):
    requests = [*((path, "x") for path in PATHS), *(("/version", host) for host in HOSTS)]
    statuses = dict(zip(requests, await reach(*requests, key=None), strict=True))
    assert {request: status for request, status in statuses.items() if status != 401} == {}


async def test_with_a_key_a_path_leads_where_it_says_and_nowhere_else(reach):
    there = ["/version", "/%76ersion", "http://elsewhere/version", "/version?/health"]
    nowhere = ["//version", "/VERSION", "/version/", "/health/../version", "/live;/version", "/version%3f/health"]
    assert await reach(*((path, "x") for path in there), key="first") == [200] * len(there)
    assert await reach(*((path, "x") for path in nowhere), key="first") == [404] * len(nowhere)


async def test_an_absolute_target_is_its_path(reach):
    requests = [("http://elsewhere/health", "x"), ("http://x/health?/../version", "x"), ("/health", "x/version")]
    assert await reach(*requests, key=None) == [200] * 3
