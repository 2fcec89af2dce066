"""Headless Chromium for the tests of the page: Debian's chromium and chromedriver, driven by selenium."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

PHONE = (390, 844)
TIMEOUT_S = 120  # a loaded machine; nothing waits this long unless something is wrong


class Page(webdriver.Chrome):
    """The chat page in a browser, with the few things that a person does there."""

    def __init__(self, url: str, chromium: str, chromedriver: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        super().__init__(options=options, service=webdriver.ChromeService(chromedriver))
        self.url = url
        self.resize(1100, 800)
        self.get(url)

    def resize(self, width: int, height: int) -> None:
        """The viewport, exactly: windows have a least width that phones do not reach."""
        self.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600},
        )

    def prefer(self, scheme: str) -> None:
        """What the system wants: "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def visit(self, url: str) -> None:
        """The chat page, once it knows its model and its defaults; what the browser noted before is forgotten."""
        self.get(url)
        self.until_ready()
        self.complaints()
        self.requested_urls()

    def until_ready(self) -> None:
        self.until(lambda: self.execute_script("return document.documentElement.dataset.ready") == "true")

    def say(self, text: str) -> None:
        self.one("#prompt").send_keys(text)
        self.one("#send").click()

    def configure(self, **fields: str) -> None:
        """Types into fields of the settings, over what stood there."""
        self.one("#open-settings").click()
        for name, text in fields.items():
            self.fill(f"#settings [name={name}]", text)
        self.one("#close-settings").click()

    def fill(self, selector: str, text: str) -> None:
        """At once, as if pasted."""
        script = "const [box, text] = arguments; box.value = text; box.dispatchEvent(new Event('input'))"
        self.execute_script(script, self.one(selector), text)

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus; Keys.CONTROL and its like hold until the end."""
        self.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """What the focused element is called; "" where none is."""
        script = "const one = document.activeElement; return one.ariaLabel || one.innerText || one.id"
        return "" if self.switch_to.active_element.tag_name == "body" else self.execute_script(script)

    def style(self, selector: str, name: str) -> str:
        """A computed style."""
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return self.execute_script(script, selector, name)

    def one(self, selector: str):
        return self.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """All at one moment: elements of an answer come and go while it is written."""
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.innerText.trim())"
        return self.execute_script(script, selector)

    def until(self, holds) -> None:
        WebDriverWait(self, TIMEOUT_S, poll_frequency=0.02).until(lambda _: holds())

    def until_answered(self, times: int) -> None:
        """Until the last of so many answers is complete."""
        self.until(lambda: len(self.texts(".assistant")) == times and not self.texts(".busy") and self.texts(".stats"))

    def requested_urls(self) -> set[str]:
        """All that the page has asked for, from anywhere, since this was called last."""
        entries = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        return {
            entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        }

    def complaints(self) -> list[str]:
        """What the browser wrote to its console: script errors, refused loads."""
        return [entry["message"] for entry in self.get_log("browser")]

    def has_sideways_scroll(self) -> bool:
        return self.execute_script("return document.documentElement.scrollWidth > innerWidth")

    def picture(self, path: Path) -> None:
        self.save_screenshot(str(path))


@contextmanager
def open_page(url: str) -> Iterator[Page]:
    """The page at `url`. Skips the test where there is no Chromium, but not in CI, where there has to be one."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run the browser tests, but chromium and chromedriver are not installed")
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    page = Page(url, chromium, chromedriver)
    try:
        yield page
    finally:
        page.quit()
