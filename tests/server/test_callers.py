"""Callers: how much each may have at a time, how long its requests may take, and whose cached prefixes it shares."""

import asyncio
import time

import pytest

from jaxserve import BadConfig
from server.api_keys import add_file_keys
from server.config import ServerConfig
from tests.fake_llm import FakeLLM

KEYS = ("first", "second")


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def held_llm():
    llm = FakeLLM()
    llm.hold_at = 1
    return llm


async def test_a_key_has_its_own_places_and_gets_them_back(make_api, held_llm):
    api = make_api(llm=held_llm, api_key=KEYS, max_concurrency_per_key=2)
    running = asyncio.create_task(api.chat(n=2, headers=bearer("first")))
    await held_llm.wait_until(lambda llm: llm.calls)
    refused = await api.post("/v1/completions", {"prompt": "a"}, headers=bearer("first"))
    assert (refused.status, refused.error["code"]) == (429, 429)
    assert int(refused.headers["Retry-After"]) > 0
    held_llm.release.set()
    other = await api.post("/v1/completions", {"prompt": "a"}, headers=bearer("second"))
    assert other.status == 200
    await running
    again = await api.post("/v1/completions", {"prompt": "a"}, headers=bearer("first"))
    assert again.status == 200


async def test_without_keys_an_address_is_a_caller(make_api, held_llm):
    api = make_api(llm=held_llm, max_concurrency_per_key=1)
    running = asyncio.create_task(api.chat())
    await held_llm.wait_until(lambda llm: llm.calls)
    assert (await api.chat()).status == 429
    held_llm.release.set()
    await running


async def test_more_than_a_caller_can_ever_have_is_no_reason_to_come_back(make_api):
    api = make_api(max_concurrency_per_key=2)
    answer = await api.chat(n=3)
    assert (answer.status, answer.error["param"]) == (400, "n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waits_too_long_is_told_to_come_back(make_api, held_llm, stream):
    held_llm.hold_at = 0
    api = make_api(llm=held_llm, queue_timeout_s=0.02)
    answer = await api.chat(stream=stream)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    await held_llm.wait_until(lambda llm: llm.ends["aborted"])


async def test_a_request_that_waits_for_its_prompt_is_ended_as_soon(make_api, monkeypatch):
    llm = FakeLLM()
    cancelled = asyncio.Event()

    async def never(*_, **__):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    monkeypatch.setattr(llm, "prepare", never)
    assert (await make_api(llm=llm, queue_timeout_s=0.02).chat()).status == 503
    assert cancelled.is_set()


async def test_a_text_that_waits_for_its_tokens_is_ended_as_soon(make_api, monkeypatch):
    llm = FakeLLM()

    async def never(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(llm, "encode", never)
    answer = await make_api(llm=llm, queue_timeout_s=0.02).post("/tokenize", {"prompt": "a"})
    assert answer.status == 503


async def test_what_has_begun_no_longer_waits(make_api, held_llm):
    api = make_api(llm=held_llm, queue_timeout_s=0.05)
    running = asyncio.create_task(api.chat(stream=True))
    await held_llm.wait_until(lambda llm: llm.calls)
    await asyncio.wait([running], timeout=0.2)
    held_llm.release.set()
    assert "[DONE]" in (await running).text


async def test_a_request_that_runs_too_long_ends_with_504(make_api, held_llm):
    api = make_api(llm=held_llm, request_timeout_s=0.05)
    assert (await api.chat()).status == 504
    stream = await api.chat(stream=True)
    *deltas, last = stream.events
    assert (stream.status, last["error"]["code"]) == (200, 504)
    assert [delta["choices"][0]["delta"]["content"] for delta in deltas] == ["", "Hel"]


@pytest.mark.parametrize("jump_s", [-(10**8), 10**8])
async def test_a_jump_of_the_system_s_clock_ends_no_request_and_delays_no_limit(
    make_api, held_llm, monkeypatch, jump_s
):
    api = make_api(llm=held_llm, queue_timeout_s=3600, request_timeout_s=3600)
    running = asyncio.create_task(api.chat())
    limited = asyncio.create_task(make_api(llm=held_llm, request_timeout_s=0.2).chat())
    await held_llm.wait_until(lambda llm: len(llm.calls) == 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert (await limited).status == 504
    assert not running.done()
    held_llm.release.set()
    assert (await running).status == 200


async def salts(make_api, **config):
    llm = FakeLLM()
    api = make_api(llm=llm, api_key=KEYS, **config)
    for key in ("first", "first", "second"):
        for fields in ({}, {"cache_salt": "s"}):
            await api.post("/v1/completions", {"prompt": "a", **fields}, headers=bearer(key))
    return [call.cache_salt for call in llm.calls]


async def test_cached_prefixes_are_shared_among_keys_unless_they_are_isolated(make_api):
    assert await salts(make_api) == [None, "s"] * 3
    mine, mine_salted, *again, theirs, theirs_salted = await salts(make_api, isolate_cache_per_key=True)
    assert again == [mine, mine_salted]
    assert len({mine, mine_salted, theirs, theirs_salted}) == 4
    assert not any("first" in salt or "second" in salt for salt in (mine, theirs))


def test_keys_of_a_file_are_added(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst\n\n  schlüssel  \n", encoding="utf-8")
    config = add_file_keys(ServerConfig(api_key=("own",), api_key_file=str(file)))
    assert config.api_key == ("own", "first", "schlüssel")
    assert add_file_keys(ServerConfig()) == ServerConfig()


@pytest.mark.parametrize("text", [None, "", "# nothing\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadConfig, match="api_key_file"):
        add_file_keys(ServerConfig(api_key_file=str(file)))
