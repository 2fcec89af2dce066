"""Who is let in, what is here, and in which order a request is looked at."""

import pytest

from tests.end_to_end.contract.api_client import CHAT, HELLO, KEY, VOCABULARY, check_error

pytestmark = pytest.mark.assets
BODY = {"messages": HELLO, "max_tokens": 1}
JSON = {"content-type": "application/json"}


def kinds(reply, status):
    return check_error(reply, status)["type"]


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {KEY}", "BEARER second"])
def test_a_key_that_is_known(http, value):
    assert http.get("/v1/models", headers={"Authorization": value}).status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY} x", "Bearer \xe9"])
def test_a_key_that_is_not(http, value):
    reply = http.get("/v1/models", headers={b"Authorization": value.encode("latin-1")})
    assert (reply.status_code, reply.json()) == (401, {"error": "Unauthorized"})


def test_the_key_comes_before_everything_else(smol, http):
    headers = {"Authorization": "Bearer wrong"}
    asked = [
        http.get("/nowhere", headers=headers),
        http.get(CHAT, headers=headers),
        http.post(CHAT, content=b"{", headers=headers),
        http.get("/metrics", headers=headers),
        http.post("/tokenize", json={"prompt": "a"}, headers=headers),
        http.post(CHAT, json=BODY, headers=headers | {"X-Api-Key": KEY}),
        http.get("/v1/models", headers=[("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer wrong")]),
    ]
    assert {reply.status_code for reply in asked} == {401}
    for path in ("/health", "/ping", "/live"):
        assert http.get(path, headers=headers).status_code == 200
    preflight = headers | {"Origin": "http://a.b", "Access-Control-Request-Method": "POST"}
    assert http.options(CHAT, headers=headers).status_code == 200
    assert http.options(CHAT, headers=preflight).status_code == 400  # for its origin, not for a key


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/audio/speech"])
def test_what_is_not_here(ask, path):
    assert kinds(ask.post(path, {}), 404) == "NotFoundError"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method(http, method):
    reply = http.request(method, CHAT)
    assert kinds(reply, 405) == "Method Not Allowed" and "POST" in reply.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/version", "/metrics"])
def test_head_is_get_without_the_body(http, path):
    reply = http.head(path)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind", "words"),
    [
        ({"content-type": "text/plain"}, b"{", 400, "Bad Request", "application/json"),
        ({"content-type": ""}, b"{}", 400, "Bad Request", "application/json"),
        (JSON | {"content-encoding": "gzip"}, b"{}", 415, "Unsupported Media Type", ""),
        (JSON, b" " * (64 * 2**20 + 1), 413, "Request Entity Too Large", ""),
        (JSON | {"x-long": "x" * 40_000}, b"{}", 431, "Request Header Fields Too Large", ""),
    ],
    ids=["another type", "no type", "encoded", "too large", "long head"],
)
def test_how_a_body_comes(http, headers, body, status, kind, words):
    error = check_error(http.post(CHAT, content=body, headers=headers), status)
    assert error["type"] == kind and words in error["message"]
    capitals = {"content-type": "Application/JSON; charset=utf-8", "content-encoding": "identity"}
    good = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}'
    assert http.post(CHAT, content=good, headers=capitals).status_code == 200


LONG = [{"role": "user", "content": "word " * 3000}]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "gpt-17", "temperature": "x"}, 400),
        ({"model": "gpt-17", "cache_salt": ""}, 400),
        ({"model": "gpt-17", "messages": LONG}, 404),
        ({"model": "gpt-17", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 404),
        ({"model": "gpt-17", "allowed_token_ids": [VOCABULARY]}, 404),
    ],
    ids=str,
)
def test_fields_then_the_model_then_the_prompt(ask, fields, status):
    check_error(ask.post(CHAT, BODY | fields), status)


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True, "top_logprobs": 21},
        {"allowed_token_ids": [VOCABULARY]},
        {"stop_token_ids": [VOCABULARY]},
        {"logit_bias": {"-5": 1}},
        {"min_tokens": 1000},
        {"bad_words": [" "]},
        {"priority": 3},
        {"messages": LONG},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
    ids=str,
)
def test_what_can_be_known_is_said_before_a_stream_begins(ask, fields):
    assert kinds(ask.post(CHAT, BODY | {"stream": True} | fields), 400) == "BadRequestError"


def test_messages_must_not_be_empty(ask):
    assert check_error(ask.post(CHAT, BODY | {"messages": []}))["param"] == "body.messages"


def test_a_card_of_its_own_for_each_model(ask):
    for name in ("smol", "other/name", "other%2Fname"):
        assert ask.http.get(f"/v1/models/{name}").json()["id"] == name.replace("%2F", "/")
    error = check_error(ask.http.get("/v1/models/none"), 404)
    assert (error["type"], error["param"]) == ("NotFoundError", "model")


def test_operations(ask):
    assert list(ask.http.get("/version").json()) == ["version"]
    assert ask.http.get("/load").json() == {"server_load": 0}
    reply = ask.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'vllm:num_requests_running{engine="0",model_name="smol"} 0' in reply.text
