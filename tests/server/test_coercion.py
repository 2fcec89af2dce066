"""How lax the body is read, field by field and type by type, on both routes: what counts as what, and what is a 400.

A field of the wrong JSON type is a "Bad Request" with its path; a value that only its meaning makes wrong may be
refused further on, but never for its type.
"""

import json

import pytest

from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from tests.server.api import CHAT

INTS = [
    *("max_tokens", "n", "seed", "top_k", "min_tokens", "truncate_prompt_tokens", "priority", "stream_interval"),
    *("thinking_token_budget", "routed_experts_prompt_start"),
]
FLOATS = [
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "min_p",
    "length_penalty",
]
BOOLS = [
    "stream",
    "use_beam_search",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "echo",
    "add_special_tokens",
    "return_tokens_as_token_ids",
    "return_token_ids",
    "return_token_offsets",
    "watermarking",
    "return_mm_kwargs",
    "return_weight_versions",
]
STRINGS = ["model", "user", "truncation_side", "request_id", "cache_salt", "session_id"]
OBJECTS = [
    "stream_options",
    "logit_bias",
    "response_format",
    "structured_outputs",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "repetition_detection",
]
LISTS = ["stop_token_ids", "allowed_token_ids", "bad_words", "logprob_token_ids"]
CHAT_ONLY = {
    "max_completion_tokens": INTS,
    "logprobs": BOOLS,
    "parallel_tool_calls": BOOLS,
    "include_reasoning": BOOLS,
    "add_generation_prompt": BOOLS,
    "continue_final_message": BOOLS,
    "return_prompt_text": BOOLS,
    "reasoning_effort": STRINGS,
    "chat_template": STRINGS,
    "chat_template_kwargs": OBJECTS,
    "mm_processor_kwargs": OBJECTS,
    "media_io_kwargs": OBJECTS,
    "documents": LISTS,
    "tools": LISTS,
}
BODIES = {"/v1/chat/completions": CHAT, "/v1/completions": {"prompt": "ab"}}


def cases(kind):
    """(path, field) for every field of a kind, on the routes that have it."""
    found = [(path, name) for path in BODIES for name in kind]
    return found + [("/v1/chat/completions", name) for name, its in CHAT_ONLY.items() if its is kind]


async def refused_as(api, path, field, value):
    """The path of the field if its type is refused, None if it is not."""
    answer = await api.post(path, BODIES[path] | {field: value})
    assert answer.status in (200, 400), answer.text
    if answer.status == 200 or answer.error["type"] != "Bad Request":
        return None
    assert answer.error["message"].startswith("1 validation error:\n  body.")
    assert answer.error["param"] in answer.error["message"]
    return answer.error["param"]


@pytest.mark.parametrize(("path", "field"), cases(INTS))
async def test_integers(api, path, field):
    for good in (3, 3.0, "3", True, False, None):
        assert await refused_as(api, path, field, good) is None, good
    for bad in (3.5, "3.5", "three", "", "nan", "inf", [], [3], {}):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad


@pytest.mark.parametrize(("path", "field"), cases(FLOATS))
async def test_floats(api, path, field):
    for good in (1, 1.5, "1.5", "1e0", True, False, None):
        assert await refused_as(api, path, field, good) is None, good
    for bad in ("one", "", [], [1.0], {}):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad
    for bad in ("nan", "inf", "-inf", "Infinity", "NaN"):
        answer = await api.post(path, BODIES[path] | {field: bad})
        assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", field), bad


@pytest.mark.parametrize(("path", "field"), cases(BOOLS))
async def test_booleans(api, path, field):
    words = ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n", "TRUE", "False", "Y", "oFF")
    for good in (True, False, 0, 1, None, *words):
        assert await refused_as(api, path, field, good) is None, good
    for bad in (2, -1, 0.5, "", "maybe", "2", "tru", [], {}):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad


@pytest.mark.parametrize(("path", "field"), cases(STRINGS))
async def test_strings(api, path, field):
    for good in ("x", "", None):
        answer = await api.post(path, BODIES[path] | {field: good})
        assert answer.status in (200, 404) or answer.error["type"] == "BadRequestError", answer.text
    for bad in (3, 1.5, True, [], ["x"], {}):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad


@pytest.mark.parametrize(("path", "field"), cases(OBJECTS))
async def test_objects(api, path, field):
    for bad in (3, "x", "{}", True, [], [{}]):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad


