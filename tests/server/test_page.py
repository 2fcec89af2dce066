"""The chat page in headless Chromium, against a server that says what it was told."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser import PHONE, Page, open_page
from tests.fake_openai import PAGE, FakeOpenAI


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI("The sky ", "is **blue**", ", mostly.") as server:
        yield server


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Page]:
    with FakeOpenAI() as nobody, open_page(nobody.url) as page:
        yield page


@pytest.fixture
def page(one_browser: Page, server: FakeOpenAI) -> Page:
    """The page at this test's server. Every server has a port, so an origin, so a storage of its own."""
    one_browser.resize(1100, 800)
    one_browser.get(server.url)
    one_browser.until(lambda: one_browser.title)
    one_browser.complaints()
    one_browser.requested_urls()
    return one_browser


def test_a_question_gets_its_answer(page: Page) -> None:
    page.say("Why is the sky blue?")
    page.until_answered(1)
    assert page.texts(".user") == ["Why is the sky blue?"]
    assert page.texts(".assistant .text") == ["The sky is blue, mostly."]
    assert page.texts(".assistant strong") == ["blue"]
    assert page.complaints() == []


def test_text_is_seen_while_it_comes_and_then_its_speed(page: Page, server: FakeOpenAI) -> None:
    server.hold_after = 1
    page.say("Why?")
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    server.gate.set()
    page.until_answered(1)
    stats = page.one(".stats").text
    assert stats.startswith("3 tokens · ") and "tokens/s · first after " in stats


def test_reasoning_is_folded_above_the_answer_and_no_part_of_the_talk(page: Page, server: FakeOpenAI) -> None:
    server.thoughts, server.hold_after = ("Blue, ", "I think."), 1
    page.say("Why?")
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    assert page.texts(".assistant .thinking summary") == ["Thoughts"]
    assert not page.one(".thinking div").is_displayed()
    server.gate.set()
    page.until_answered(1)
    page.one(".thinking summary").click()
    assert page.texts(".thinking div") == ["Blue, I think."]
    assert page.texts(".assistant .text") == ["The sky is blue, mostly."]
    server.thoughts, server.hold_after = (), None
    page.say("And now?")
    page.until_answered(2)
    assert [message["content"] for message in server.chats[1]["messages"]][1] == "The sky is **blue**, mostly."
    assert page.texts(".thinking summary") == ["Thoughts"]


def test_stop_ends_the_answer_and_the_talk_goes_on(page: Page, server: FakeOpenAI) -> None:
    server.words, server.hold_after = ("Once ", "upon ", *["a time "] * 2000), 2
    page.say("Tell me a story")
    page.until(lambda: page.texts(".busy .text") == ["Once upon"])
    assert page.one("#send").get_attribute("aria-label") == "Stop"
    page.one("#send").click()
    page.until_answered(1)
    server.gate.set()
    assert server.hung_up.wait(20)
    assert "2 tokens" in page.one(".stats").text and "stopped" in page.one(".stats").text
    server.words, server.hold_after = ("And then?",), None
    page.say("Go on")
    page.until_answered(2)
    assert [message["content"] for message in server.chats[1]["messages"]] == ["Tell me a story", "Once upon ", "Go on"]


