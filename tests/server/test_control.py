"""Routes that control and debug the server: /pause, /resume, /abort_requests, /reset_prefix_cache, /server_info and
/debug/state."""

import asyncio
from dataclasses import replace

import pytest

from jaxserve import EngineStopped
from jaxserve.engine_snapshot import CacheGroupStats, InspectedRequest
from server.app import get_state
from server.control import PauseMode
from server.environment import read_settings
from tests.fake_llm import FakeLLM, idle_engine

KEYS = ("first", "second")
WAIT_S = 20
DEV_ROUTES = (
    ("GET", "/server_info"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("GET", "/is_paused"),
    ("POST", "/abort_requests"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/collective_rpc"),
)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def held_llm():
    llm = FakeLLM()
    llm.hold_at = 1
    return llm


@pytest.fixture
def dev_api(make_api, held_llm):
    return make_api(llm=held_llm, server_dev_mode=True)


async def start_chat(api, num=1, **fields):
    """Start a chat whose first delta is there."""
    running = asyncio.create_task(api.chat(**fields))
    await api.llm.wait_until(lambda llm: len(llm.calls) == num)
    return running


async def start_waits(api, num):
    """Start calls that pause the server when nothing runs, each of them as far as it goes."""
    waits = [asyncio.create_task(get_state(api.app).control.pause(PauseMode.WAIT)) for _ in range(num)]
    for _ in range(5):
        await asyncio.sleep(0)
    return waits


class TestSwitches:
    @pytest.mark.parametrize(("method", "path"), [*DEV_ROUTES, ("GET", "/debug/state")])
    async def test_without_its_switch_there_is_no_route_and_a_key_is_needed_first(self, api, make_api, method, path):
        assert (await api.call(method, path)).status == 404
        assert (await make_api(api_key=KEYS).call(method, path)).status == 401

    @pytest.mark.parametrize(("method", "path"), [*DEV_ROUTES[:6], ("GET", "/debug/state")])
    async def test_with_its_switch_it_needs_a_key(self, make_api, method, path):
        api = make_api(api_key=KEYS, server_dev_mode=True, enable_debug_endpoints=True)
        assert (await api.call(method, path)).status == 401
        body = {"request_ids": []} if path == "/abort_requests" else None
        assert (await api.call(method, path, body, headers=bearer("first"))).status == 200

    def test_variables_of_the_environment_switch_dev_mode_on(self):
        for variable in ("JAXSERVE_SERVER_DEV_MODE", "VLLM_SERVER_DEV_MODE"):
            [(_, field, value)] = read_settings({variable: "1"}, ["server_dev_mode"])
            assert (field, value) == ("server_dev_mode", "1")


class TestAbort:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_all_requests_with_an_id_are_aborted(self, dev_api, stream):
        one = await start_chat(dev_api, 1, request_id="a", stream=stream)
        two = await start_chat(dev_api, 2, request_id="a", stream=stream)
        other = await start_chat(dev_api, 3, request_id="ab", stream=stream)
        answer = await dev_api.post("/abort_requests", {"request_ids": ["chatcmpl-a", "none", "b"]})
        assert answer.json == {"status": "aborted", "aborted": 2}
        for running in (one, two):
            reply = await running
            error = reply.events[-1]["error"] if stream else reply.error
            assert (error["code"], error["type"]) == (400, "RequestAborted")
        await dev_api.llm.wait_until(lambda llm: llm.ends["aborted"] == 2)
        dev_api.llm.release.set()
        assert (await other).status == 200
        assert (await dev_api.post("/abort_requests", {"request_ids": ["a", "ab"]})).json["aborted"] == 0

    async def test_the_client_s_own_id_is_enough_and_a_part_of_it_is_not(self, dev_api):
        running = await start_chat(dev_api, headers={"X-Request-Id": "my-id-1"})
        for part in ("my-id", "id-1", "1", "chatcmpl-", "chatcmpl", "", "MY-ID-1"):
            assert (await dev_api.post("/abort_requests", {"request_ids": [part]})).json["aborted"] == 0
        assert (await dev_api.post("/abort_requests", {"request_ids": ["my-id-1"] * 2})).json["aborted"] == 1
        assert (await running).status == 400

    async def test_requests_of_other_keys_go_on(self, make_api, held_llm):
        api = make_api(llm=held_llm, server_dev_mode=True, api_key=KEYS)
        mine = await start_chat(api, 1, request_id="a", headers=bearer("first"))
        theirs = await start_chat(api, 2, request_id="a", headers=bearer("second"))
        answer = await api.post("/abort_requests", {"request_ids": ["a"]}, headers=bearer("first"))
        assert answer.json["aborted"] == 1
        assert (await mine).status == 400
        held_llm.release.set()
        assert (await theirs).status == 200

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/chat/completions/render"])
    async def test_a_request_whose_prompt_is_prepared_is_aborted_and_its_work_is_cancelled(
        self, dev_api, monkeypatch, path
    ):
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def never(*_, **__):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        monkeypatch.setattr(dev_api.llm, "prepare", never)
        body = {"prompt": "a"} if "chat" not in path else {"messages": [{"role": "user", "content": "a"}]}
        running = asyncio.create_task(dev_api.post(path, {**body, "request_id": "a"}))
        await started.wait()
        assert (await dev_api.post("/abort_requests", {"request_ids": ["a"]})).json["aborted"] == 1
        assert (await running).status == 400
        assert cancelled.is_set() and not dev_api.llm.calls

    async def test_one_that_has_all_its_tokens_is_finished(self, dev_api):
        dev_api.llm.hold_at = None
        running = asyncio.create_task(dev_api.chat(request_id="a"))
        await dev_api.llm.wait_until(lambda llm: llm.ends["finished"])
        answer = await dev_api.post("/abort_requests", {"request_ids": ["a"]})
        assert (answer.json["aborted"], (await running).status) == (0, 200)

    async def test_what_is_no_list_of_words_is_400(self, dev_api):
        for body in ({}, {"request_ids": "a"}, {"request_ids": [1]}, {"request_ids": None}):
            assert (await dev_api.post("/abort_requests", body)).status == 400


class TestPause:
    async def test_keep_lets_everybody_wait(self, dev_api):
        running = await start_chat(dev_api)
        assert (await dev_api.post("/pause?mode=keep", None)).json == {"status": "paused"}
        assert dev_api.llm.orders == ["pause"]
        new = await start_chat(dev_api, 2)
        assert (await dev_api.get("/is_paused")).json == {"is_paused": True}
        assert (await dev_api.get("/health")).status == 503
        assert (await dev_api.post("/resume", None)).json == {"status": "resumed"}
        assert dev_api.llm.orders == ["pause", "resume"]
        dev_api.llm.release.set()
        assert ((await running).status, (await new).status) == (200, 200)
        assert (await dev_api.get("/is_paused")).json == {"is_paused": False}
        assert (await dev_api.get("/health")).status == 200

    @pytest.mark.parametrize("query", ["", "?mode=abort"])
    async def test_abort_ends_those_that_run_and_refuses_new_ones(self, dev_api, query):
        running = await start_chat(dev_api)
        await dev_api.post(f"/pause{query}", None)
        assert dev_api.llm.orders == ["pause"]
        for answer in (await running, await dev_api.chat()):
            assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
        await dev_api.post("/resume", None)
        dev_api.llm.release.set()
        assert (await dev_api.chat()).status == 200

    async def test_wait_lets_those_that_run_finish_first(self, dev_api):
        running = await start_chat(dev_api)
        pause = asyncio.create_task(dev_api.post("/pause?mode=wait", None))
        while not (await dev_api.get("/is_paused")).json["is_paused"]:
            pass
        assert (await dev_api.chat()).status == 503
        assert not pause.done() and dev_api.llm.orders == []
        dev_api.llm.release.set()
        assert (await running).status == 200
        assert (await pause).status == 200
        assert dev_api.llm.orders == ["pause"]

    async def test_a_resume_ends_the_wait(self, dev_api):
        running = await start_chat(dev_api)
        pause = asyncio.create_task(dev_api.post("/pause?mode=wait", None))
        while not (await dev_api.get("/is_paused")).json["is_paused"]:
            pass
        await dev_api.post("/resume", None)
        assert (await pause).status == 200
        assert dev_api.llm.orders == ["resume"]
        dev_api.llm.release.set()
        assert (await running).status == 200

    async def test_one_resume_ends_every_wait_and_nothing_is_paused_later(self, dev_api):
        running = await start_chat(dev_api)
        waits = await start_waits(dev_api, 3)
        await dev_api.post("/resume", None)
        await asyncio.gather(*waits)
        num_orders = len(dev_api.llm.orders)
        dev_api.llm.release.set()
        assert ((await running).status, (await dev_api.chat()).status) == (200, 200)
        assert (dev_api.llm.orders[-1], len(dev_api.llm.orders)) == ("resume", num_orders)

    async def test_of_two_who_wait_neither_is_answered_while_requests_run(self, dev_api):
        running = await start_chat(dev_api)
        waits = await start_waits(dev_api, 2)
        assert not any(wait.done() for wait in waits) and "pause" not in dev_api.llm.orders
        dev_api.llm.release.set()
        await asyncio.gather(running, *waits)
        assert dev_api.llm.orders[-1] == "pause"

    @pytest.mark.parametrize("mode", [PauseMode.KEEP, PauseMode.ABORT])
    async def test_a_pause_at_once_ends_the_wait(self, dev_api, mode):
        running = await start_chat(dev_api)
        waits = await start_waits(dev_api, 1)
        await dev_api.post(f"/pause?mode={mode}", None)
        await asyncio.gather(*waits)
        assert dev_api.llm.orders == ["pause"]
        dev_api.llm.release.set()
        assert (await running).status == (200 if mode is PauseMode.KEEP else 503)

    async def test_who_leaves_while_waiting_has_the_server_paused_all_the_same(self, dev_api):
        running = await start_chat(dev_api)
        [wait] = await start_waits(dev_api, 1)
        wait.cancel()
        dev_api.llm.release.set()
        assert (await running).status == 200
        async with asyncio.timeout(WAIT_S):
            await dev_api.llm.wait_until(lambda llm: llm.orders == ["pause"])

    async def test_wait_lets_those_finish_that_keep_has_stopped(self, dev_api):
        running = await start_chat(dev_api)
        await dev_api.post("/pause?mode=keep", None)
        waits = await start_waits(dev_api, 1)
        assert dev_api.llm.orders == ["pause", "resume"] and not waits[0].done()
        dev_api.llm.release.set()
        await asyncio.gather(running, *waits)
        assert dev_api.llm.orders == ["pause", "resume", "pause"]

    async def test_an_engine_that_is_gone_is_told_to_who_waits(self, dev_api, monkeypatch):
        async def fail():
            raise EngineStopped("gone")

        monkeypatch.setattr(dev_api.llm, "pause", fail)
        assert (await dev_api.post("/pause", None)).status == 503

    async def test_the_end_of_the_server_ends_the_wait_and_a_stuck_engine_does_not_delay_it(self, dev_api, monkeypatch):
        running = await start_chat(dev_api)
        [wait] = await start_waits(dev_api, 1)
        resumed = asyncio.Event()
        monkeypatch.setattr(dev_api.llm, "resume", resumed.wait)
        await get_state(dev_api.app).control.drain(0)
        assert ((await running).status, wait.done()) == (503, False)
        resumed.set()
        await wait
        assert dev_api.llm.orders == []

    async def test_another_mode_is_400(self, dev_api):
        answer = await dev_api.post("/pause?mode=sleep", None)
        assert (answer.status, answer.error["param"]) == (400, "mode")


async def test_a_reset_says_whether_the_cache_is_empty(dev_api):
    running = await start_chat(dev_api)
    assert (await dev_api.post("/reset_prefix_cache", None)).json == {"success": False}
    assert (await dev_api.post("/reset_prefix_cache?reset_running_requests=true", None)).json == {"success": True}
    assert (await dev_api.post("/reset_prefix_cache?reset_running_requests=maybe", None)).status == 400
    assert dev_api.llm.orders == ["reset", "recompute"]
    dev_api.llm.release.set()
    await running


@pytest.mark.parametrize("form", ["", "?config_format=text", "?config_format=json"])
async def test_the_settings_are_shown_without_secrets(make_api, form):
    llm = FakeLLM()
    llm.config = replace(llm.config, hf_token="hf-secret")
    endpoint = "http://user:secret@127.0.0.1:9/v1/traces?token=secret"
    api = make_api(llm=llm, api_key=("key-secret",), server_dev_mode=True, otlp_traces_endpoint=endpoint)
    answer = await api.get(f"/server_info{form}", headers=bearer("key-secret"))
    config = answer.json["vllm_config"]
    assert isinstance(config, dict if "json" in form else str)
    assert "fake/model" in answer.text and "max_body_bytes" in answer.text
    assert "secret" not in answer.text
    state = get_state(api.app)
    assert state.tracer is not None and "secret" not in repr(state.config)
    state.tracer.close()
    assert (await api.get("/server_info?config_format=xml", headers=bearer("key-secret"))).status == 400


class TestDebugState:
    async def test_it_has_the_shape_of_the_contract(self, make_api):
        llm = FakeLLM()
        requests = (InspectedRequest(7, "running", 3, ((1, 2), (5,))), InspectedRequest(9, "waiting", 0, ((), ())))
        groups = (CacheGroupStats("full", 10, 6, 2, 2), CacheGroupStats("window 4", 5, 4, 1, 0))
        invariants = {"I1": True, "I2": "page 3 has 1 references and is in 0 page lists"}
        state = {"requests": requests, "cache_groups": groups, "num_requests": 2, "num_free_rows": 7}
        llm.engines = [idle_engine(invariants=invariants, **state)]
        answer = (await make_api(llm=llm, enable_debug_endpoints=True).get("/debug/state")).json
        assert answer["invariants"] == invariants
        assert answer["pages"] == {"total": 15, "free": 10, "active": 3, "cached": 2}
        assert [group["name"] for group in answer["page_groups"]] == ["full", "window 4"]
        assert answer["slots"] == {"free": 7, "used": 1}
        assert answer["requests"] == [
            {"id": 7, "replica": 0, "state": "running", "pages": 3, "page_ids": [[1, 2], [5]]},
            {"id": 9, "replica": 0, "state": "waiting", "pages": 0, "page_ids": [[], []]},
        ]

    async def test_replicas_are_added_up_and_what_is_wrong_names_its_replica(self, make_api):
        llm = FakeLLM()
        llm.engines = [idle_engine(), idle_engine(invariants={"I1": "wrong"}), idle_engine(invariants={"I1": "bad"})]
        answer = (await make_api(llm=llm, enable_debug_endpoints=True).get("/debug/state")).json
        assert answer["invariants"] == {"I1": "replica 1: wrong"}
        assert (answer["pages"]["total"], answer["slots"]) == (300, {"free": 24, "used": 0})
