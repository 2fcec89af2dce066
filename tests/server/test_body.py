"""The body: content type, JSON strictness, limits."""

import asyncio
import json
from codecs import BOM_UTF8

import pytest

from jaxserve import dump_exact_json
from jaxserve.text.call_formats.format import collect_functions
from server.app import get_state
from server.body import parse_json
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT

PATH = "/v1/chat/completions"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_read(api, kind):
    assert (await api.post(PATH, CHAT, headers={"Content-Type": kind})).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_another_content_type_is_400_and_told_so(api, kind):
    answer = await api.post(PATH, CHAT, headers={"Content-Type": kind})
    assert (answer.status, answer.error["type"]) == (400, "Bad Request")
    assert "only 'application/json' is allowed" in answer.error["message"].lower()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 309 + b"}",
        b'{"a": 0.' + b"1" * 400 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * 128 + b"]" * 128 + b"}",
        b"[" * 100_000,
        b'{"a": 1} x',
    ],
    ids=range(17),
)
async def test_what_is_no_strict_json_object_is_400(api, body):
    answer = await api.post(PATH, body)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "Bad Request", "body")
    assert answer.error["message"].startswith("1 validation error:")
    assert len(answer.text) < 3000


async def test_digits_in_a_string_are_no_number(api):
    assert (await api.chat(user_note="9" * 400)).status == 200


async def test_127_levels_below_the_body_are_read(api):
    assert (await api.post(PATH, {**CHAT, "extra": json.loads("[" * 127 + "]" * 127)})).status == 200


async def test_of_a_repeated_key_the_last_value_counts(api):
    body = b'{"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}'
    assert (await api.post(PATH, body)).json["usage"]["completion_tokens"] == 2


async def test_an_encoded_body_is_415(api):
    answer = await api.post(PATH, CHAT, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["type"], answer.error["code"]) == (415, "Unsupported Media Type", 415)
    assert (await api.post(PATH, CHAT, headers={"Content-Encoding": "identity"})).status == 200


async def test_a_body_above_the_limit_is_413(make_api):
    api = make_api(max_body_bytes=1000)
    answer = await api.chat(user="x" * 1000)
    assert (answer.status, answer.error["type"]) == (413, "Request Entity Too Large")
    assert (await api.chat(user="x" * 100)).status == 200


async def test_a_body_that_does_not_end_is_408(make_api):
    api = make_api(body_timeout_s=0.01)
    headers = {"Content-Type": "application/json", "Content-Length": "100"}
    async with api.client.request(PATH, method="POST", headers=headers) as connection:
        await connection.send(b'{"messages"')
        body = await connection.receive()
    assert connection.status_code == 408
    assert json.loads(body)["error"]["type"] == "Request Timeout"


async def test_too_large_a_head_is_431(make_api):
    api = make_api(max_header_bytes=1000, max_headers=20)
    assert (await api.get("/version", headers={"X-Long": "x" * 1000})).error["code"] == 431
    assert (await api.get("/version?" + "x" * 900)).status == 200
    assert (await api.get("/version?" + "x" * 1000)).error["code"] == 431
    many = {f"X-{number}": "1" for number in range(30)}
    answer = await api.get("/version", headers=many)
    assert (answer.status, answer.error["type"]) == (431, "Request Header Fields Too Large")


async def test_two_lengths_are_400(api):
    headers = {"Content-Length": "3", "Transfer-Encoding": "chunked"}
    assert (await api.get("/version", headers=headers)).status == 400


async def test_bodies_together_above_the_limit_are_503(make_api):
    api = make_api(max_inflight_body_bytes=1000)
    assert (await api.chat(user="x" * 200)).status == 200
    headers = {"Content-Type": "application/json"}
    async with api.client.request(PATH, method="POST", headers=headers) as slow:
        await slow.send(b" " * 900)
        while not get_state(api.app).body_meter.held_bytes:
            await asyncio.sleep(0)
        refused = await api.chat(user="x" * 200)
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        await slow.send(json.dumps(CHAT).encode())
        await slow.send_complete()
    assert slow.status_code == 200
    assert get_state(api.app).body_meter.held_bytes == 0


async def test_a_byte_order_mark_is_read_over(api):
    assert (await api.post(PATH, BOM_UTF8 + json.dumps(CHAT).encode())).json["choices"]
    assert (await api.post(PATH, BOM_UTF8 * 2 + json.dumps(CHAT).encode())).status == 400


NUMBERS = (
    "[12345678901234567890123,-9223372036854775809,0.1000000000000000055511151231257827,1e-400,1152921504606846977]"
)


def test_the_digits_of_numbers_are_not_lost():
    assert dump_exact_json(parse_json(f'{{"a":{NUMBERS}}}'.encode(), 1000)["a"]) == NUMBERS


@pytest.mark.parametrize("where", ["response_format", "structured_outputs"])
async def test_the_digits_of_a_schema_reach_the_library(api, where):
    schema = f'{{"enum":{NUMBERS}}}'
    fields = {
        "response_format": f'{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}',
        "structured_outputs": f'{{"json":{schema}}}',
    }
    body = json.dumps(CHAT)[:-1] + f',"{where}":{fields[where]}}}'
    assert (await api.post(PATH, body.encode())).status == 200
    assert api.llm.calls[-1].params.structured_outputs.json == schema


async def test_the_digits_of_a_tool_reach_the_library(make_api):
    api = make_api(llm=FakeLLM(tool_parser="hermes"))
    tool = (
        f'{{"type":"function","function":{{"name":"f","parameters":{{"properties":{{"id":{{"enum":{NUMBERS}}}}}}}}}}}'
    )
    answer = await api.post(PATH, (json.dumps(CHAT)[:-1] + f',"tools":[{tool}]}}').encode())
    assert answer.status == 200
    [function] = collect_functions(api.llm.calls[-1].spec.tools).values()
    assert NUMBERS in function.arguments_expr.schema


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000, "1" * 309])
async def test_a_number_beyond_a_double_is_told_so_in_our_words(api, number):
    answer = await api.post(PATH, (json.dumps(CHAT)[:-1] + f',"seed":{number}}}').encode())
    assert answer.status == 400 and answer.error["message"].endswith(
        ("beyond the range of a double", "a number has more than 308 digits")
    )