def test_the_conversation_continues_survives_a_reload_and_can_be_left(page: Page, server: FakeOpenAI) -> None:
    page.say("One")
    page.until_answered(1)
    page.refresh()
    assert page.texts(".user") == ["One"]
    page.say("Two")
    page.until_answered(2)
    roles = [message["role"] for message in server.chats[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    page.one("#new").click()
    assert page.texts(".user") == []
    page.say("Three")
    page.until_answered(1)
    assert [message["content"] for message in server.chats[2]["messages"]] == ["Three"]


def test_an_answer_can_be_asked_for_again(page: Page, server: FakeOpenAI) -> None:
    page.say("One")
    page.until_answered(1)
    server.words = ("Otherwise.",)
    page.one(".again").click()
    page.until(lambda: page.texts(".assistant .text") == ["Otherwise."])
    assert server.chats[0]["messages"] == server.chats[1]["messages"]


def test_settings_reach_the_request_and_nothing_else_does(page: Page, server: FakeOpenAI) -> None:
    page.say("Plain")
    page.until_answered(1)
    assert set(server.chats[0]) == {"messages", "stream", "stream_options"}
    wishes = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7, "max_tokens": 3}
    page.one("#open-settings").click()
    page.one("[name=system]").send_keys("Be brief.")
    for name, value in wishes.items():
        page.one(f"[name={name}]").send_keys(str(value))
    page.one("#close-settings").click()
    page.say("Styled")
    page.until_answered(2)
    assert {name: server.chats[1][name] for name in wishes} == wishes
    assert server.chats[1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "cut off" in page.texts(".stats")[-1]


def test_what_the_model_says_is_text_never_markup(page: Page, server: FakeOpenAI) -> None:
    server.words = (
        "<img src=x onerror='document.title=1'> <script>document.title=1</script> [a](javascript:alert(1))",
    )
    page.say("Be wicked")
    page.until_answered(1)
    assert page.texts(".text")[0] == server.words[0]
    assert page.texts(".text img, .text script, .text a") == []
    assert page.title == "jaxserve"


def test_markdown_becomes_elements(page: Page, server: FakeOpenAI) -> None:
    code = "```python\nif a < b:\n    print('*not bold*')\n```\n"
    rest = "# Title\n\n1. one\n   - inner\n2. two `code`\n\n> said\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nhttps://example.org."
    server.words = tuple(code + rest)  # one character at a time: every half-finished state is rendered
    page.say("Show me everything")
    page.until_answered(1)
    assert page.texts(".code pre") == ["if a < b:\n    print('*not bold*')"]
    assert page.texts(".text h3, .text blockquote, .text p a") == ["Title", "said", "https://example.org"]
    assert page.texts(".text ol > li > ul > li") == ["inner"]
    assert page.texts(".text li > code") == ["code"]
    assert page.texts(".text td") == ["1", "2"]


@pytest.mark.parametrize("broken", [True, False])
def test_errors_are_told_kindly_and_can_be_tried_again(page: Page, server: FakeOpenAI, broken: bool) -> None:
    server.breaks_off, server.refusal = broken, None if broken else (503, "Too many requests are waiting.")
    page.say("Hello")
    page.until(lambda: page.texts(".problem"))
    assert page.texts(".problem") == ["the engine has ended" if broken else "Too many requests are waiting."]
    server.breaks_off, server.refusal = False, None
    page.one(".again").click()
    page.until(lambda: page.texts(".assistant .text") == ["The sky is blue, mostly."])
    assert page.texts(".problem") == []


def test_a_closed_server_asks_for_its_key(page: Page, server: FakeOpenAI) -> None:
    server.api_key = "open sesame"
    page.refresh()
    page.until(lambda: page.one("[name=key]").is_displayed())
    page.one("[name=key]").send_keys("open sesame", Keys.ENTER)
    page.until(lambda: page.texts("#model") == ["fake-model"])
    page.say("Hello")
    page.until_answered(1)
    assert page.texts(".problem") == []


def test_a_phone_shows_it_all_without_scrolling_sideways(page: Page, server: FakeOpenAI) -> None:
    page.resize(*PHONE)
    server.words = (
        "x" * 500 + "\n\n```\n" + "long line " * 60 + "\n```\n\n|" + "a column|" * 30 + "\n|" + "---|" * 30,
    )
    assert not page.has_sideways_scroll()
    page.say("A very long question " + "y" * 300)
    page.until_answered(1)
    assert not page.has_sideways_scroll()
    page.one("#open-settings").click()
    page.until(lambda: (page.one("#settings").rect["x"], page.one("#settings").rect["width"]) == (0, PHONE[0]))
    assert not page.has_sideways_scroll()


def test_nothing_is_fetched_from_anywhere_else(page: Page, server: FakeOpenAI) -> None:
    page.refresh()
    page.say("Hello")
    page.until_answered(1)
    hosts = {urlsplit(url).netloc for url in page.requested_urls() if not url.startswith("data:")}
    assert hosts == {urlsplit(server.url).netloc}


def test_the_page_is_one_file_that_names_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "src=" not in text and "@import" not in text and "innerHTML" not in text
