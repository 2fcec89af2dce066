"""Priorities, the prefix cache, and labels for machines around the server."""

import time

import pytest

from tests.end_to_end.contract.api_client import DEFAULTS, FOX, check_error

pytestmark = pytest.mark.assets


@pytest.fixture
def fresh():
    """60 token ids that no request had before."""
    return [3 + number % 40_000 for number in (time.time_ns(), time.time_ns() // 40_000)] + [*range(200, 258)]


def cached(ask, prompt, **fields):
    reply = ask.complete(prompt=prompt, **{"max_tokens": 1} | fields)
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize(
    ("num", "hit"), [(16, 0), (17, 16), (48, 32), (49, 48), (60, 48)], ids=lambda value: str(value)
)
def test_a_prefix_is_found_in_whole_pages_and_never_to_the_last_token(ask, fresh, num, hit):
    prompt = fresh[:num]
    assert [cached(ask, prompt), cached(ask, prompt)] == [0, hit]


def test_cache_salt_divides_what_is_shared(ask, fresh):
    found = [cached(ask, fresh, cache_salt=salt) for salt in ("a", "a", "b", "b", None, None, "a" * 128)]
    assert found == [0, 48, 0, 48, 0, 48, 0]


@pytest.mark.parametrize("salt", ["", "a" * 129, "a@", "a/", "a\\", "a\0"])
def test_a_cache_salt_that_cannot_be(ask, salt):
    assert check_error(ask.ask(cache_salt=salt))["param"] == "cache_salt"


def test_answers_are_found_again_in_the_next_turn(ask, fresh):
    reply = ask.complete(prompt=fresh[:21], max_tokens=40, ignore_eos=True, return_token_ids=True)
    assert cached(ask, [*fresh[:21], *reply["choices"][0]["token_ids"], 9]) == 48


def test_a_hit_changes_nothing(ask, fresh):
    first, second = (ask.complete(prompt=fresh, max_tokens=8)["choices"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("value", [5, -5])
def test_priority_needs_its_scheduling(ask, value):
    words = f"Got priority {value} but priority scheduling is not enabled"
    for reply in (ask.ask(priority=value), ask.ask(headers={"X-Vllm-Priority": str(value)})):
        error = check_error(reply)
        assert error["param"] == "priority" and words in error["message"]
    assert ask.text(priority=value, headers={"X-Vllm-Priority": "0"}) == ask.text(priority=0)
    assert ask.text(headers={"X-Vllm-Priority": "high"}) == ask.text()


@pytest.mark.parametrize(("rank", "status"), [("0", 200), ("none", 200), ("1", 400), ("-1", 400)])
def test_there_is_one_replica(ask, rank, status):
    assert ask.ask(headers={"X-data-parallel-rank": rank}).status_code == status


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"a": [1, "x", 2.5], "b": 2**64 - 1, "c": -(2**63)}, {"a": 2**64}),
        ({}, {"a": {}}),
        ({"a": "x"}, {"a": -(2**63) - 1}),
    ],
)
def test_vllm_xargs_are_looked_at_and_left(ask, good, bad):
    assert ask.text(vllm_xargs=good) == ask.text()
    assert check_error(ask.ask(vllm_xargs=bad))["param"] == "vllm_xargs"


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
def test_transfers_need_a_connector(ask, name):
    for value in ({"a": 1}, {"prompt_token_ids": [1]}):
        error = check_error(ask.ask(**{name: value}))
        assert error["param"] == name and "transfer connector" in error["message"]
    for nothing in (None, {}):
        assert ask.chat(**{name: nothing})[name] is None


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [("watermarking", True, False), ("return_weight_versions", True, False), ("routed_experts_prompt_start", 3, 0)],
)
def test_what_an_answer_cannot_bring_is_refused(ask, name, value, neutral):
    assert check_error(ask.ask(**{name: value}))["param"] == name
    assert ask.text(**{name: neutral}) == ask.text()


@pytest.mark.parametrize("form", ["TEXT", "JSON", "json"])
def test_the_load_is_told_on_demand(ask, form):
    told = ask.ask(headers={"endpoint-load-metrics-format": form}).headers["endpoint-load-metrics"]
    assert "kv_cache_usage_perc" in told and "num_requests_waiting" in told


def test_who_leaves_stops_the_generation(ask):
    body = {"messages": FOX, **DEFAULTS, "stream": True, "max_tokens": 900, "ignore_eos": True}
    with ask.http.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_lines())
    idle = 'vllm:num_requests_running{engine="0",model_name="smol"} 0'
    assert any(idle in ask.http.get("/metrics").text for _ in range(2000))
