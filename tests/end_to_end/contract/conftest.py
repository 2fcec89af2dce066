"""Two real servers for all tests of this folder.

The default model has a template without tools and reasoning; a small one has a template with both, and no flag names a
parser.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import assets
from tests.end_to_end.contract.api_client import KEY, ApiClient
from tests.end_to_end.running_server import RunningServer
from tests.end_to_end.test_default_model import SERVER_FLAGS


@pytest.fixture(scope="session")
def smol() -> Iterator[RunningServer]:
    assets.model()
    names = ("--served-model-name", "smol", "other/name")
    with RunningServer("smollm2-135m-instruct", *SERVER_FLAGS, "--api-key", KEY, "second", *names) as server:
        yield server


@pytest.fixture(scope="session")
def http(smol: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=smol.url, timeout=300, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture(scope="session")
def ask(http: httpx.Client) -> ApiClient:
    return ApiClient(http)


@pytest.fixture(scope="session")
def mind() -> Iterator[ApiClient]:
    """MiniMind2-Small: it calls and reasons as far as it is made to."""
    template = Path(__file__).parents[2] / "data" / "templates" / "thinks_and_calls.jinja"
    flags = (*SERVER_FLAGS, "--chat-template", str(template), "--served-model-name", "mind")
    with (
        RunningServer(assets.model("minimind2-small"), *flags) as server,
        httpx.Client(base_url=server.url, timeout=300) as client,
    ):
        yield ApiClient(client)
