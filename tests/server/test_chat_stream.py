"""The stream of the chat route: its frames, their order, and that it says what the whole answer says."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.app import get_state
from server.sse import KeepAliveTimer
from server.writer import Event
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT
from tests.server.live_stream import Live

PATH = "/v1/chat/completions"


async def stream(api, **fields):
    answer = await api.chat(stream=True, **fields)
    assert answer.status == 200, answer.text
    return answer


def deltas(events, index=0):
    return [one["choices"][0] for one in events if one["choices"] and one["choices"][0]["index"] == index]


async def test_the_headers_of_a_stream(api):
    async with Live(api) as connection:
        await connection.receive()
    headers = connection.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in headers


async def test_role_then_text_then_end(make_api):
    events = (await stream(make_api(["a", "b"]))).events
    role, *_, last = events
    assert role["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert role["object"] == "chat.completion.chunk"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["stop_reason"] is None
    assert "".join(one["delta"].get("content", "") for one in deltas(events)) == "ab"


async def test_id_created_and_model_are_equal_in_all_chunks(api):
    events = (await stream(api, n=2)).events
    assert len({(one["id"], one["created"], one["model"]) for one in events}) == 1


async def test_every_choice_has_its_role_first_and_one_end(make_api):
    events = (await stream(make_api(["a"], ["b", "c"]), n=2)).events
    assert [one["choices"][0]["index"] for one in events[:2]] == [0, 1]
    assert all(one["choices"][0]["delta"].get("role") for one in events[:2])
    for index, text in enumerate(("a", "bc")):
        own = deltas(events, index)
        assert "".join(one["delta"].get("content", "") for one in own) == text
        assert [bool(one["finish_reason"]) for one in own] == [False] * (len(own) - 1) + [True]


async def test_usage_is_absent_unless_asked_for(api):
    events = (await stream(api)).events
    assert not any("usage" in one for one in events)
    assert events[-1]["system_fingerprint"]
    assert not any("system_fingerprint" in one for one in events[:-1])
    assert not any("usage" in one for one in (await stream(api, stream_options={})).events)


async def test_include_usage_adds_one_last_chunk(api):
    *events, last = (await stream(api, n=2, stream_options={"include_usage": True})).events
    assert last["choices"] == []
    assert last["usage"] == (await api.chat(n=2)).json["usage"]
    assert last["system_fingerprint"]
    assert not any("usage" in one or "system_fingerprint" in one for one in events)


async def test_continuous_usage_counts_each_choice(make_api):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, last = (await stream(make_api(["a"], ["bc"]), n=2, stream_options=options)).events
    counts = [(one["choices"][0]["index"], one["usage"]["completion_tokens"]) for one in events]
    assert counts == [(0, 0), (1, 0), (0, 1), (1, 2)]
    assert all(one["usage"]["prompt_tokens"] == 5 for one in events)
    assert last["usage"]["completion_tokens"] == 3


async def test_continuous_usage_alone_has_no_effect(api):
    events = (await stream(api, stream_options={"continuous_usage_stats": True})).events
    assert not any("usage" in one for one in events)


async def test_the_server_can_force_usage(make_api):
    events = (await stream(make_api(enable_force_include_usage=True))).events
    assert all("usage" in one for one in events)


async def test_every_token_appears_once(make_api):
    """A piece without text still has its tokens told."""
    llm = FakeLLM(["a", "bc", "d"])
    events = (await stream(make_api(llm=llm), logprobs=True, top_logprobs=1, return_token_ids=True)).events
    own = deltas(events)
    assert [one for choice in own for one in choice.get("token_ids", [])] == [97, 98, 99, 100]
    entries = [one for choice in own if choice["logprobs"] for one in choice["logprobs"]["content"]]
    whole = (await make_api(llm=llm).chat(logprobs=True, top_logprobs=1)).json
    assert entries == whole["choices"][0]["logprobs"]["content"]


async def test_prompt_ids_are_on_the_role_chunks_only(api):
    events = (await stream(api, n=2, return_token_ids=True)).events
    assert [one["prompt_token_ids"] for one in events[:2]] == [[ord(one) for one in "u:Hi|"]] * 2
    assert not any("prompt_token_ids" in one for one in events[2:])


async def test_echo_is_a_chunk_of_its_own_after_all_roles(api):
    last = {"role": "assistant", "content": "So: "}
    fields = {"messages": [last], "add_generation_prompt": False, "continue_final_message": True}
    events = (await stream(api, n=2, echo=True, **fields)).events
    assert [one["choices"][0]["delta"] for one in events[2:4]] == [{"content": "So: "}] * 2
    assert [one["choices"][0]["index"] for one in events[:4]] == [0, 1, 0, 1]
    assert events[2]["choices"][0]["logprobs"] is None


async def test_prompt_logprobs_zero_is_accepted_and_returns_nothing(api):
    events = (await stream(api, prompt_logprobs=0)).events
    assert not any("prompt_logprobs" in one for one in events)
    assert api.llm.calls[-1].params.prompt_logprobs is None


async def test_nothing_is_said_before_the_first_result(make_api):
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 0
    async with Live(make_api(llm=llm)) as connection:
        await llm.wait_until(lambda llm: llm.calls)
        template_api = asyncio.ensure_future(connection.receive())
        assert not (await asyncio.wait([template_api], timeout=0.3))[0]
        llm.release.set()
        assert b'"role":"assistant"' in await template_api


async def test_the_head_of_a_slow_stream_is_sent_before_its_first_result(make_api):
    llm = FakeLLM(["a"])
    llm.hold_at = 0
    async with Live(make_api(llm=llm, sse_keep_alive_interval=0.01)) as connection:
        assert await connection.receive() == b": keep-alive\n\n"
        llm.release.set()


async def test_silence_is_filled_with_comments(make_api):
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    async with Live(make_api(llm=llm, sse_keep_alive_interval=0.01)) as connection:
        assert b'"content":"a"' in await connection.receive()
        assert await connection.receive() == b": keep-alive\n\n"
        llm.release.set()
        rest = b""
        while not rest.endswith(b"[DONE]\n\n"):
            rest += await connection.receive()
        assert rest.count(b"data: [DONE]") == 1


async def test_a_reader_that_is_gone_is_woken_once():
    woken = asyncio.Queue()
    silence = KeepAliveTimer(SimpleNamespace(wake=lambda: woken.put_nowait(None)), 0.001)
    await woken.get()
    assert silence.is_due
    silence.restart()
    assert not silence.is_due
    await woken.get()
    assert silence._timer.when() <= asyncio.get_running_loop().time(), "it is set again"


async def test_no_timer_runs_where_comments_are_switched_off():
    assert KeepAliveTimer(SimpleNamespace(), 0)._timer is None


@given(st.dictionaries(st.text(), st.text()))
def test_an_event_is_one_line_for_every_reader(chunk):
    chunk["all"] = "".join(map(chr, [*range(32), 0x7F, 0x85, 0x2028, 0x2029]))
    line, blank, *_ = (Event(None, chunk).encode() * 2).decode().splitlines()
    assert (json.loads(line.removeprefix("data: ")), blank) == (chunk, "")


async def test_pending_deltas_are_merged(make_api):
    llm = FakeLLM(["a", "b", "c", "d"])
    llm.hold_at = 1
    async with Live(make_api(llm=llm)) as connection:
        assert b'"content":"a"' in await connection.receive()
        llm.release.set()
        assert b'"content":"bcd"' in await connection.receive()


async def test_an_interval_gathers_tokens_but_not_the_first(make_api):
    llm = FakeLLM(["a", "b", "c", "d", "e"])
    llm.hold_at = 2
    async with Live(make_api(llm=llm), stream_interval=4) as connection:
        assert b'"content":"ab"' in await connection.receive()
        llm.release.set()
        assert b'"content":"cde"' in await connection.receive()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold_at", [0, 1])
async def test_a_client_that_leaves_is_aborted(make_api, stream, hold_at):
    llm = FakeLLM(["a", "b"])
    llm.hold_at = hold_at
    api = make_api(llm=llm)
    async with Live(api, stream=stream, n=2) as connection:
        await llm.wait_until(lambda llm: llm.calls)
        await connection.disconnect()
        await llm.wait_until(lambda llm: llm.ends["aborted"] == 1)
    assert len(get_state(api.app).slots) == 0


async def test_a_client_that_leaves_before_the_head_is_aborted(make_api):
    """The generator of such a response never starts, so it cannot be what aborts."""
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    api = make_api(llm=llm)
    body = json.dumps({**CHAT, "stream": True}).encode()
    head_is_due = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await head_is_due.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        head_is_due.set()
        await asyncio.Event().wait()

    scope = make_scope(PATH, len(body))
    await api.app(scope, receive, send)
    await llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


def make_scope(path, length):
    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    common = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b""}
    return {**common, "path": path, "raw_path": path.encode(), "headers": headers, "extensions": {}}


async def test_a_client_that_leaves_while_its_prompt_is_rendered_holds_no_place(make_api):
    llm = FakeLLM()
    is_rendering = asyncio.Event()

    async def render_chat(prompt, **how):
        is_rendering.set()
        await asyncio.Event().wait()

    llm.render_chat = render_chat
    api = make_api(llm=llm)
    async with Live(api) as connection:
        await is_rendering.wait()
        await connection.disconnect()
    assert len(get_state(api.app).slots) == 0
    assert not llm.calls


async def test_a_finished_request_is_not_aborted(api):
    await stream(api)
    assert dict(api.llm.ends) == {"finished": 1}
