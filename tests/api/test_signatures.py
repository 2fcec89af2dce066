"""Every option of LLM is a parameter with a name, a type and a default: that of the dataclass which describes it."""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_overloads, get_type_hints

import pytest

from jaxserve import LLM, AsyncLLM, EngineConfig, RepetitionDetection, SamplingParams, StructuredOutputs
from jaxserve.llm_options import SAMPLING_OPTIONS, UNSET, ChatOptions
from jaxserve.preparation import RequestPreparer
from jaxserve.sampling_params import LogitBias, Texts, TokenIds
from jaxserve.text.prompts import PromptRenderer

INPUT_TYPES = {  # where a caller may write more forms than the field of SamplingParams holds
    **dict.fromkeys(("stop", "bad_words"), Texts),
    **dict.fromkeys(("stop_token_ids", "logprob_token_ids"), TokenIds),
    "allowed_token_ids": TokenIds | None,
    "logit_bias": LogitBias,
    "repetition_detection": RepetitionDetection | Mapping[str, int] | None,
    "structured_outputs": StructuredOutputs | Mapping[str, Any] | None,
}


def parameters(function, *left_out):
    """Return name → (type, default) of the parameters, in order."""
    hints = get_type_hints(function)
    declared = inspect.signature(function).parameters.values()
    return {one.name: (hints[one.name], one.default) for one in declared if one.name not in ("self", *left_out)}


def declared(dataclass, names=None):
    """Return name → (type, default) of the fields, in order."""
    hints = get_type_hints(dataclass)
    return {
        field.name: (hints[field.name], None if field.default is MISSING else field.default)
        for field in fields(dataclass)
        if names is None or field.name in names
    }


def sampling():
    hints = get_type_hints(SamplingParams)
    names = [field.name for field in fields(SamplingParams) if field.name in SAMPLING_OPTIONS]
    return {name: (INPUT_TYPES.get(name, hints[name]), UNSET) for name in names}


def test_llm_has_every_field_of_engine_config():
    own = parameters(LLM.__init__, "quiet")
    expected = declared(EngineConfig)
    model_type, model_default = expected.pop("model")
    assert own.pop("model") == (model_type | None, model_default)
    assert list(own.items()) == list(expected.items())
    assert list(inspect.signature(LLM).parameters)[:2] == ["model", "quiet"]


def test_generate_has_every_field_of_sampling_params():
    own = parameters(LLM.generate, "prompts", "sampling_params", "use_tqdm", "lora_request")
    assert list(own.items()) == list(sampling().items())


@pytest.mark.parametrize("function", [LLM.chat, *get_overloads(LLM.chat), LLM.stream], ids=lambda one: one.__name__)
def test_chat_and_stream_have_every_field_of_chat_options_and_sampling_params(function):
    own = parameters(function, "messages", "prompt", "sampling_params", "use_tqdm", "lora_request")
    assert list(own.items()) == [*declared(ChatOptions).items(), *sampling().items()]


def test_all_but_echo_only_may_be_set_by_a_keyword():
    assert {field.name for field in fields(SamplingParams)} - SAMPLING_OPTIONS == {"given", "echo_only"}


@pytest.mark.parametrize(
    ("name", "other"), [("render_chat", PromptRenderer), ("encode", PromptRenderer), ("prepare", RequestPreparer)]
)
def test_async_llm_takes_what_runs_in_its_threads_takes(name, other):
    own, expected = (inspect.signature(getattr(owner, name)).parameters for owner in (AsyncLLM, other))
    taken = {one: own[one].default for one in own if one != "caller"}  # chooses the thread
    assert taken == {one: expected[one].default for one in expected}
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own.values())
