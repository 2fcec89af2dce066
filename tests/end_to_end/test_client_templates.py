"""A real server with chat templates from requests: a hostile one costs its worker process and no other request."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end.running_server import SMALL_SERVER_FLAGS, RunningServer

FLAGS = ("--trust-request-chat-template", "--request-template-timeout-s", "2", "--disable-access-log")
HOSTILE = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = n.x + range(99999)|list %}{% endfor %}",
    "{% set n = namespace(x=3**2500) %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% set y = n.x * 3 %}{% endfor %}{% endfor %}",
    "{{ " + "(" * 50000 + "1" + ")" * 50000 + " }}",
)
OWN = "{% for m in messages %}{{ m.content }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def trusting(tiny_model) -> Iterator[RunningServer]:
    with RunningServer(tiny_model, *SMALL_SERVER_FLAGS, *FLAGS) as server:
        yield server


@pytest.fixture
def client(trusting: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=trusting.url, timeout=120) as client:
        yield client


def ask(client: httpx.Client, **fields) -> httpx.Response:
    body = {"messages": MESSAGES, "max_tokens": 1, "return_prompt_text": True, **fields}
    return client.post("/v1/chat/completions", json=body)


def restarts(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    [line] = [line for line in lines if line.startswith("jaxserve_helper_restarts_total{")]
    return float(line.split()[-1])


def test_a_request_s_template_writes_its_prompt(client):
    assert ask(client, chat_template=OWN).json()["prompt_text"] == "Hi"
    assert "<|im_start|>" in ask(client).json()["prompt_text"]


def test_hostile_templates_are_refused_while_everybody_else_is_served(client):
    before, served = restarts(client), 0
    with ThreadPoolExecutor(len(HOSTILE)) as threads:
        hostile = [threads.submit(ask, client, chat_template=template) for template in HOSTILE]
        while not all(one.done() for one in hostile):
            assert [client.get("/health").status_code, ask(client).status_code] == [200, 200]
            served += 1
    assert served > 5  # in the seconds that the worst of them were given
    for one in hostile:
        error = one.result().json()["error"]
        assert (one.result().status_code, error["type"]) == (400, "BadRequestError")
    assert restarts(client) >= before + 1
    assert ask(client, chat_template=OWN).json()["prompt_text"] == "Hi"


def test_without_the_flag_no_helper_is_ever_needed(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        error = ask(client, chat_template=OWN).json()["error"]
        assert (error["param"], "--trust-request-chat-template" in error["message"]) == ("chat_template", True)
        assert restarts(client) == 0
