"""A request that needs a worker where none can be started is 503, and the next one is answered."""

import errno

import pytest

from jaxserve import AsyncLLM
from jaxserve.workers import process
from tests.server.api import Api


async def test_a_grammar_is_503_until_a_worker_can_be_started(
    api: Api, llm: AsyncLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": [5], "max_tokens": 3, "structured_outputs": {"regex": "[c-z]{1,7}"}}
    pool = llm._client.text.output_planner._grammars._get_compiler()._pool
    for worker in pool._alive:
        worker.kill()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no process is left")

    with monkeypatch.context() as patch:
        patch.setattr(process.subprocess, "Popen", fail)
        reply = await api.complete(**body)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1") and "worker" in reply.error["message"]
        assert (await api.complete(prompt=[5], max_tokens=3)).status == 200
    assert (await api.complete(**body)).status == 200
    assert llm.is_healthy
