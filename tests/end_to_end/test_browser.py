"""The chat page in Chromium with a real server and engine. The tiny model writes noise; only that it writes matters."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.browser import Page, open_page
from tests.end_to_end.running_server import RunningServer

STOP_WHEN_SPEAKING = """
const watcher = new MutationObserver(() => {
  if (document.querySelector(".busy .stats")) { watcher.disconnect(); document.querySelector("#send").click(); }
});
watcher.observe(document.querySelector("#messages"), { childList: true, subtree: true });"""  # the tiny model is quick


@pytest.fixture
def page(server: RunningServer) -> Iterator[Page]:
    with open_page(server.url + "/") as page:
        page.until(lambda: page.texts("#model") != [""])
        yield page


def settings(page: Page, **values: object) -> None:
    page.one("#open-settings").click()
    for name, value in values.items():
        page.one(f"[name={name}]").clear()
        page.one(f"[name={name}]").send_keys(str(value))
    page.one("#close-settings").click()


def test_a_conversation_is_held_and_the_settings_hold(page: Page, server: RunningServer) -> None:
    settings(page, temperature=1, seed=7, max_tokens=12)
    page.say("Hello")
    page.until_answered(1)
    assert page.one(".stats").text.startswith("12 tokens · ")
    page.one("#new").click()
    before = page.texts(".text")
    page.say("Hello")
    page.until_answered(1)
    again = page.texts(".text")
    page.say("And now?")
    page.until_answered(2)
    assert (before, page.texts(".text")[0], page.texts(".problem")) == ([], again[0], [])
    hosts = {urlsplit(url).netloc for url in page.requested_urls() if url.startswith("http")}
    assert hosts == {urlsplit(server.url).netloc}


def test_an_answer_can_be_stopped(page: Page) -> None:
    settings(page, temperature=1, seed=2)
    page.execute_script(STOP_WHEN_SPEAKING)
    page.say("Tell me everything")
    page.until_answered(1)
    assert page.texts(".note") == ["You stopped this answer."]
    settings(page, max_tokens=3)
    page.say("Go on")
    page.until_answered(2)
    assert page.texts(".problem") == []


def test_a_conversation_that_is_too_long_is_refused_in_words(page: Page) -> None:
    page.say("x" * 2000)
    page.until(lambda: page.texts(".problem"))
    assert "512" in page.texts(".problem")[0]
