"""The ways in which people call LLM: vLLM's forms, shorter ones, and what is said of wrong ones."""

import json
import subprocess
import sys

import numpy as np
import pytest
from pydantic import BaseModel

from jaxserve import LLM, BadConfig, EngineStopped, FinishReason, InvalidParameter, SamplingParams, StructuredOutputs
from jaxserve.llm_inputs import MAX_CHAT_TOKENS, MAX_TEXT_TOKENS, REPETITION_DETECTION, apply_defaults
from jaxserve.outputs import Choice, Completion, ToolCall, Usage
from tests.api.conftest import SETTINGS

GREEDY = SamplingParams(temperature=0, max_tokens=8)
MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]


def ids_of(completion):
    return [choice.token_ids for choice in completion.choices]


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.chat(MESSAGES[0]["content"], GREEDY),
        lambda llm: llm.chat(MESSAGES[0], GREEDY),
        lambda llm: llm.chat(MESSAGES, temperature=0, max_tokens=8),
        lambda llm: llm.chat(MESSAGES, {"temperature": 0}, max_tokens=8),
        lambda llm: llm.chat(messages=MESSAGES, sampling_params=GREEDY, use_tqdm=False),
        lambda llm: llm.chat([MESSAGES, MESSAGES], GREEDY)[1],
        lambda llm: llm.chat([MESSAGES, MESSAGES], [SamplingParams(max_tokens=1), GREEDY])[1],
    ],
)
def test_every_form_of_a_chat_is_the_same_chat(llm, call):
    assert ids_of(call(llm)) == ids_of(llm.chat(MESSAGES, GREEDY))


@pytest.mark.parametrize(
    "prompts",
    ["abc", ["abc"], {"prompt": "abc"}, [{"prompt": "abc"}], "ids", ["ids"], {"prompt_token_ids": "ids"}, "array"],
    ids=str,
)
def test_every_form_of_a_prompt_is_the_same_prompt(llm, prompts):
    ids = llm.tokenize("abc")
    forms = {"ids": ids, "array": list(np.array(ids))}
    if isinstance(prompts, dict):
        prompts = {key: forms.get(value, value) for key, value in prompts.items()}
    elif isinstance(prompts, list):
        prompts = [each if isinstance(each, dict) else forms.get(each, each) for each in prompts]
    else:
        prompts = forms.get(prompts, prompts)
    [answer] = llm.generate(prompts, GREEDY)
    assert ids_of(answer) == ids_of(llm.generate("abc", temperature=0, max_tokens=8)[0])
    assert answer.outputs[0].text == answer.text


def test_each_prompt_may_have_params_of_its_own(llm):
    short, long = llm.generate(["abc", "abc"], [SamplingParams(temperature=0, max_tokens=n) for n in (2, 5)])
    assert [len(one.outputs[0].token_ids) for one in (short, long)] == [2, 5]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda llm: llm.generate(MESSAGES), "llm.chat"),
        (lambda llm: llm.generate(3), "a text, a list of token ids"),
        (lambda llm: llm.generate([{"prompt": "a", "multi_modal_data": 1}]), '"prompt_token_ids"'),
        (lambda llm: llm.generate([["a", "b"]]), "texts or lists of token ids"),
        (lambda llm: llm.generate(["a", "b"], [GREEDY]), "has 1 values for 2 prompts"),
        (lambda llm: llm.generate("a", 0.5), r"SamplingParams\(…\)"),
        (lambda llm: llm.chat(["a", "b"]), "for texts write"),
        (lambda llm: llm.chat([{"content": "a"}]), '"role": "user"'),
        (lambda llm: llm.chat([]), '"role": "user"'),
        (lambda llm: llm.chat(MESSAGES, temprature=0), "temprature is neither"),
        (lambda llm: SamplingParams(stop=3), "stop must be a list"),
        (lambda llm: llm.chat("hi", max_tokens=2.5), "max_tokens must be a whole number, got 2.5"),
        (lambda llm: llm.chat("hi", max_tokens="3"), "max_tokens must be a whole number"),
        (lambda llm: llm.chat("hi", temperature="hot"), "temperature must be a number, got 'hot'"),
        (lambda llm: llm.chat("hi", top_p=None), "top_p must be a number"),
        (lambda llm: llm.chat("hi", ignore_eos="no"), "ignore_eos must be True or False"),
        (lambda llm: llm.chat("hi", stop_token_ids=["a"]), "stop_token_ids must be token ids"),
        (lambda llm: llm.chat("hi", logit_bias=[1]), "logit_bias must map token ids"),
        (lambda llm: llm.chat("hi", tools="x"), "tools must be a list"),
        (lambda llm: llm.chat("hi", tools=[{"a": 1}]), '"function"'),
        (lambda llm: SamplingParams(structured_outputs={"jsn": "{}"}), "structured_outputs: .*jsn"),
        (lambda llm: StructuredOutputs(json=3), "pydantic model"),
    ],
)
def test_a_wrong_call_says_in_one_sentence_what_to_write(llm, call, said):
    with pytest.raises(InvalidParameter, match=said) as caught:
        call(llm)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"InvalidParameter: {caught.value}"]  # all that IPython shows


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_num_seq": 4}, "did you mean max_num_seqs"),
        ({"pipeline_parallel_size": 2}, "must be 1, got 2"),
        ({"tensor_parallel_size": 0}, "must be at least 1, got 0"),
        ({"max_model_len": "8k"}, "max_model_len must be int, got '8k'"),
        ({"dtype": "float16"}, "dtype must be auto or float32 or bfloat16"),
        ({"quantization": "fp9"}, "quantization must be auto or none or int8 or int4 or fp8"),
        ({"scheduling_policy": "x"}, "fcfs or priority"),
        ({"enable_prefix_caching": "no"}, "enable_prefix_caching must be bool"),
        ({"seed": 1.5}, "seed must be int"),
        ({"gpu_memory_utilization": "0.5"}, "gpu_memory_utilization must be float"),
    ],
)
def test_a_setting_that_is_not_known_is_refused_before_anything_is_loaded(settings, said):
    with pytest.raises(BadConfig, match=said):
        LLM("/nowhere", **settings)


