"""POST /invocations answers as the route whose body it gets."""

import pytest

from tests.server.api import CHAT

PATH = "/invocations"
BODIES = [
    ({**CHAT, "prompt": "x", "input": "x"}, "chat.completion"),
    ({"prompt": "ab", "input": "x"}, "text_completion"),
    ({"input": "Hi", "messages": None}, "response"),
]


@pytest.mark.parametrize(("body", "kind"), BODIES)
async def test_the_body_tells_which_api_is_meant(api, body, kind):
    assert "messages" in body or "prompt" in body or "input" in body
    assert (await api.post(PATH, body)).json["object"] == kind
    streamed = await api.post(PATH, {**body, "stream": True})
    assert streamed.headers["Content-Type"].startswith("text/event-stream")


async def test_each_is_checked_as_by_its_own_route(api):
    for path, body in (
        ("/v1/chat/completions", {**CHAT, "temperature": 9}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/responses", {"input": "Hi", "truncation": "some"}),
    ):
        own, here = await api.post(path, body), await api.post(PATH, body)
        assert own.status == 400 and (here.status, here.json) == (own.status, own.json)


@pytest.mark.parametrize("body", [{}, {"model": "fake/model"}, {"messages": None}])
async def test_a_body_of_no_api_is_refused(api, body):
    reply = await api.post(PATH, body)
    assert (reply.status, reply.error["param"]) == (400, "body")
