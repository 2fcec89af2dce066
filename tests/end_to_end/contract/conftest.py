"""Two real servers for the whole room: the default model, whose template knows neither tools nor reasoning, and a small
one with a template that has both, and without a flag that names a parser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import assets
from tests.end_to_end.contract.asking import KEY, Stranger
from tests.end_to_end.running import RunningServer
from tests.end_to_end.test_first_light import SETTINGS


@pytest.fixture(scope="session")
def smol() -> Iterator[RunningServer]:
    assets.model()
    names = ("--served-model-name", "smol", "other/name")
    with RunningServer("smollm2-135m-instruct", *SETTINGS, "--api-key", KEY, "second", *names) as server:
        yield server


@pytest.fixture(scope="session")
def http(smol: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=smol.url, timeout=300, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture(scope="session")
def ask(http: httpx.Client) -> Stranger:
    return Stranger(http)


@pytest.fixture(scope="session")
def mind() -> Iterator[Stranger]:
    """MiniMind2-Small: it calls and reasons as far as it is made to."""
    template = Path(__file__).parents[2] / "data" / "templates" / "thinks_and_calls.jinja"
    flags = (*SETTINGS, "--chat-template", str(template), "--served-model-name", "mind")
    with (
        RunningServer(assets.model("minimind2-small"), *flags) as server,
        httpx.Client(base_url=server.url, timeout=300) as client,
    ):
        yield Stranger(client)