def test_settings_of_vllm_that_change_nothing_are_accepted(tiny_path):
    usual = {"enforce_eager": True, "tensor_parallel_size": 1, "swap_space": 4, "quantization": None}
    with LLM(tiny_path, quiet=True, **usual, **SETTINGS) as llm:
        assert llm.get_tokenizer().vocab_size and llm.get_default_sampling_params().temperature == 1


def test_one_conversation_says_that_it_is_no_list(llm):
    completion = llm.chat(MESSAGES, GREEDY)
    for read in (lambda: completion[0], lambda: list(completion)):
        with pytest.raises(TypeError, match=r"write \.text"):
            read()


class City(BaseModel):
    name: str


def test_values_are_taken_as_people_have_them():
    params = SamplingParams(stop="x", bad_words=["y"], logit_bias={5: 1, "3": 2}, structured_outputs={"choice": ["a"]})
    assert (params.stop, params.bad_words, params.logit_bias) == (("x",), ("y",), ((3, 2), (5, 1)))
    assert params.structured_outputs == StructuredOutputs(choice=("a",))
    schema = City.model_json_schema()
    for given in (schema, City, json.dumps(schema)):
        assert StructuredOutputs(json=given) == StructuredOutputs(json=json.dumps(schema))
    assert hash(params) == hash(SamplingParams(**{name: getattr(params, name) for name in params.given}))


def test_what_nobody_sets_is_the_model_s_own_at_every_entry(tiny_path):
    own = {"temperature": 0, "repetition_penalty": 1.2}
    with LLM(tiny_path, quiet=True, override_generation_config=own, **SETTINGS) as llm:
        defaults = llm._client.text.defaults
        filled = apply_defaults(SamplingParams(seed=1), defaults, max_tokens=7)
        assert (filled.temperature, filled.repetition_penalty, filled.seed, filled.max_tokens) == (0, 1.2, 1, 7)
        assert apply_defaults(SamplingParams(temperature=1.0), defaults).temperature == 1
        implied = llm.chat(MESSAGES, SamplingParams(max_tokens=8))
        assert implied.choices == llm.chat(MESSAGES, max_tokens=8, temperature=0, repetition_penalty=1.2).choices


def test_answers_end_though_nobody_says_when(llm, monkeypatch):
    seen = []
    monkeypatch.setattr(llm._client.preparer, "prepare", lambda prompt, params, *_, **__: seen.append(params) or 1 / 0)
    for call in (lambda: llm.chat(MESSAGES), lambda: llm.generate("abc"), lambda: list(llm.stream(MESSAGES))):
        with pytest.raises(ZeroDivisionError):
            call()
    chat, text, stream = seen
    context = SETTINGS["max_model_len"]
    assert (chat.max_tokens, text.max_tokens, stream.max_tokens) == (context, MAX_TEXT_TOKENS, context)
    assert chat.repetition_detection == stream.repetition_detection == REPETITION_DETECTION
    assert text.repetition_detection is None and context < MAX_CHAT_TOKENS


def test_a_bar_counts_many_prompts_and_none_shows_for_one(llm, capsys):
    llm.generate("a", GREEDY)
    llm.generate(["a", "b"], GREEDY, use_tqdm=False)
    assert "answers" not in capsys.readouterr().err
    llm.generate(["a", "b", "c"], GREEDY)
    assert "3/3" in capsys.readouterr().err.splitlines()[-1]


def completion(**fields):
    choice = {"index": 0, "text": "Hi *you*", "token_ids": (1, 2), "finish_reason": FinishReason.STOP, **fields}
    return Completion((1,), (Choice(**choice),), Usage(1, 2))


def test_a_notebook_shows_the_answer_as_markdown_and_why_it_ended():
    assert completion()._repr_markdown_() == "Hi *you*\n\n<sub>2 tokens</sub>"
    thought = completion(reasoning="a\nb", tool_calls=(ToolCall("1", "f", "{}"),))._repr_markdown_()
    assert thought.startswith("> a\n> b\n\nHi *you*\n\n```json\nf({})\n```")
    assert "repeated itself" in completion(finish_reason=FinishReason.REPETITION)._repr_markdown_()
    assert "max_tokens=" in completion(finish_reason=FinishReason.LENGTH)._repr_markdown_()


def test_a_program_that_does_not_close_its_llm_ends_quietly(tiny_path):
    words = (
        "from jaxserve import LLM; import sys; llm = LLM(sys.argv[1], quiet=True, max_num_seqs=1, max_model_len=128)"
    )
    words += "; [None for _, delta in zip(range(2), llm.stream('a', max_tokens=100, ignore_eos=True))]; print('done')"
    ended = subprocess.run([sys.executable, "-c", words, tiny_path], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_closed_llm_says_so(tiny_path):
    llm = LLM(tiny_path, quiet=True, **SETTINGS)
    assert "| model |" in llm._repr_markdown_() and repr(llm) == f"LLM({tiny_path!r})"
    llm.close()
    llm.close()
    assert repr(llm).endswith(", closed)") and llm.description["model"] == tiny_path
    with pytest.raises(EngineStopped, match="closed"):
        llm.chat(MESSAGES, GREEDY)
