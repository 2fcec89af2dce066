"""What a Prometheus that scrapes jaxserve has of it."""

import pytest

from tests.deploy.promql import Scrape
from tests.fake_llm import FakeLLM
from tests.server.api import Api


@pytest.fixture
async def scrape() -> Scrape:
    """The metrics of a server with adapters that has answered one request, with the labels that Prometheus adds."""
    api = Api(FakeLLM("a", enable_lora=True))
    assert (await api.chat()).status == 200
    text = (await api.get("/metrics")).text
    return Scrape.from_text(text, instance="jaxserve:8000", job="jaxserve", namespace="default", pod="jaxserve-0")
