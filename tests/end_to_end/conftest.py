"""One real server over the tiny model, for all tests of this room that do not stop it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, RunningServer
from tests.models.tiny import write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("end_to_end"), "llama", seed=3))


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[RunningServer]:
    with RunningServer(tiny_model, *SMALL) as server:
        yield server
