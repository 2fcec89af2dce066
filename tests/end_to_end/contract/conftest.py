"""The default model behind one real server, for the whole room."""

from collections.abc import Iterator

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
