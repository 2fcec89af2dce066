"""The settings of the chat page: what reaches the request, and what becomes of a wrong one."""

import json

import pytest

from jaxserve import DEFAULT_MODEL
from tests.browser import Page
from tests.fake_openai import FakeOpenAI

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def test_settings_reach_the_request_and_nothing_else_does(page: Page, server: FakeOpenAI) -> None:
    page.say("Plain")
    page.until_answered(1)
    always = {"messages", "stream", "stream_options", "max_tokens", "repetition_detection"}
    assert set(server.chats[0]) == always and server.chats[0]["max_tokens"] == 1024
    wishes = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "seed": 7}
    page.configure(system="Be brief.", max_tokens="8", **{name: str(value) for name, value in wishes.items()})
    page.say("Styled")
    page.until_answered(2)
    assert {name: server.chats[1][name] for name in wishes} == wishes and server.chats[1]["max_tokens"] == 8
    assert server.chats[1]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_an_answer_may_be_let_go_in_circles(page: Page, server: FakeOpenAI) -> None:
    page.one("#open-settings").click()
    page.one("[name=stops_repeating]").click()
    page.one("#close-settings").click()
    page.say("Why?")
    page.until_answered(1)
    assert "repetition_detection" not in server.chats[0]


@pytest.mark.parametrize("own", [{}, {"temperature": 0.3}])
def test_a_model_without_sampling_metadata_gets_the_pages(page: Page, server: FakeOpenAI, own: dict) -> None:
    server.card = {"id": "bare", "max_model_len": 4096, "default_sampling_params": own}
    page.visit(server.url)
    page.say("Why?")
    page.until_answered(1)
    assert {"temperature", "top_p"} & set(server.chats[0]) == (set() if own else {"temperature", "top_p"})
    page.one("#open-settings").click()
    shown = page.one("#set-temperature").get_attribute("placeholder")
    assert float(shown or "") == own.get("temperature", server.chats[0].get("temperature"))


@pytest.mark.parametrize(("own", "sent"), [({"temperature": 0.2}, 1.1), ({"repetition_penalty": 1.3}, None)])
def test_the_default_model_gets_what_was_measured_for_it(
    page: Page, server: FakeOpenAI, own: dict, sent: float
) -> None:
    server.card = {"id": DEFAULT_MODEL, "max_model_len": 4096, "default_sampling_params": own}
    page.visit(server.url)
    page.say("Why?")
    page.until_answered(1)
    assert server.chats[0].get("repetition_penalty") == sent


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("temperature", "hot", "This must be a number, not “hot”."),
        ("temperature", "2.5", "This must be at most 2, not 2.5."),
        ("top_p", "0", "This must be greater than 0, not 0."),
        ("top_k", "1.5", "This must be a whole number, not 1.5."),
        ("max_tokens", "0", "This must be at least 1, not 0."),
        ("tools", "[{", "This is not JSON"),
        ("tools", "{}", "This must be a JSON array of at least one tool"),
        ("tools", '[{"name": "f"}]', 'Tool 1 must have "type": "function" and an object "function".'),
        ("tools", json.dumps([WEATHER, WEATHER]), "Tool 2 has the name get_weather, which an earlier tool has, too."),
        ("tool_choice", "required", "required needs tools"),
        ("response_format", "[]", "This must be a JSON Schema, an object."),
    ],
)
def test_a_wrong_setting_is_told_beside_its_field_and_nothing_is_asked(
    page: Page, server: FakeOpenAI, field: str, text: str, reason: str
) -> None:
    page.configure(**{field: text})
    page.say("Hello")
    assert page.texts(f"#wrong-{field}")[0].startswith(reason)
    assert page.one(f"#set-{field}") == page.switch_to.active_element
    assert page.one(f"#set-{field}").get_attribute("aria-invalid") == "true"
    assert server.chats == []
    page.fill(f"#set-{field}", "")
    page.one("#close-settings").click()
    assert page.texts(".chip") == [] and page.one("#prompt").get_attribute("value") == "Hello"
    page.one("#send").click()
    page.until_answered(1)


def test_a_wrong_setting_is_still_there_after_a_reload(page: Page) -> None:
    page.configure(temperature="hot")
    page.refresh()
    page.until_ready()
    assert page.texts(".chip.bad") == ["Temperature: This must be a number, not “hot”."]
    page.one(".chip.bad").click()
    assert page.one("#set-temperature").get_attribute("value") == "hot"
    page.one("#defaults").click()
    assert page.one("#set-temperature").get_attribute("value") == ""


@pytest.mark.parametrize("kept", ['{"temperature": 0.5}', "[]", "7", "{", '"x"'])
def test_whatever_is_kept_the_page_starts(page: Page, server: FakeOpenAI, kept: str) -> None:
    page.execute_script("localStorage.setItem('jaxserve.settings', arguments[0])", kept)
    page.execute_script("localStorage.setItem('jaxserve.chat.x', arguments[0])", kept)
    page.refresh()
    page.until_ready()
    page.say("Why?")
    page.until_answered(1)
    assert server.chats[0].get("temperature") == (0.5 if "0.5" in kept else None)
    page.configure(temperature="1")
    page.say("And now?")
    page.until_answered(2)
    assert server.chats[1]["temperature"] == 1


def test_tools_and_schema_are_sent_and_shown_with_the_answer(page: Page, server: FakeOpenAI) -> None:
    page.configure(tools=json.dumps([WEATHER]), tool_choice="get_weather", response_format=json.dumps(SCHEMA))
    assert page.texts(".chip") == ["Tools: get_weather", "Answers follow a schema"]
    page.say("Why?")
    page.until_answered(1)
    chat = server.chats[0]
    assert chat["tools"] == [WEATHER]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert page.texts(".asked summary") == [
        "Asked with 1 tool: get_weather (choice: get_weather) and an answer’s schema"
    ]


def test_a_whole_response_format_is_sent_as_it_is(page: Page, server: FakeOpenAI) -> None:
    page.configure(response_format='{"type": "json_object"}')
    page.say("Why?")
    page.until_answered(1)
    assert server.chats[0]["response_format"] == {"type": "json_object"}


def test_calls_have_blocks_of_their_own_and_take_results(page: Page, server: FakeOpenAI) -> None:
    server.words, server.calls = (), (("get_weather", ('{"city": ', '"Oslo"}')), ("get_time", ("{}",)))
    page.configure(tools=json.dumps([WEATHER]))
    page.say("Weather?")
    page.until_answered(1)
    assert page.texts(".call .block-title") == ["Call of get_weather", "Call of get_time"]
    assert page.texts(".call pre") == ['{\n  "city": "Oslo"\n}', "{}"]
    server.words, server.calls = ("It rains.",), ()
    for box, result in zip(page.find_elements("css selector", ".calls textarea"), ("rain", "noon"), strict=True):
        box.send_keys(result)
    page.one(".calls .done").click()
    page.until_answered(2)
    call = {"id": "call-0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    question, answer, *results = server.chats[1]["messages"]
    assert (question["role"], answer["tool_calls"][0]) == ("user", call)
    assert results == [
        {"role": "tool", "tool_call_id": f"call-{index}", "content": text}
        for index, text in enumerate(("rain", "noon"))
    ]
    assert page.texts(".result .block-title") == ["Result of get_weather", "Result of get_time"]
