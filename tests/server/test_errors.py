"""Statuses, types, params; the order of checks; and that nothing large or private comes back."""

import pytest

from jaxserve import EngineStopped, GenerationFailed, InvalidParameter, Overloaded
from server.app import get_state
from server.errors import truncate
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT

PATH = "/v1/chat/completions"
BAD_MODEL = {"model": "nope"}


async def test_every_error_has_the_four_keys(api):
    for answer in (await api.get("/nope"), await api.get(PATH), await api.chat(n=0), await api.post(PATH, b"{")):
        assert list(answer.json) == ["error"]
        assert list(answer.error) == ["message", "type", "param", "code"]
        assert answer.error["code"] == answer.status
        assert answer.headers["Content-Type"] == "application/json"


async def test_unknown_paths_and_methods_use_the_error_object(api):
    missing, wrong = await api.get("/v1/nowhere"), await api.call("DELETE", PATH)
    assert (missing.status, missing.error["type"]) == (404, "NotFoundError")
    assert (wrong.status, wrong.error["type"]) == (405, "Method Not Allowed")
    assert "POST" in wrong.headers["Allow"]


async def test_an_unknown_model_is_404_and_told_the_names(make_api):
    answer = await make_api(served_model_name=("one", "two")).chat(model="three")
    assert (answer.status, answer.error["type"], answer.error["param"]) == (404, "NotFoundError", "model")
    assert all(name in answer.error["message"] for name in ("three", "one", "two"))


async def test_the_checks_come_in_the_order_of_the_contract(make_api):
    """Each request has its own fault and all later ones, so only the order decides which is told."""
    api = make_api(api_key=("key",))
    get_state(api.app).slots.is_draining = True
    key, json_type = {"Authorization": "Bearer key"}, {"Content-Type": "application/json"}
    sampling = {"temperature": 9}
    steps = [
        ("POST", PATH, {"Content-Type": "text/plain"}, b"{", 401),
        ("GET", PATH, key | {"Content-Type": "text/plain"}, b"{", 405),
        ("POST", PATH, key | {"Content-Type": "text/plain"}, b"{", 400),
        ("POST", PATH, key | json_type, b"{", 400),
        ("POST", PATH, key | json_type, {**BAD_MODEL, "messages": 3}, 400),
        ("POST", PATH, key | json_type, {**CHAT, **BAD_MODEL, "stop": [""]}, 400),
        ("POST", PATH, key | json_type, {**CHAT, **BAD_MODEL, **sampling}, 404),
        ("POST", PATH, key | json_type, {**CHAT, **sampling}, 503),
    ]
    for method, path, headers, body, status in steps:
        assert (await api.call(method, path, body, headers=headers)).status == status, (body, status)
    get_state(api.app).slots.is_draining = False
    assert (await api.post(PATH, {**CHAT, **sampling}, headers=key)).status == 400


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Overloaded("full", 7), 503, "Service Unavailable"),
        (GenerationFailed("secret reason"), 500, "InternalServerError"),
        (InvalidParameter("nothing is left"), 400, "BadRequestError"),
        (EngineStopped("dead"), 500, "InternalServerError"),
        (ZeroDivisionError("/secret/path"), 500, "InternalServerError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_result_has_a_status_of_its_own(api, failure, status, kind, stream):
    api.llm.fail_at, api.llm.generate_error = 0, failure
    answer = await api.chat(stream=stream)
    assert (answer.status, answer.error["type"]) == (status, kind)
    assert "secret" not in answer.text


async def test_overload_at_the_door_is_503_and_says_when_to_return(api):
    api.llm.validate_error = Overloaded("full", 7)
    answer = await api.chat()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
    assert answer.error["type"] == "Service Unavailable"


async def test_a_dead_engine_is_503_at_the_door_and_unhealthy(api):
    api.llm.is_healthy = False
    answer = await api.chat()
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert (await api.get("/health")).status == 503
    assert (await api.get("/live")).status == 200


async def test_a_failure_in_the_middle_of_a_stream_is_one_event_then_done(make_api):
    api = make_api(["a", "b"])
    api.llm.fail_at, api.llm.generate_error, api.llm.hold_at = 1, GenerationFailed("broken"), 1
    async with api.client.request(PATH, method="POST", headers={"Content-Type": "application/json"}) as connection:
        await connection.send(b'{"stream": true, "messages": [{"role": "user", "content": "Hi"}]}')
        await connection.send_complete()
        first = await connection.receive()
        api.llm.release.set()
        second = await connection.receive()
    assert b'"content":"a"' in first
    assert second == (
        b'data: {"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}\n\n'
        b"data: [DONE]\n\n"
    )


async def test_the_queue_counts_every_choice(make_api):
    llm = FakeLLM(max_num_queued_reqs=4)
    llm.hold_at = 0
    api = make_api(llm=llm)
    async with api.client.request(PATH, method="POST", headers={"Content-Type": "application/json"}) as busy:
        await busy.send(b'{"n": 3, "messages": [{"role": "user", "content": "Hi"}]}')
        await busy.send_complete()
        await llm.wait_until(lambda llm: llm.calls)
        refused = await api.chat(n=2)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        never = await api.chat(n=5)
        assert (never.status, never.error["param"]) == (400, "n")
        llm.release.set()
        assert (await api.chat(n=1)).status == 200
    assert (await api.chat(n=4)).status == 200


async def test_long_values_are_cut_in_messages(api):
    answer = await api.chat(model="m" * 5000)
    assert len(answer.error["message"]) < 500
    answer = await api.chat(tool_choice="t" * 5000)
    assert len(answer.error["message"]) < 500
    answer = await api.chat(**{"k" * 5000: 1}, stop_token_ids=["x" * 5000])
    assert len(answer.text) < 1000


def test_messages_end_at_2000_characters():
    assert len(truncate("word " * 1000)) == 2000
    assert truncate("x" * 5000) == "x" * 199 + "…"


async def test_at_most_ten_reasons_are_listed(api):
    names = "n seed top_k top_p min_p temperature stream logprobs echo max_tokens min_tokens ignore_eos user request_id"
    wrong = {name: [] for name in names.split()}
    message = (await api.chat(**wrong)).error["message"]
    assert message.startswith("14 validation errors:")
    assert message.count("\n") == 10


async def test_a_broken_route_is_a_500_in_our_shape(api):
    api.llm.replica_stats = lambda: 1 / 0
    answer = await api.get("/metrics")
    assert (answer.status, answer.error["message"]) == (500, "Internal server error")
