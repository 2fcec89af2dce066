"""The ingress hashes the prompt that a replica makes of the same request."""

import json
import pickle

import pytest

from jaxserve import PromptHasher
from jaxserve.cache.prefix import CacheContext
from jaxserve.router import hash_prompt
from server.config import ServerConfig
from server.ray.prompts import hash_body
from tests.server.api import Api
from tests.server.template_llm import TOOL, TemplateLLM

PAGE = 4
TEXT = "The quick brown fox jumps over the lazy dog."
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
RESPONSES_TOOL = {"type": "function", **TOOL["function"]}
REQUESTS = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "chat with tools": ("/v1/chat/completions", {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "none"}),
    "chat that continues": (
        "/v1/chat/completions",
        {
            "messages": [*MESSAGES, {"role": "assistant", "content": "So"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "text": ("/v1/completions", {"prompt": TEXT}),
    "texts": ("/v1/completions", {"prompt": [TEXT, "another"]}),
    "text without special tokens": ("/v1/completions", {"prompt": TEXT, "add_special_tokens": False}),
    "token ids": ("/v1/completions", {"prompt": list(range(5, 40))}),
    "messages": (
        "/v1/messages",
        {"model": "fake/model", "max_tokens": 3, "system": "Be brief.", "messages": MESSAGES[1:]},
    ),
    "response to text": ("/v1/responses", {"input": TEXT, "instructions": "Be brief.", "store": False}),
    "response to items": ("/v1/responses", {"input": MESSAGES, "store": False}),
}


@pytest.fixture
def llm():
    llm = TemplateLLM(block_size=PAGE)
    yield llm
    llm.prompts.close()


@pytest.fixture
def hasher(llm):
    """As it comes to another process."""
    hasher = pickle.loads(pickle.dumps(PromptHasher(llm.config, llm.tokenizer, {"french": "key of its files"})))
    yield hasher
    hasher.close()


def hash_request(hasher, path, fields, sender="", **config):
    return hash_body(path, json.dumps(fields).encode(), hasher, ServerConfig(**config), sender)


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_pages_are_those_of_the_prompt_that_is_run(llm, hasher, name):
    path, fields = REQUESTS[name]
    answer = await Api(llm).post(path, fields)
    assert answer.status == 200, answer.text
    pages = hash_request(hasher, path, fields)
    assert pages == hash_prompt(llm.calls[0].prompt_ids, PAGE)
    assert len(pages.hashes) > 1


async def test_the_pages_depend_on_salt_and_adapter(llm, hasher):
    path, fields = REQUESTS["text"]
    await Api(llm).post(path, fields)
    prompt_ids = llm.calls[0].prompt_ids
    for more, context in (
        ({"cache_salt": "s"}, CacheContext(salt="s")),
        ({"model": "french"}, CacheContext(adapter="key of its files")),
        ({"model": "fake/model"}, CacheContext()),
    ):
        assert hash_request(hasher, path, fields | more) == hash_prompt(prompt_ids, PAGE, context)
    salted = hash_request(hasher, path, fields | {"cache_salt": "s"}, "key 1", isolate_cache_per_key=True)
    assert salted == hash_prompt(prompt_ids, PAGE, CacheContext(salt="key 1/s"))


async def test_with_isolated_keys_the_salt_is_the_replica_s(llm, hasher):
    path, fields = REQUESTS["text"]
    api = Api(llm, isolate_cache_per_key=True, api_key=("secret",))
    assert (await api.post(path, fields, headers={"Authorization": "Bearer secret"})).status == 200
    salt = llm.calls[0].cache_salt
    sender = salt.partition("/")[0]
    assert sender.startswith("key ") and salt == f"{sender}/"
    pages = hash_request(hasher, path, fields, sender, isolate_cache_per_key=True)
    assert pages == hash_prompt(llm.calls[0].prompt_ids, PAGE, CacheContext(salt=salt))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b"{"),
        ("/v1/chat/completions", b'{"messages": []}'),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "chat_template": "{{ 1 }}"}'),
        ("/v1/completions", b'{"prompt": {}}'),
        ("/v1/completions", json.dumps({"prompt": "x" * 10**6}).encode()),
        ("/v1/messages", b'{"messages": 1}'),
        ("/v1/responses", b'{"input": 1}'),
        ("/v1/embeddings", b'{"input": "text"}'),
        ("/health", b""),
    ],
)
def test_what_has_no_prompt_or_a_wrong_one_goes_to_any_replica(hasher, path, body):
    assert hash_body(path, body, hasher, ServerConfig(trust_request_chat_template=True), "") is None
