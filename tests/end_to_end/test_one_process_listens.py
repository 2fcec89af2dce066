"""One process serves HTTP and owns the engine; its workers are fresh interpreters without its sockets."""

import json
import os
import urllib.request

import psutil
import pytest

from jaxserve.text import request_template
from tests.end_to_end.running_server import RunningServer
from tests.server.api import Api


def complete(url: str, **fields: object) -> str:
    body = {"prompt": [5, 6, 7], "max_tokens": 3, **fields}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["text"]


def test_one_process_listens_and_its_workers_have_none_of_its_sockets(server: RunningServer) -> None:
    complete(server.url, structured_outputs={"regex": "[a-z]{1,9}"})  # its check needs a worker
    main = psutil.Process(server.pid)
    workers = main.children(recursive=True)
    assert workers
    assert [socket.laddr.port for socket in main.net_connections() if socket.status == "LISTEN"] == [
        int(server.url.rpartition(":")[2])
    ]
    for worker in workers:
        assert worker.net_connections() == []
        assert worker.cmdline()[1:3] == ["-I", "-B"], "a worker is a new interpreter, not a copy of the server"


async def test_nothing_that_serves_a_request_forks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> None:
        raise AssertionError("the process would be forked")

    for name in ("fork", "forkpty"):
        monkeypatch.setattr(os, name, fork)
    pool = request_template.create_pool()
    try:
        assert pool._start().is_alive
    finally:
        pool.close()
    assert (await api.complete(prompt=[5], structured_outputs={"regex": "[b-y]{1,8}"}, max_tokens=3)).status == 200
