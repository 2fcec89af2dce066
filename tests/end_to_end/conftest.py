"""One real server over the tiny model, for all tests of this folder that do not stop it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jaxserve import AsyncLLM, EngineConfig
from tests.end_to_end.running_server import SMALL_SERVER_FLAGS, RunningServer
from tests.models.tiny import write
from tests.server.api import Api

LENGTH = 256  # of the engine below: prompt and answer together


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("end_to_end"), "llama", seed=3))


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[RunningServer]:
    with RunningServer(tiny_model, *SMALL_SERVER_FLAGS) as server:
        yield server


@pytest.fixture(scope="session")
def llm(tiny_model: Path) -> Iterator[AsyncLLM]:
    """Batch invariance makes equal requests equal to the last bit."""
    llm = AsyncLLM(
        EngineConfig(
            model=str(tiny_model),
            max_model_len=LENGTH,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            num_gpu_blocks_override=120,
            scheduling_policy="priority",
            batch_invariant=True,
        )
    )
    yield llm
    llm._client.close()


@pytest.fixture
async def api(llm: AsyncLLM) -> AsyncIterator[Api]:
    yield Api(llm)
    assert llm.num_unfinished == 0