@pytest.mark.parametrize(("path", "field"), cases(LISTS))
async def test_lists(api, path, field):
    for bad in (3, "x", "[]", True, {}):
        assert await refused_as(api, path, field, bad) == f"body.{field}", bad
    assert await refused_as(api, path, field, [1.5]) == f"body.{field}.0"
    assert await refused_as(api, path, field, None) is None


@pytest.mark.parametrize("path", BODIES)
async def test_stop_is_a_string_or_strings(api, path):
    for good in ("x", ["x"], [], None):
        assert await refused_as(api, path, "stop", good) is None
    for bad, where in ((3, "body.stop"), ({}, "body.stop"), ([3], "body.stop.0"), (["x", None], "body.stop.1")):
        assert await refused_as(api, path, "stop", bad) == where


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v1/chat/completions", {"logprobs": True}, "top_logprobs"),
        ("/v1/chat/completions", {}, "prompt_logprobs"),
        ("/v1/completions", {}, "prompt_logprobs"),
    ],
)
async def test_counts_of_logprobs_must_be_json_numbers(api, path, fields, name):
    for good in (2, 2.0, 0, None):
        assert (await api.post(path, BODIES[path] | fields | {name: good})).status == 200
    for bad in ("2", "0", "", True, False, 2.5, [], {}):
        answer = await api.post(path, BODIES[path] | fields | {name: bad})
        assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "Bad Request", f"body.{name}")


async def test_the_logprobs_of_completions_are_no_text(api):
    for good in (2, 2.0, 0, True, None):
        assert await refused_as(api, "/v1/completions", "logprobs", good) is None
    for bad in ("2", "0", "", 2.5, [], {}):
        assert await refused_as(api, "/v1/completions", "logprobs", bad) == "body.logprobs"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("field", ["seed", "priority"])
async def test_64_bits(make_api, path, field):
    from tests.fake_llm import FakeLLM

    api = make_api(llm=FakeLLM(scheduling_policy="priority"))
    for good in (2**63 - 1, -(2**63)):
        assert (await api.post(path, BODIES[path] | {field: good})).status == 200
        assert getattr(api.llm.calls[-1].params, field) == good
    for bad in (2**63, -(2**63) - 1, 2**64, 10**40, 1e300):
        assert await refused_as(api, path, field, bad) == f"body.{field}"


@pytest.mark.parametrize("path", BODIES)
async def test_numbers_that_no_machine_word_holds_are_refused_by_name(api, path):
    """Fields without a declared width: the meaning of the value decides, not its size."""
    for field in ("n", "max_tokens", "min_tokens"):
        answer = await api.post(path, BODIES[path] | {field: 10**40})
        assert (answer.status, answer.error["param"].removeprefix("body.")) == (400, field)
    pattern = {"max_pattern_size": 10**18, "min_pattern_size": 10**18, "min_count": 10**18}
    assert (await api.post(path, BODIES[path] | {"repetition_detection": pattern})).status == 200


@pytest.mark.parametrize(
    "text",
    ['"\\ud800"', '"a\\udc00b"', '"\\ud800\\ud800"', "NaN", "Infinity", "-Infinity", "9" * 309, "1e400", "[" * 129],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize("path", BODIES)
async def test_what_json_does_not_have_is_refused_wherever_it_stands(api, path, text):
    closed = text + "]" * text.count("[")
    for name in ("user", "stop", "unknown"):
        body = json.dumps(BODIES[path] | {name: "HERE"}).replace('"HERE"', closed).encode()
        answer = await api.post(path, body)
        assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "Bad Request", "body")


async def test_several_faults_are_told_together_and_no_more_than_ten_of_them(api):
    bad = {name: [] for name in INTS + FLOATS}
    answer = await api.chat(**bad)
    lines = answer.error["message"].split("\n")
    assert lines[0] == f"{len(bad)} validation errors:"
    assert len(lines) == 11
    assert answer.error["param"] == lines[1].split(":")[0].strip()


def test_every_field_has_a_kind():
    special = {
        "mm_payload",
        "stop",
        "top_logprobs",
        "prompt_logprobs",
        "messages",
        "tool_choice",
        "prompt",
        "prompt_embeds",
    }
    shared = {*INTS, *FLOATS, *BOOLS, *STRINGS, *OBJECTS, *LISTS} | special
    assert set(ChatRequest.model_fields) <= shared | set(CHAT_ONLY)
    assert set(CompletionRequest.model_fields) <= shared | {"suffix", "logprobs"}
