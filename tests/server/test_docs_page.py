"""The documentation page in headless Chromium, at the app around a FakeLLM."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys

from jaxserve.models.registry import ARCHITECTURES
from server.openapi.operations import OPERATIONS
from server.routes.docs import DOCS_PAGE
from tests.browser import PHONE, Page, open_page
from tests.fake_llm import FakeLLM
from tests.server.live_server import serve_live


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_page("data:,") as page:
        yield page


async def with_page(
    browser: Page, look: Callable[[Page, str], None], llm: FakeLLM | None = None, **config: Any
) -> None:
    """Opens the page of a server of its own, and looks at it while that serves."""

    def open_and_look(url: str) -> None:
        browser.resize(1100, 800)
        browser.complaints()
        browser.requested_urls()
        browser.get(url + "/docs")
        look(browser, url)

    async with serve_live(llm or FakeLLM(), **config) as live_server:
        await asyncio.to_thread(open_and_look, live_server.url)


async def test_every_route_is_there_and_nothing_comes_from_elsewhere(browser: Page) -> None:
    def look(page: Page, url: str) -> None:
        page.until(lambda: page.texts("section"))
        assert len(page.texts("section")) == len(page.texts("nav a")) == len(OPERATIONS)
        hosts = {urlsplit(asked).netloc for asked in page.requested_urls() if not asked.startswith("data:")}
        assert hosts == {urlsplit(url).netloc}
        assert page.complaints() == []

    switches = {"enable_tokenizer_info_endpoint": True, "enable_debug_endpoints": True, "server_dev_mode": True}
    await with_page(browser, look, **switches, allow_runtime_lora_updating=True)
    await with_page(browser, look, FakeLLM(enable_lora=True), **switches, allow_runtime_lora_updating=True)


async def test_a_request_can_be_tried(browser: Page) -> None:
    def look(page: Page, _: str) -> None:
        page.until(lambda: page.texts("section"))
        page.one("#post_v1_chat_completions .go").click()
        page.until(lambda: "Hello world" in page.texts("#post_v1_chat_completions pre")[0])
        page.one("#get_v1_models_name .go").click()
        page.until(lambda: '"id": "fake/model"' in page.texts("#get_v1_models_name pre")[0])

    await with_page(browser, look)


async def test_the_way_leads_to_the_chat_and_back(browser: Page) -> None:
    def look(page: Page, url: str) -> None:
        page.until(lambda: page.texts("section"))
        page.one("#chat").click()
        page.until_ready()
        assert page.current_url == url + "/"
        page.one("a.docs").click()
        page.until(lambda: page.texts("section"))
        assert page.current_url == url + "/docs"

    await with_page(browser, look)


async def test_a_field_is_found_with_what_becomes_of_it(browser: Page) -> None:
    def look(page: Page, _: str) -> None:
        page.until(lambda: page.texts("section"))
        page.one("#find").send_keys("share of the best")
        [field] = page.texts("#post_v1_chat_completions > .field:not([hidden])")
        assert field.startswith("min_p")
        assert "works" in field and "≤ 1" in field
        assert not page.one("#get_version").is_displayed()

    await with_page(browser, look)


async def test_the_models_that_can_be_served_are_listed(browser: Page) -> None:
    def look(page: Page, _: str) -> None:
        page.until(lambda: page.texts("section"))
        page.one("#families summary").click()
        assert len(page.texts("#families td:nth-child(2)")) == len(ARCHITECTURES)

    await with_page(browser, look)


async def test_a_page_that_is_open_asks_for_the_key_of_the_rest(browser: Page) -> None:
    def look(page: Page, _: str) -> None:
        page.until(lambda: page.one("[name=key]").is_displayed())
        page.one("[name=key]").send_keys("open sesame", Keys.ENTER)
        page.until(lambda: page.texts("section"))
        assert "needs a key" in page.one("#get_v1_models h2").text
        assert "needs a key" not in page.one("#get_health h2").text

    await with_page(browser, look, api_key=("open sesame",), open_paths=("/docs",))


async def test_a_phone_shows_it_without_scrolling_sideways(browser: Page) -> None:
    def look(page: Page, _: str) -> None:
        page.resize(*PHONE)
        page.until(lambda: page.texts("section"))
        page.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not page.has_sideways_scroll()

    await with_page(browser, look)


def test_the_page_is_one_file_that_names_no_other() -> None:
    text = DOCS_PAGE.read_text(encoding="utf-8")
    assert "src=" not in text and "@import" not in text and "innerHTML" not in text
