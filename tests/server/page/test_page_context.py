"""A conversation that has grown beyond the model's context goes on, without its oldest turns."""

import pytest

from tests.browser import Page
from tests.fake_openai import FakeOpenAI

LONG = "word " * 30


@pytest.fixture
def page(page: Page, server: FakeOpenAI) -> Page:
    """A model of 100 tokens; the fake's tokens are words."""
    server.card = {"id": "small", "max_model_len": 100}
    page.visit(server.url)
    return page


def test_oldest_turns_are_left_out_with_a_note_and_the_talk_goes_on(page: Page, server: FakeOpenAI) -> None:
    for number in range(1, 6):
        page.say(f"{number} {LONG}")
        page.until_answered(number)
    assert len(page.texts(".bubble")) == 5
    asked = [message["content"].split()[0] for message in server.chats[-1]["messages"] if message["role"] == "user"]
    assert asked == ["4", "5"] or asked == ["5"]
    assert page.texts(".problem") == []
    [note] = page.texts(".dropped")
    assert note == "The model no longer sees what stands above: its context of 100 tokens is full."


def test_what_is_sent_always_fits_with_the_answer(page: Page, server: FakeOpenAI) -> None:
    page.configure(system="be brief " * 5)
    for number in range(1, 8):
        page.say(f"{number} {LONG}")
        page.until_answered(number)
    for chat in server.chats:
        assert chat["messages"][0]["role"] == "system" and chat["messages"][-1]["role"] == "user"
        assert sum(len(message["content"].split()) for message in chat["messages"]) <= 75


def test_the_note_stays_after_a_reload(page: Page) -> None:
    for number in range(1, 4):
        page.say(f"{number} {LONG}")
        page.until_answered(number)
    page.refresh()
    page.until_ready()
    assert len(page.texts(".dropped")) == 1


def test_a_model_that_sees_more_is_sent_it_all(page: Page, server: FakeOpenAI) -> None:
    for number in range(1, 4):
        page.say(f"{number} {LONG}")
        page.until_answered(number)
    server.card = {"id": "large", "max_model_len": 4096}
    page.visit(server.url)
    page.say("And now?")
    page.until_answered(4)
    assert len(server.chats[-1]["messages"]) == 7 and page.texts(".dropped") == []


def test_the_longest_answer_is_no_longer_than_the_context(page: Page, server: FakeOpenAI) -> None:
    page.say("Why?")
    page.until_answered(1)
    assert server.chats[0]["max_tokens"] == 100


def test_a_question_that_alone_is_too_long_says_how_long_it_is(page: Page, server: FakeOpenAI) -> None:
    page.fill("#prompt", "word " * 150)
    page.one("#send").click()
    page.until(lambda: page.texts(".problem"))
    assert "150 tokens, and the model can hold 100" in page.texts(".problem")[0]
    assert server.chats == []


def test_an_answer_cut_by_the_context_says_so(page: Page, server: FakeOpenAI) -> None:
    server.finish_reason, server.unseen_tokens = "length", 96
    page.say("Why?")
    page.until_answered(1)
    assert page.texts(".note") == ["Cut off: the context of 100 tokens is full."]


def test_a_short_conversation_asks_for_no_count(page: Page, server: FakeOpenAI) -> None:
    server.card = {"id": "large", "max_model_len": 4096}
    page.visit(server.url)
    page.say("Why?")
    page.until_answered(1)
    assert not [url for url in page.requested_urls() if url.endswith("/tokenize")]
