"""Several conversations, kept in the browser: found again, renamed, exported, deleted, bounded."""

import json
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from server.assets import PAGE_FOLDER
from tests.browser import PHONE, Page
from tests.fake_openai import FakeOpenAI

STORE = (PAGE_FOLDER / "assets" / "store.js").read_text(encoding="utf-8")


def talk(page: Page, *questions: str) -> None:
    """Each in a conversation of its own."""
    for question in questions:
        page.one("#new").click()
        page.say(question)
        page.until_answered(1)


def titles(page: Page) -> list[str]:
    return page.texts("#conversations .title")


def row_action(page: Page, name: str) -> None:
    """Of the first conversation in the list, by keyboard: the buttons show on focus."""
    button = page.one(f"#conversations .{name}")
    page.execute_script("arguments[0].focus()", button)
    page.press(Keys.ENTER)


def test_the_conversation_continues_and_survives_a_reload(page: Page, server: FakeOpenAI) -> None:
    page.say("One")
    page.until_answered(1)
    page.refresh()
    page.until_ready()
    assert page.texts(".bubble") == ["One"]
    page.say("Two")
    page.until_answered(2)
    assert [message["role"] for message in server.chats[1]["messages"]] == ["user", "assistant", "user"]


def test_each_conversation_is_found_again(page: Page, server: FakeOpenAI) -> None:
    talk(page, "One", "Two")
    assert [message["content"] for message in server.chats[1]["messages"]] == ["Two"]
    assert titles(page) == ["Two", "One"]
    page.find_elements("css selector", "#conversations .title")[1].click()
    assert page.texts(".bubble") == ["One"]
    page.say("More")
    page.until_answered(2)
    assert titles(page) == ["One", "Two"]


def test_a_conversation_gets_another_name(page: Page) -> None:
    talk(page, "One")
    row_action(page, "edit")
    page.press(Keys.CONTROL, "a", Keys.NULL, "A better name", Keys.ENTER)
    page.until(lambda: titles(page) == ["A better name"])
    page.refresh()
    page.until_ready()
    assert titles(page) == ["A better name"]


def test_a_name_is_left_alone_with_escape(page: Page) -> None:
    talk(page, "One")
    row_action(page, "edit")
    page.press("Other", Keys.ESCAPE)
    page.until(lambda: titles(page) == ["One"])


def test_a_deleted_conversation_is_gone_and_can_be_brought_back(page: Page) -> None:
    talk(page, "One", "Two")
    row_action(page, "bin")
    assert titles(page) == ["One"] and page.texts(".bubble") == []
    page.one("#toast .small").click()
    assert titles(page) == ["Two", "One"] and page.texts(".bubble") == ["Two"]
    row_action(page, "bin")
    page.refresh()
    page.until_ready()
    assert titles(page) == ["One"]


def test_an_export_is_a_request(page: Page, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    talk(page, "What is this?")
    row_action(page, "save")
    file = tmp_path / "What-is-this-.json"
    page.until(file.is_file)
    body = json.loads(file.read_text(encoding="utf-8"))
    assert (body["model"], body["max_tokens"]) == ("fake-model", 1024)
    assert [message["content"] for message in body["messages"]] == ["What is this?", "The sky is **blue**, mostly."]


def test_another_conversation_ends_the_answer_and_keeps_what_has_come(page: Page, server: FakeOpenAI) -> None:
    server.hold_after = 1
    page.say("Why?")
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    page.one("#new").click()
    assert page.texts("article") == []
    page.one("#conversations .title").click()
    assert page.texts(".assistant .text") == ["The sky"] and page.texts(".note") == ["You stopped this answer."]


def test_the_oldest_conversations_make_room(page: Page) -> None:
    limit = int(STORE.partition("MAX_CONVERSATIONS = ")[2].partition(";")[0])
    page.execute_script(
        """for (let at = 0; at < arguments[0]; at += 1) {
          const id = "old" + at, messages = [{role: "user", content: "x"}];
          localStorage.setItem("jaxserve.chat." + id, JSON.stringify(
            {id, title: "Old " + at, updated: at, messages, firstSeen: 0}));
        }""",
        limit,
    )
    page.refresh()
    page.until_ready()
    talk(page, "New")
    assert len(titles(page)) == limit and titles(page)[0] == "New" and "Old 0" not in titles(page)
    assert page.texts("#toast span") == ["Forgotten to make room: Old 0."]


def test_without_storage_the_page_talks_all_the_same(page: Page) -> None:
    page.execute_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }")
    page.say("Why?")
    page.until_answered(1)
    assert page.texts(".assistant .text") == ["The sky is blue, mostly."]
    assert page.texts("#toast span")[0].startswith("This browser has no room for this conversation")


def test_on_a_phone_the_conversations_are_in_a_drawer(page: Page) -> None:
    talk(page, "One", "Two")
    page.resize(*PHONE)
    assert not page.one("#conversations").is_displayed()
    page.one("#open-drawer").click()
    page.find_elements("css selector", "#conversations .title")[1].click()
    assert page.texts(".bubble") == ["One"]
    assert not page.one("#drawer").is_displayed()
