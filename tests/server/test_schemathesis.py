"""Schemathesis reads the OpenAPI document and sends whatever it can think of: no 500, and every status, content type
and body is one that the document has. In process, with a bounded number of examples that are the same every time."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from server.app import create_app, get_state
from server.config import ServerConfig
from tests.fake_llm import FakeLLM

KEY = {"Authorization": "Bearer k"}
# Types are read more leniently than they are described, and rules between fields are in no schema.
UNTRUE = [checks.negative_data_rejection, checks.positive_data_acceptance]
CONTRADICTING = {"continue_final_message", "stream_options", "prompt_logprobs", "min_tokens"}
some = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

app = create_app(FakeLLM(), ServerConfig(max_n=8))
schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig())
closed = create_app(FakeLLM(), ServerConfig(api_key=("k",)))
closed_schema = schemathesis.openapi.from_asgi("/openapi.json", closed, headers=KEY, config=SchemathesisConfig())
closed_schema.config.phases.coverage.enabled = False


def test_it_is_an_openapi_document() -> None:
    schema.validate()


@schema.parametrize()
@some
def test_whatever_is_sent_the_answer_is_one_of_those_described(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=UNTRUE)
    assert not get_state(app).slots


@closed_schema.parametrize()
@settings(some, max_examples=3)
def test_where_a_key_is_needed_nothing_is_said_without(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=UNTRUE, headers=KEY)


def mended(body: dict[str, Any]) -> dict[str, Any]:
    """A request that is mostly answered: short, without the fields that are refused, without contradictions."""
    name, said = ("ChatRequest", "messages") if "messages" in body else ("CompletionRequest", "prompt")
    fields = schema.raw_schema["components"]["schemas"][name]["properties"]
    kept = {key: value for key, value in body.items() if fields.get(key, {}).get("x-support") == "honoured"}
    kept[said] = (
        [{**turn, "content": turn["role"][:3]} for turn in body[said]] if said == "messages" else body[said][:8]
    )
    scored = {"logprobs": 2} if said == "prompt" else {"logprobs": True, "top_logprobs": 2}
    wishes = {"temperature": 0.5, "stream": len(body) % 2 == 0, **scored}
    return {key: value for key, value in {**kept, **wishes}.items() if key not in CONTRADICTING}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_what_works_is_answered_as_it_is_described_whole_and_streamed(path: str) -> None:
    kinds: Counter[str] = Counter()

    @settings(some, max_examples=60)
    @given(case=schema[path]["post"].as_strategy())
    def answer(case: schemathesis.Case) -> None:
        case.body = mended(case.body)
        response = case.call_and_validate(excluded_checks=UNTRUE)
        kinds[response.headers["content-type"][0] if response.status_code == 200 else "refused"] += 1

    answer()
    assert kinds["application/json"] > 4, kinds
    assert kinds["text/event-stream; charset=utf-8"] > 4, kinds
