"""Reasoning items: their text, its summary, and the form in which clients that store nothing give it back."""

import pytest

from jaxserve import FinishReason, TextDelta
from server.responses.reasoning_seal import open_reasoning
from tests.fake_llm import FakeLLM, Piece, make_token_logprob

THINKING = [Piece(reasoning="Hm, "), Piece(reasoning="so"), Piece("Yes")]


@pytest.fixture
def thinking_api(make_api):
    return make_api(llm=FakeLLM(THINKING, reasoning_parser="qwen3"))


async def test_reasoning_is_an_item_of_its_own(thinking_api):
    response = (await thinking_api.respond(reasoning={"effort": "low"})).json
    thought, message = response["output"]
    assert thought.pop("id").startswith("rs_")
    assert thought == {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm, so"}],
        "status": "completed",
    }
    assert message["content"][0]["text"] == "Yes"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 6}
    assert response["reasoning"] == {"effort": "low", "summary": None}


@pytest.mark.parametrize("key", ["summary", "generate_summary"])
async def test_a_summary_is_the_whole_reasoning(thinking_api, key):
    for word in ("auto", "detailed"):
        thought = (await thinking_api.respond(reasoning={key: word})).json["output"][0]
        assert thought["summary"] == [{"type": "summary_text", "text": "Hm, so"}]
    reply = await thinking_api.respond(reasoning={key: "concise"})
    assert (reply.status, reply.error["param"]) == (400, "reasoning.summary")


async def test_its_encoded_form_is_the_same_text(thinking_api):
    thought = (await thinking_api.respond(include=["reasoning.encrypted_content"])).json["output"][0]
    assert open_reasoning(thought["encrypted_content"]) == "Hm, so"
    assert open_reasoning("jaxserve.%%%") is None and open_reasoning("gAAAA") is None


async def test_reasoning_can_be_left_out(thinking_api):
    response = (await thinking_api.respond(include_reasoning=False)).json
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 6}


async def test_what_was_cut_off_while_it_reasoned_has_no_message(thinking_api):
    response = (await thinking_api.respond(max_output_tokens=5)).json
    assert [(item["type"], item["status"]) for item in response["output"]] == [("reasoning", "incomplete")]
    assert response["status"] == "incomplete"


async def test_logprobs_are_those_of_the_text(thinking_api):
    response = (await thinking_api.respond(include=["message.output_text.logprobs"])).json
    part = response["output"][1]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]] == ["Y", "e", "s"]


class MarkingLLM(FakeLLM):
    """Its reasoning stands between tokens that are markers, and its text waits for the last of its tokens."""

    def _choice(self, index, call):
        parts = (
            ("<Hm", {"reasoning": "Hm", "num_reasoning_tokens": 2}),
            (">Ye", {}),
            ("s", {"text": "Yes", "content_tokens": (4, 5, 6), "finish_reason": FinishReason.STOP}),
        )
        return [
            TextDelta(
                index=index,
                token_ids=tuple(map(ord, tokens)),
                logprobs=tuple(make_token_logprob(ord(token), 0) for token in tokens),
                **({"text": "", "content_tokens": ()} | fields),
            )
            for tokens, fields in parts
        ]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_markers_are_not_those_of_the_text(make_api, stream):
    api = make_api(llm=MarkingLLM(reasoning_parser="qwen3"))
    reply = await api.respond(stream=stream, include=["message.output_text.logprobs"])
    response = reply.named_events[-1]["response"] if stream else reply.json
    [part] = response["output"][1]["content"]
    assert (part["text"], [entry["token"] for entry in part["logprobs"]]) == ("Yes", ["Y", "e", "s"])
