"""The header that names formats of schemas which are not enforced."""

import pytest

from tests.server.api import Api

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES = {CHAT: {"messages": [{"role": "user", "content": "Hi"}]}, COMPLETIONS: {"prompt": ["Hi", "Ho"]}}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("how", ["whole", "streamed", "rendered"])
async def test_formats_that_are_not_enforced_are_named(api: Api, path, how):
    api.llm.unenforced_formats = ("haiku", "binary")
    path_asked = path + "/render" if how == "rendered" else path
    answer = await api.post(path_asked, BODIES[path] | {"stream": how == "streamed"})
    assert (answer.status, answer.headers["x-jaxserve-unenforced"]) == (200, "haiku, binary")
    api.llm.unenforced_formats = ()
    answer = await api.post(path_asked, BODIES[path] | {"stream": how == "streamed"})
    assert "x-jaxserve-unenforced" not in answer.headers


async def test_a_name_cannot_break_the_head(api: Api):
    api.llm.unenforced_formats = (
        "a,b\r\nSet-Cookie: c",
        "\u00e9",
        "x" * 10_000,
        *(f"name{number}" for number in range(100)),
    )
    answer = await api.post(CHAT, BODIES[CHAT])
    names = answer.headers["x-jaxserve-unenforced"].split(", ")
    assert names[:4] == ["a%2Cb%0D%0ASet-Cookie%3A%20c", "%C3%A9", "x" * 64, "name0"] and len(names) == 20
