"""Questions and answers on the chat page: what is asked, what is shown, what goes wrong."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser import Page
from tests.fake_openai import FakeOpenAI


def said(chat: dict) -> list[str]:
    return [message["content"] for message in chat["messages"]]


def test_a_question_gets_its_answer(page: Page) -> None:
    page.say("Why is the sky blue?")
    page.until_answered(1)
    assert page.texts(".bubble") == ["Why is the sky blue?"]
    assert page.texts(".assistant .text") == ["The sky is blue, mostly."]
    assert page.texts(".assistant strong") == ["blue"]
    assert page.complaints() == []


def test_text_is_seen_while_it_comes_and_then_its_speed(page: Page, server: FakeOpenAI) -> None:
    server.hold_after = 1
    page.say("Why?")
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    server.resume.set()
    page.until_answered(1)
    stats = page.one(".stats").text
    assert stats.startswith("3 tokens · ") and "tokens/s · first after " in stats


def test_reasoning_is_folded_above_the_answer_and_no_part_of_the_talk(page: Page, server: FakeOpenAI) -> None:
    server.thoughts, server.hold_after = ("Blue, ", "I think."), 1
    page.say("Why?")
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    assert page.texts(".assistant .thinking summary") == ["Reasoning"]
    assert not page.one(".thinking div").is_displayed()
    server.resume.set()
    page.until_answered(1)
    page.one(".thinking summary").click()
    assert page.texts(".thinking div") == ["Blue, I think."]
    assert page.texts(".assistant .text") == ["The sky is blue, mostly."]
    server.thoughts, server.hold_after = (), None
    page.say("And now?")
    page.until_answered(2)
    assert said(server.chats[1])[1] == "The sky is **blue**, mostly."


def test_stop_ends_the_answer_and_the_talk_goes_on(page: Page, server: FakeOpenAI) -> None:
    server.words, server.hold_after = ("Once ", "upon ", *["a time "] * 2000), 2
    page.say("Tell me a story")
    page.until(lambda: page.texts(".busy .text") == ["Once upon"])
    assert page.one("#send").get_attribute("aria-label") == "Stop"
    page.one("#send").click()
    page.until_answered(1)
    server.resume.set()
    assert server.hung_up.wait(20)
    assert "2 tokens" in page.one(".stats").text and page.texts(".note") == ["You stopped this answer."]
    server.words, server.hold_after = ("And then?",), None
    page.say("Go on")
    page.until_answered(2)
    assert said(server.chats[1]) == ["Tell me a story", "Once upon ", "Go on"]


def test_any_answer_can_be_asked_for_again_and_what_goes_with_it_comes_back(page: Page, server: FakeOpenAI) -> None:
    for number, question in enumerate(("One", "Two"), 1):
        page.say(question)
        page.until_answered(number)
    server.words = ("Otherwise.",)
    page.one(".assistant .again").click()
    page.until(lambda: page.texts(".assistant .text") == ["Otherwise."])
    assert server.chats[2]["messages"] == server.chats[0]["messages"]
    assert page.texts("#toast span") == ["2 later messages taken out."]
    page.one("#toast .small").click()
    page.until(lambda: page.texts(".bubble") == ["One", "Two"])


def test_any_question_can_be_edited(page: Page, server: FakeOpenAI) -> None:
    for number, question in enumerate(("One", "Two"), 1):
        page.say(question)
        page.until_answered(number)
    page.one(".user .edit").click()
    assert page.focused() == "Edit the message"
    page.press(" more", Keys.CONTROL + Keys.ENTER)
    page.until_answered(1)
    assert page.texts(".bubble") == ["One more"]
    assert said(server.chats[2]) == ["One more"]


def test_editing_can_be_left_with_escape(page: Page) -> None:
    page.say("One")
    page.until_answered(1)
    page.one(".user .edit").click()
    page.press("no", Keys.ESCAPE)
    assert page.texts(".bubble") == ["One"]
    assert page.focused() == "Edit"


def test_an_answer_can_be_edited_and_the_model_believes_it(page: Page, server: FakeOpenAI) -> None:
    page.say("One")
    page.until_answered(1)
    page.one(".assistant .edit").click()
    page.fill(".assistant .editor textarea", "It is green.")
    page.one(".assistant .editor .done").click()
    assert page.texts(".assistant .text") == ["It is green."]
    page.say("Two")
    page.until_answered(2)
    assert said(server.chats[1]) == ["One", "It is green.", "Two"]


@pytest.mark.parametrize("broken", [True, False])
def test_errors_are_told_kindly_and_can_be_tried_again(page: Page, server: FakeOpenAI, broken: bool) -> None:
    server.breaks_off, server.refusal = broken, None if broken else (503, "Too many requests are waiting.")
    page.say("Hello")
    page.until(lambda: page.texts(".problem"))
    assert page.texts(".problem") == ["the engine has ended" if broken else "Too many requests are waiting."]
    server.breaks_off, server.refusal = False, None
    page.one(".assistant .again").click()
    page.until(lambda: page.texts(".assistant .text") == ["The sky is blue, mostly."])
    assert page.texts(".problem") == []


def test_a_refusal_of_a_setting_leads_to_the_setting_with_its_reason(page: Page, server: FakeOpenAI) -> None:
    server.refusal, server.param = (400, "max_tokens is 9000 and cannot be greater than 4096."), "max_tokens"
    page.say("Hello")
    page.until(lambda: page.texts(".problem"))
    page.one(".problem .small").click()
    assert page.texts("#wrong-max_tokens") == ["max_tokens is 9000 and cannot be greater than 4096."]
    assert page.one("#set-max_tokens") == page.switch_to.active_element


def test_a_closed_server_asks_for_its_key(page: Page, server: FakeOpenAI) -> None:
    server.api_key = "open sesame"
    page.refresh()
    page.until(lambda: page.one("[name=key]").is_displayed())
    page.one("[name=key]").send_keys("open sesame", Keys.ENTER)
    page.until(lambda: page.texts("#model") == ["fake-model"])
    page.say("Hello")
    page.until_answered(1)
    assert page.texts(".problem") == []


def test_an_answer_cut_at_the_longest_says_so_and_goes_on(page: Page, server: FakeOpenAI) -> None:
    page.configure(max_tokens="3")
    page.say("Why?")
    page.until_answered(1)
    assert page.texts(".note")[0].startswith("Cut off: it reached the longest answer, 3 tokens.")
    server.words = (" Yes",)
    page.one(".continue").click()
    page.until(lambda: page.texts(".assistant .text") == ["The sky is blue, mostly. Yes"])
    assert server.chats[1]["continue_final_message"] is True and server.chats[1]["add_generation_prompt"] is False
    assert said(server.chats[1]) == ["Why?", "The sky is **blue**, mostly."]


def test_an_answer_that_went_in_circles_says_so(page: Page, server: FakeOpenAI) -> None:
    server.finish_reason = "repetition"
    page.say("Why?")
    page.until_answered(1)
    assert page.texts(".note")[0].startswith("Stopped: the answer began to repeat itself.")
    assert set(server.chats[0]["repetition_detection"]) == {"min_pattern_size", "max_pattern_size", "min_count"}


def test_an_idea_is_asked_greedily_unless_a_temperature_is_set(page: Page, server: FakeOpenAI) -> None:
    idea = page.texts("#ideas button")[0]
    page.one("#ideas button").click()
    page.until_answered(1)
    assert (said(server.chats[0]), server.chats[0]["temperature"]) == ([idea], 0)
    page.one("#new").click()
    page.configure(temperature="0.5")
    page.one("#ideas button").click()
    page.until_answered(1)
    assert server.chats[1]["temperature"] == 0.5


def test_a_screen_reader_is_told_when_the_answer_is_complete(page: Page) -> None:
    page.say("Why?")
    page.until_answered(1)
    assert page.execute_script("return document.getElementById('status').textContent").startswith(
        "The answer is complete. The sky is"
    )
