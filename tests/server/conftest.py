"""Fixtures of the server's tests: an app around a FakeLLM."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes_llm import FakeLLM
from tests.server.api import Api


@pytest.fixture
def make_api() -> Callable[..., Api]:
    def make(*pieces: Any, llm: FakeLLM | None = None, **config: Any) -> Api:
        return Api(llm or FakeLLM(*pieces), **config)

    return make


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()
