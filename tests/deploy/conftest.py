"""What a Prometheus that scrapes jaxserve has of it."""

import pytest

from jaxserve import DeviceMemory
from tests.deploy.promql import Scrape
from tests.fake_llm import FakeLLM
from tests.server.api import Api


@pytest.fixture
async def scrape() -> Scrape:
    """The metrics of a server with adapters on a GPU that has answered one request, with Prometheus' own labels."""
    llm = FakeLLM("a", enable_lora=True)
    llm.device_memory = [(DeviceMemory("gpu:0", 1, 2, 3),)]
    api = Api(llm)
    assert (await api.chat()).status == 200
    text = (await api.get("/metrics")).text
    return Scrape.from_text(text, instance="jaxserve:8000", job="jaxserve", namespace="default", pod="jaxserve-0")
