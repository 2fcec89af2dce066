"""Fixtures of the server's tests: an app around a FakeLLM."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fake_llm import FakeLLM
from tests.server.api import Api
from tests.server.template_llm import TemplateLLM


@pytest.fixture
def make_api() -> Callable[..., Api]:
    def make(*pieces: Any, llm: FakeLLM | None = None, **config: Any) -> Api:
        return Api(llm or FakeLLM(*pieces), **config)

    return make


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture
def template_api() -> Iterator[Callable[..., Api]]:
    """Make apps whose model renders these templates; their worker processes are ended afterwards."""
    made: list[TemplateLLM] = []

    def make(template: str | dict[str, str] | None = None, *, engine: Any = None, **config: Any) -> Api:
        templates = {"default": template} if isinstance(template, str) else template
        made.append(TemplateLLM(templates, **(engine or {})))
        return Api(made[-1], **config)

    yield make
    for llm in made:
        llm.prompts.close()
