"""Chat templates and media settings of requests, and the flags that allow them. The worker processes are real."""

import pytest

from jaxserve import BadConfig
from jaxserve.text import chat_template
from server.cli import _make_serve_parser
from server.config import RESERVED_TEMPLATE_KWARGS, ServerConfig
from server.flags import read_arguments
from tests.server.template_llm import OPEN, TOOL, USER, expect_refusal, render


class TestTrust:
    OWN = "{{ bos_token }}{% for m in messages %}({{ m.content }}){% endfor %}{{ mood }}{{ tools|length if tools }}"

    async def test_a_request_s_template_needs_a_flag(self, template_api):
        for fields, param in (
            ({"chat_template": self.OWN}, "chat_template"),
            ({"chat_template_kwargs": {"chat_template": self.OWN}}, "chat_template_kwargs"),
        ):
            error = await expect_refusal(template_api(), **fields)
            assert ("--trust-request-chat-template" in error["message"], error["param"]) == (True, param)

    async def test_with_the_flag_it_is_used(self, template_api):
        api = template_api(trust_request_chat_template=True)
        fields = {"chat_template_kwargs": {"mood": "good"}, "tools": [TOOL], "tool_choice": "none"}
        assert await render(api, chat_template=self.OWN, **fields) == "(Hi)good1"
        inside = {"chat_template": self.OWN, "mood": "bad"}
        assert await render(api, chat_template_kwargs=inside) == "(Hi)bad"
        assert await render(api, chat_template="mine", chat_template_kwargs=inside) == "mine"
        assert "<|im_start|>" in await render(api)
        for nothing in ({}, {"chat_template": None}, {"chat_template_kwargs": {"chat_template": None}}):
            assert "<|im_start|>" in await render(api, **nothing)

    async def test_it_renders_as_the_server_s_own_would(self, template_api):
        messages = [USER, {"role": "assistant", "content": ["a", "b "]}]
        api, fields = template_api(trust_request_chat_template=True), OPEN
        own = api.llm.tokenizer.chat_templates["default"]
        assert await render(api, *messages, chat_template=own, **fields) == await render(api, *messages, **fields)

    async def test_its_errors_are_told_in_its_own_words(self, template_api):
        api = template_api(trust_request_chat_template=True)
        error = await expect_refusal(api, chat_template="{{ raise_exception('do better') }}")
        assert error["message"] == "The chat template failed: do better"
        assert "line 1" in (await expect_refusal(api, chat_template="{% for %}"))["message"]
        assert (await expect_refusal(api, chat_template="{# " + "x" * (256 << 10)))["param"] == "chat_template"
        image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        assert "at most 0 image" in (await expect_refusal(api, image, chat_template="x"))["message"]

    @pytest.mark.parametrize(
        "template",
        [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{{ 9**9999999 }}",
            "{% set n = namespace(x=2**4000) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
            "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
            "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = n.x + range(99999)|list %}{% endfor %}",
            "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
            "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
            "{{ " + "-" * 50000 + "1 }}",
            "{{ [1]|tojson(indent=10**10) }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ cycler.__init__.__globals__ }}",
            "{% include '/etc/passwd' %}",
            "{{ messages|map('upper') }}",
            "{{ '\\ud800' }}",
        ],
    )
    async def test_a_hostile_one_harms_nobody(self, template_api, template):
        api = template_api(trust_request_chat_template=True, engine={"request_template_timeout_s": 1.0})
        await expect_refusal(api, chat_template=template)
        assert await render(api, chat_template=self.OWN) == "(Hi)"
        assert "<|im_start|>" in await render(api)

    def test_both_sides_reserve_the_same_names(self):
        assert RESERVED_TEMPLATE_KWARGS | {"chat_template"} == chat_template.RESERVED_KWARGS

    @pytest.mark.parametrize("name", ["tokenize", "messages", "padding", "range", "raise_exception"])
    async def test_reserved_names_stay_reserved(self, template_api, name):
        for trusted in (False, True):
            api = template_api(trust_request_chat_template=trusted)
            assert (await expect_refusal(api, chat_template_kwargs={name: 1}))["param"] == "chat_template_kwargs"

    async def test_media_arguments_need_a_flag_and_mean_nothing_to_a_model_of_text(self, template_api):
        plain, trusting = await render(template_api()), template_api(trust_request_mm_kwargs=True)
        for name, value in (("mm_processor_kwargs", {"a": 1}), ("media_io_kwargs", {"video": {"fps": 1}})):
            error = await expect_refusal(template_api(), **{name: value})
            assert ("--trust-request-mm-kwargs" in error["message"], error["param"]) == (True, name)
            assert await render(trusting, **{name: value}) == await render(template_api(), **{name: {}}) == plain


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"default_chat_template_kwargs": {"messages": []}}, "default_chat_template_kwargs"),
        ({"default_chat_template_kwargs": {"chat_template": "x"}}, "default_chat_template_kwargs"),
        ({"reasoning_effort_map": {"max": 3}}, "reasoning_effort_map"),
    ],
)
def test_settings_that_cannot_work_end_the_start(settings, name):
    with pytest.raises(BadConfig, match=name):
        ServerConfig(**settings)


def test_the_flags_are_read():
    words = ["--trust-request-chat-template", "--default-chat-template-kwargs.enable_thinking", "false"]
    words += ["--reasoning-effort-map", '{"max": "high"}', "--request-template-timeout-s", "3"]
    said = read_arguments(_make_serve_parser(), words)
    assert said == {
        "trust_request_chat_template": True,
        "default_chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort_map": {"max": "high"},
        "request_template_timeout_s": 3.0,
    }
