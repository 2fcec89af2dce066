"""References to items of kept responses, which the AI SDK's provider, for one, sends in place of the items."""

import pytest

from jaxserve import load_exact_json
from server.app import get_state
from tests.fake_llm import FakeLLM, Piece
from tests.server.test_responses_store import bearer
from tests.server.test_responses_tools import FUNCTION, calling

ASKED = {"role": "user", "content": "One"}


@pytest.fixture
def make_reasoning_api(make_api):
    def make(*keys):
        pieces = [Piece(reasoning="Hm"), "Yes", *calling("f", '{"a": 1}')]
        llm = FakeLLM(pieces, tool_parser="hermes", reasoning_parser="qwen3", max_model_len=5000)
        return make_api(llm=llm, api_key=keys)

    return make


@pytest.fixture
def reasoning_api(make_reasoning_api):
    return make_reasoning_api("a", "b")


async def respond(api, *items, key="a", **fields):
    return await api.respond(input=[ASKED, *items], tools=[FUNCTION], headers=bearer(key), **fields)


def refer(item, **more):
    return {"type": "item_reference", "id": item["id"], **more}


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}])
async def test_a_reference_stands_for_its_item(reasoning_api, how):
    reply = await respond(reasoning_api, **how)
    response = reply.named_events[-1]["response"] if how.get("stream") else reply.json
    while response["status"] != "completed":
        response = (await reasoning_api.get(f"/v1/responses/{response['id']}", headers=bearer("a"))).json
    thought, said, call = response["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    rendered = []
    for items in ([thought, said, call], [refer(thought), {"id": said["id"]}, call], map(refer, response["output"])):
        assert (await respond(reasoning_api, *items, output)).status == 200
        rendered.append(reasoning_api.llm.rendered[-1]["messages"])
    assert rendered[0] == rendered[1] == rendered[2]
    assert rendered[0][1]["reasoning"] == "Hm"


async def test_what_is_kept_of_a_reference_is_its_item(make_reasoning_api):
    api = make_reasoning_api()
    thought, *_ = (await respond(api)).json["output"]
    response = (await respond(api, refer(thought))).json
    entry = get_state(api.app).responses.get("", response["id"], "id")
    _, kept = load_exact_json(*entry.items)
    assert kept["content"] == [{"type": "reasoning_text", "text": "Hm"}]


async def refusal(api, *items, **how):
    reply = await respond(api, *items, **how)
    assert (reply.status, reply.error["param"]) == (400, "input")
    return reply.error["message"]


async def test_an_item_that_is_not_kept_is_named(reasoning_api):
    response = (await respond(reasoning_api)).json
    thought, *_ = response["output"]
    assert "input[1].id must be" in await refusal(reasoning_api, refer(thought), key="b")
    assert "input[1].id must be" in await refusal(reasoning_api, {"type": "item_reference", "id": 7})
    assert "input[1].id must be" in await refusal(reasoning_api, {"type": "item_reference"})
    await reasoning_api.call("DELETE", f"/v1/responses/{response['id']}", headers=bearer("a"))
    assert "input[1].id must be" in await refusal(reasoning_api, refer(thought))
    unkept, *_ = (await respond(reasoning_api, store=False)).json["output"]
    assert "input[1].id must be" in await refusal(reasoning_api, refer(unkept))


async def test_an_item_is_named_once(reasoning_api):
    thought, *_ = (await respond(reasoning_api)).json["output"]
    assert "input[2].id names" in await refusal(reasoning_api, refer(thought), refer(thought))


async def test_nothing_is_left_of_responses_that_are_forgotten(reasoning_api):
    store = get_state(reasoning_api.app).responses
    ids = [(await respond(reasoning_api, background=how)).json["id"] for how in (False, True)]
    await reasoning_api.llm.wait_until(lambda llm: llm.ends["finished"] == 2)
    for response_id in ids:
        await reasoning_api.call("DELETE", f"/v1/responses/{response_id}", headers=bearer("a"))
    assert not store._by_item_id, "its index is not bounded"
