"""The chat page in headless Chromium, against a server that says what it was told. One browser for all tests of the
folder; every test has a server of its own, so a port, an origin and a storage of its own."""

from collections.abc import Iterator

import pytest

from tests.browser import Page, open_page
from tests.fake_openai import FakeOpenAI


@pytest.fixture(scope="package")
def one_browser() -> Iterator[Page]:
    with open_page("data:,") as page:
        yield page


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI("The sky ", "is **blue**", ", mostly.") as server:
        yield server


@pytest.fixture
def page(one_browser: Page, server: FakeOpenAI) -> Page:
    one_browser.resize(1280, 800)
    one_browser.prefer("light")
    one_browser.visit(server.url)
    return one_browser
