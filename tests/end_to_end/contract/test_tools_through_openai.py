"""Tools through the OpenAI SDK on a model whose calls are known: chosen, required and named, whole and streamed."""

import json

import openai
import pytest

from tests.end_to_end.contract.api_client import HELLO
from tests.end_to_end.contract.checked_replies import CALL, NAMED, TIME, WEATHER

pytestmark = pytest.mark.assets

MADE = {"structured_outputs": {"choice": [CALL]}}  # what the model chooses is chosen for it
CHOICES = {
    "auto": ({"tool_choice": "auto", "extra_body": MADE}, "get_weather", "tool_calls"),
    "required": ({"tool_choice": "required", "parallel_tool_calls": False}, None, "tool_calls"),
    "named": ({"tool_choice": NAMED}, "get_time", "stop"),
}


@pytest.fixture(scope="module")
def client(mind):
    with openai.OpenAI(base_url=f"{mind.http.base_url}/v1", api_key="none") as client:
        yield client


@pytest.mark.parametrize("choice", CHOICES)
def test_a_streamed_call_is_the_whole_one(client, choice):
    wishes, name, reason = CHOICES[choice]
    model = client.models.list().data[0].id
    how = {"model": model, "messages": HELLO, "tools": [WEATHER, TIME], "max_tokens": 150, "seed": 1, **wishes}
    how["extra_body"] = wishes.get("extra_body", {}) | {"chat_template_kwargs": {"enable_thinking": False}}
    whole = client.chat.completions.create(**how).choices[0]
    [call] = whole.message.tool_calls
    assert whole.finish_reason == reason and name in (None, call.function.name)
    assert json.loads(call.function.arguments).keys() <= {"city", "days", "zone"}
    with client.chat.completions.stream(**how) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        streamed = events.get_final_completion().choices[0]
    [same] = streamed.message.tool_calls
    assert (same.function.name, same.function.arguments) == (call.function.name, call.function.arguments)
    assert streamed.finish_reason == reason
    assert [event.arguments for event in done] == [call.function.arguments]
