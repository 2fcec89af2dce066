"""How the chat page looks and is led: phones and wide windows, light and dark, the keyboard alone."""

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser import PHONE, Page
from tests.fake_openai import FakeOpenAI

WIDE = (
    "x" * 500
    + "\n\n```\n"
    + "long line " * 60
    + "\n```\n\n|"
    + "a column|" * 30
    + "\n|"
    + "---|" * 30
    + "\n\n$$"
    + "x+" * 200
    + "1$$"
)
TABLE = "| Country | Internationalization |\n|---|---|\n| Liechtenstein | straightforwardly incomprehensible |"


@pytest.mark.parametrize("size", [PHONE, (1280, 800)])
def test_it_all_shows_without_scrolling_sideways(page: Page, server: FakeOpenAI, size: tuple[int, int]) -> None:
    page.resize(*size)
    server.words = (WIDE,)
    assert not page.has_sideways_scroll()
    page.say("A very long question " + "y" * 300)
    page.until_answered(1)
    assert not page.has_sideways_scroll()
    overflows = "const view = document.getElementById('view'); return view.scrollWidth > view.clientWidth"
    assert not page.execute_script(overflows)
    page.one("#open-settings").click()
    assert not page.has_sideways_scroll()


def test_a_table_on_a_phone_breaks_no_words(page: Page, server: FakeOpenAI) -> None:
    page.resize(*PHONE)
    server.words = (TABLE,)
    page.say("A table")
    page.until_answered(1)
    lines = """return [...document.querySelectorAll("th, td")].map((cell) => {
      const range = document.createRange(); range.selectNodeContents(cell);
      return [cell.textContent.split(" ").length, new Set([...range.getClientRects()].map((box) => box.top)).size];
    })"""
    assert all(num_lines <= num_words for num_words, num_lines in page.execute_script(lines))


def test_the_theme_is_the_systems_until_one_is_chosen(page: Page) -> None:
    light = page.style("body", "backgroundColor")
    page.prefer("dark")
    dark = page.style("body", "backgroundColor")
    assert light != dark
    assert page.one("#theme").get_attribute("aria-label") == "Theme: automatic"
    page.one("#theme").click()
    assert page.one("#theme").get_attribute("aria-label") == "Theme: light"
    assert page.style("body", "backgroundColor") == light
    page.refresh()
    page.until_ready()
    assert page.style("body", "backgroundColor") == light
    page.one("#theme").click()
    page.prefer("light")
    assert page.style("body", "backgroundColor") == dark


def test_a_talk_with_the_keyboard_alone(page: Page, server: FakeOpenAI) -> None:
    server.hold_after = 1
    page.press("Why?", Keys.ENTER)
    page.until(lambda: page.texts(".busy .text") == ["The sky"])
    page.press(Keys.ESCAPE)
    page.until_answered(1)
    server.resume.set()
    server.hold_after = None
    focused = []
    while "Retry" not in focused:
        page.press(Keys.SHIFT + Keys.TAB)
        focused.append(page.focused())
    page.press(Keys.ENTER)
    page.until(lambda: page.texts(".assistant .text") == ["The sky is blue, mostly."])
    assert page.focused() == "Send"


def test_every_control_is_reached_by_tab_shows_its_focus_and_has_a_name(page: Page) -> None:
    page.say("Why?")
    page.until_answered(1)
    page.execute_script("document.activeElement.blur()")
    names, unseen = [], []
    for _ in range(40):
        page.press(Keys.TAB)
        if not page.focused():
            continue  # beyond the page's end, before its beginning
        names.append(page.focused())
        outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        if outline != "solid":
            unseen.append(names[-1])
        if names[-1] == "Send":
            break
    assert {"To the message box", "New chat", "Why?", "Rename Why?", "Delete Why?"} <= set(names)
    assert {"API documentation", "Settings", "Theme: automatic", "Edit", "Retry", "Your message", "Send"} <= set(names)
    assert unseen == ["Your message"]  # the frame around the message box shows it


def test_settings_give_the_focus_back(page: Page) -> None:
    page.execute_script("document.getElementById('open-settings').focus()")
    page.press(Keys.ENTER)
    page.until(lambda: page.one("#settings").is_displayed())
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.one("#settings").is_displayed())
    assert page.focused() == "Settings"


def test_the_documentation_is_linked(page: Page, server: FakeOpenAI) -> None:
    assert page.one(".docs").get_attribute("href") == server.url + "/docs"
