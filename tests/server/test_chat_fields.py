"""Every field of the chat request: what it becomes, what is refused, and in which words."""

import pytest

from jaxserve import RepetitionDetection, SamplingParams
from server.schemas.chat import ChatRequest
from server.schemas.common import validate_body
from server.schemas.completions import CompletionRequest
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest
from tests.fake_llm import VOCAB_SIZE, FakeLLM
from tests.server.api import CHAT


async def params_of(api, **fields) -> SamplingParams:
    answer = await api.chat(**fields)
    assert answer.status == 200, answer.text
    return api.llm.calls[-1].params


@pytest.mark.parametrize(
    ("field", "value", "becomes"),
    [
        ("temperature", 0.5, 0.5),
        ("temperature", "0.5", 0.5),
        ("temperature", True, 1.0),
        ("temperature", 0, 0.0),
        ("temperature", 0.001, 0.01),
        ("top_p", 0.9, 0.9),
        ("top_k", 5, 5),
        ("top_k", 5.0, 5),
        ("top_k", "5", 5),
        ("top_k", True, 1),
        ("top_k", -1, -1),
        ("top_k", 2**40, VOCAB_SIZE),
        ("min_p", 0.1, 0.1),
        ("seed", 7, 7),
        ("seed", -1, None),
        ("seed", -2, -2),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("n", 2, 2),
        ("max_tokens", 3, 3),
        ("max_completion_tokens", 3, 3),
        ("max_tokens", 60, 59),
        ("min_tokens", 2, 2),
        ("stop", "x", ("x",)),
        ("stop", ["x", "y"], ("x", "y")),
        ("stop", [], ()),
        ("stop_token_ids", [3, 4], (3, 4)),
        ("ignore_eos", "yes", True),
        ("ignore_eos", 1, True),
        ("ignore_eos", "Off", False),
        ("include_stop_str_in_output", True, True),
        ("skip_special_tokens", False, False),
        ("prompt_logprobs", 2, 2),
        ("truncate_prompt_tokens", 5, 5),
        ("truncate_prompt_tokens", "-1", -1),
        ("truncation_side", "right", "right"),
        ("frequency_penalty", 0.5, 0.5),
        ("presence_penalty", -2, -2.0),
        ("repetition_penalty", "1.1", 1.1),
        ("logit_bias", {"5": 1, "3": -200}, ((3, -200.0), (5, 1.0))),
        ("logit_bias", {"05": 1}, ((5, 1.0),)),
        ("logit_bias", {str(one): 1 for one in range(VOCAB_SIZE)}, tuple((one, 1.0) for one in range(VOCAB_SIZE))),
        ("allowed_token_ids", [9, 7, 9], (7, 9)),
        ("bad_words", ["x", " y"], ("x", " y")),
        ("use_beam_search", True, True),
        ("length_penalty", -2, -2.0),
        ("repetition_detection", {}, RepetitionDetection()),
        ("repetition_detection", {"max_pattern_size": 0, "min_count": 3}, RepetitionDetection(min_count=3)),
        (
            "repetition_detection",
            {"max_pattern_size": 3, "min_count": "2", "min_pattern_size": None},
            RepetitionDetection(max_pattern_size=3, min_count=2),
        ),
    ],
)
async def test_a_field_becomes_a_sampling_parameter(api, field, value, becomes):
    name = "max_tokens" if field == "max_completion_tokens" else field
    assert getattr(await params_of(api, **{field: value}), name) == becomes


@pytest.mark.parametrize(("most", "asked", "counted"), [(-1, -1, VOCAB_SIZE), (-1, 5000, VOCAB_SIZE), (-1, 30, 30)])
async def test_without_a_limit_logprobs_may_be_those_of_the_whole_vocabulary(make_api, most, asked, counted):
    api = make_api(llm=FakeLLM(max_logprobs=most))
    params = await params_of(api, logprobs=True, top_logprobs=asked, prompt_logprobs=asked, max_tokens=1)
    assert (params.logprobs, params.prompt_logprobs) == (counted, counted)
    assert (await api.complete(logprobs=asked, prompt_logprobs=asked, max_tokens=1)).status == 200
    assert (api.llm.calls[-1].params.logprobs, api.llm.calls[-1].params.prompt_logprobs) == (counted, counted)


async def test_logprob_token_ids_become_a_sampling_parameter(api):
    assert (await params_of(api, logprobs=True, logprob_token_ids=["7", 3])).logprob_token_ids == (7, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0),
        ("presence_penalty", 0.0),
        ("repetition_penalty", 1),
        ("logit_bias", {}),
        ("response_format", {"type": "text"}),
        ("response_format", {"type": "text", "json_schema": {"name": "x"}}),
        ("tool_choice", "none"),
        ("parallel_tool_calls", False),
        ("include_reasoning", False),
        ("guided_grammar", "x"),
        ("user", "somebody"),
        ("session_id", "s"),
        ("use_beam_search", False),
        ("spaces_between_special_tokens", True),
        ("spaces_between_special_tokens", False),
        ("bad_words", []),
        ("logprob_token_ids", []),
        ("mm_processor_kwargs", {}),
        ("media_io_kwargs", {}),
        ("kv_transfer_params", {}),
        ("ec_transfer_params", {}),
        ("watermarking", False),
        ("return_token_offsets", True),
        ("mm_payload", "none"),
        ("return_mm_kwargs", False),
        ("return_weight_versions", False),
        ("routed_experts_prompt_start", 0),
        ("priority", 0),
        ("truncation_side", "left"),
        ("vllm_xargs", {"a": 1, "b": "x", "c": [1.5, "y"], "d": 2**64 - 1, "e": -(2**63)}),
        ("return_prompt_text", False),
        ("stream_options", {}),
        ("stream_options", {"include_usage": None}),
        ("service_tier", "auto"),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("guided_json", {}),
        ("best_of", 3),
        ("functions", []),
        ("anything", {"else": 1}),
    ],
)
async def test_neutral_values_and_unknown_keys_change_nothing(api, field, value):
    assert await params_of(api, **{field: value}) == await params_of(api)


@pytest.mark.parametrize("schema", [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest])
def test_unknown_keys_are_not_kept(schema):
    body = {"messages": [{"role": "user", "content": "a"}], "prompt": "a", "tokens": [1], "x-what": "y" * 1000}
    request = validate_body(schema, body)
    assert not request.model_extra and "yyy" not in repr(request)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_transfer_params", {"do_remote_decode": True}),
        ("ec_transfer_params", {"do_remote_encode": True}),
        ("watermarking", True),
        ("return_weight_versions", True),
    ],
)
async def test_what_is_not_built_yet_is_refused_by_name(api, field, value):
    answer = await api.chat(**{field: value})
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", field)
    assert answer.error["message"].startswith(f"{field} is not supported yet")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "inf"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 16385}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_completion_tokens": 65, "max_tokens": 1}, "max_completion_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": "x" * 4097}, "stop"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": -2, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"logprob_token_ids": [1], "logprobs": False}, "logprob_token_ids"),
        ({"logprob_token_ids": [1] * 129, "logprobs": True}, "logprob_token_ids"),
        ({"logprob_token_ids": [VOCAB_SIZE, 1], "logprobs": True}, "logprob_token_ids"),
        ({"logprob_token_ids": [1, -1], "logprobs": True}, "logprob_token_ids"),
        ({"prompt_logprobs": -2}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": -1, "stream": True}, "prompt_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"unknown": 1}}, "stream_options"),
        ({"stream_options": {"include_usage": False}}, "stream_options"),
        ({"stream_interval": 0}, "stream_interval"),
        ({"user": "u" * 257}, "user"),
        ({"session_id": "u" * 257}, "session_id"),
        ({"request_id": "u" * 257}, "request_id"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "a/b"}, "cache_salt"),
        ({"cache_salt": "a@b"}, "cache_salt"),
        ({"cache_salt": "a\\b"}, "cache_salt"),
        ({"cache_salt": "a\0b"}, "cache_salt"),
        ({"cache_salt": "s" * 129}, "cache_salt"),
        ({"priority": 3}, "priority"),
        ({"repetition_detection": {"max_pattern_size": 3}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 3, "min_count": 1}}, "repetition_detection"),
        ({"repetition_detection": {"min_pattern_size": 1}}, "repetition_detection"),
        (
            {"repetition_detection": {"max_pattern_size": 3, "min_pattern_size": 4, "min_count": 2}},
            "repetition_detection",
        ),
        ({"repetition_detection": {"min_count": -1}}, "repetition_detection"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": "nan"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"length_penalty": "inf"}, "length_penalty"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 65}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 2**63 - 1}, "truncate_prompt_tokens"),
        ({"truncation_side": "up"}, "truncation_side"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [1, VOCAB_SIZE]}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1, 1]}, "allowed_token_ids"),
        ({"allowed_token_ids": [1] * (VOCAB_SIZE + 1)}, "allowed_token_ids"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
        ({"logit_bias": {"1": "nan"}}, "logit_bias"),
        ({"logit_bias": {"1.5": 1}}, "logit_bias"),
        ({"frequency_penalty": "inf"}, "frequency_penalty"),
        ({"repetition_penalty": "inf"}, "repetition_penalty"),
        ({"bad_words": [""]}, "bad_words"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tools": []}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "function", "function": {"name": ""}}}, "tool_choice.function.name"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"thinking_token_budget": -2}, "thinking_token_budget"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"range": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 65536}}, "chat_template_kwargs"),
        ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
        ({"media_io_kwargs": {"video": {"num_frames": 8}}}, "media_io_kwargs"),
        ({"vllm_xargs": {"a": {"b": 1}}}, "vllm_xargs"),
        ({"vllm_xargs": {"a": 2**64}}, "vllm_xargs"),
        ({"vllm_xargs": {"a": -(2**63) - 1}}, "vllm_xargs"),
    ],
    ids=str,
)
async def test_a_wrong_value_is_a_400_naming_the_field(api, fields, param):
    answer = await api.chat(**fields)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", param)
    assert not api.llm.calls


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "body.messages"),
        ({"messages": []}, "body.messages"),
        ({"messages": "Hi"}, "body.messages"),
        ({"messages": [{"content": "Hi"}]}, "body.messages.0.role"),
        ({"messages": [{"role": 3, "content": "Hi"}]}, "body.messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "body.messages.0.content"),
        ({"messages": [{"role": "user", "content": [3]}]}, "body.messages.0.content.0"),
        ({"top_k": 3.5}, "body.top_k"),
        ({"top_k": "three"}, "body.top_k"),
        ({"n": []}, "body.n"),
        ({"user": 3}, "body.user"),
        ({"stop": 3}, "body.stop"),
        ({"stop": {"a": 1}}, "body.stop"),
        ({"stop": ["a", 1]}, "body.stop.1"),
        ({"stream": "maybe"}, "body.stream"),
        ({"stream": 2}, "body.stream"),
        ({"seed": 2**63}, "body.seed"),
        ({"seed": -(2**63) - 1}, "body.seed"),
        ({"seed": 10**30}, "body.seed"),
        ({"priority": 2**63}, "body.priority"),
        ({"truncate_prompt_tokens": -2}, "body.truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 2**63}, "body.truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 1.5}, "body.truncate_prompt_tokens"),
        ({"top_logprobs": "2", "logprobs": True}, "body.top_logprobs"),
        ({"top_logprobs": True, "logprobs": True}, "body.top_logprobs"),
        ({"prompt_logprobs": "2"}, "body.prompt_logprobs"),
        ({"documents": [{"a": 1}]}, "body.documents.0.a"),
        ({"documents": {}}, "body.documents"),
        ({"chat_template_kwargs": []}, "body.chat_template_kwargs"),
        ({"stream_options": 3, "stream": True}, "body.stream_options"),
        ({"response_format": {}}, "body.response_format.type"),
        ({"logit_bias": {"1": "x"}}, "body.logit_bias.1"),
        ({"tools": [{"type": "function"}]}, "body.tools.0.function"),
        ({"tools": [{"type": "tool", "function": {"name": "f"}}]}, "body.tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "body.tools.0.function.name"),
    ],
    ids=str,
)
async def test_a_wrong_type_is_a_bad_request_with_its_path(api, fields, param):
    answer = await api.chat(**fields)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "Bad Request", param)
    assert answer.error["message"].startswith("1 validation error:")


@pytest.mark.parametrize("value", [2**70, -(2**70), 10**300])
@pytest.mark.parametrize("field", ["top_k", "seed", "n", "stop_token_ids", "top_logprobs", "truncate_prompt_tokens"])
async def test_an_integer_of_more_than_64_bits_is_called_that(api, field, value):
    answer = await api.chat(**{field: [value] if field == "stop_token_ids" else value})
    assert (answer.status, answer.error["type"]) == (400, "Bad Request")
    assert answer.error["param"].startswith(f"body.{field}")
    assert "an integer of at most 64 bits" in answer.error["message"] and "string" not in answer.error["message"]


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
async def test_a_transfer_is_refused_with_what_it_needs(api, name):
    for ask in (api.chat, api.complete):
        error = (await ask(**{name: {"a": 1}})).error
        assert (error["param"], error["code"]) == (name, 400)
        assert "needs a transfer connector, which this server has not" in error["message"]
        assert (await ask(**{name: None})).json[name] is None


async def test_a_missing_messages_is_named(api):
    answer = await api.post("/v1/chat/completions", {})
    assert (answer.status, answer.error["param"]) == (400, "body.messages")


async def test_the_models_defaults_stand_where_the_request_says_nothing(api):
    api.llm.sampling_defaults = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, "max_new_tokens": 5}
    params = await params_of(api, top_k=3)
    assert (params.temperature, params.top_k, params.top_p, params.repetition_penalty) == (0.6, 3, 1.0, 1.1)
    assert (await params_of(api, temperature=0)).temperature == 0


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty", "min_p", "top_p"])
async def test_a_default_gives_way_to_the_neutral_value_of_a_request(api, name):
    api.llm.sampling_defaults = {name: 0.75}
    assert getattr(await params_of(api), name) == 0.75
    assert getattr(await params_of(api, **{name: 1}), name) == 1.0


async def test_all_bad_keys_of_a_bias_are_told_in_one_message(api):
    message = (await api.chat(logit_bias={"x": 1, "5": 1, "": 1, "1e3": 1})).error["message"]
    assert all(key in message for key in ("'x'", "''", "'1e3'")) and "'5'" not in message


async def test_ids_out_of_vocabulary_are_named_with_its_size(api):
    message = (await api.chat(logit_bias={"2000": 1, "5": 1, "-3": 1})).error["message"]
    assert all(part in message for part in ("2000", "-3", str(VOCAB_SIZE)))


async def test_the_message_of_a_long_prompt_is_the_familiar_one(api):
    answer = await api.chat(messages=[{"role": "user", "content": "x" * 64}])
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", "messages")
    assert "maximum context length is 64 tokens" in answer.error["message"]
    assert "67 tokens" in answer.error["message"]
    assert "prompt is too long" in answer.error["message"]  # LangChain knows an overflow by these words alone


async def test_a_reply_that_would_be_huge_is_refused_before_it_runs(make_api):
    answer = await make_api(max_reply_bytes=10_000).chat(n=8, logprobs=True, top_logprobs=20)
    assert (answer.status, "bytes" in answer.error["message"]) == (400, True)


async def test_null_and_empty_models_mean_the_default_and_aliases_are_answered_with_the_first(make_api):
    api = make_api(served_model_name=("one", "two"))
    for name in (None, "", "one", "two"):
        assert (await api.chat(model=name)).json["model"] == "one"


async def test_the_priority_header_counts_like_the_field(api):
    path = "/v1/chat/completions"
    refused = await api.post(path, CHAT, headers={"X-Vllm-Priority": "2"})
    assert (refused.status, refused.error["param"]) == (400, "priority")
    assert refused.error["message"] == "Got priority 2 but priority scheduling is not enabled."
    assert (await api.post(path, CHAT | {"priority": 2}, headers={"X-Vllm-Priority": "0"})).status == 200
    assert (await api.post(path, CHAT, headers={"X-Vllm-Priority": "high"})).status == 200
    assert (await api.post(path, CHAT, headers={"X-data-parallel-rank": "1"})).status == 400
    assert (await api.post(path, CHAT, headers={"X-Request-Id": "x" * 257})).status == 400


@pytest.mark.parametrize(
    ("field", "header", "becomes"),
    [(None, None, 0), (-3, None, -3), (-3, "5", 5), (-3, "0", 0), (-3, "high", -3), (-3, "", -3), (None, "2", 2)],
)
async def test_priorities_count_where_they_are_scheduled_by(make_api, field, header, becomes):
    api = make_api(llm=FakeLLM(scheduling_policy="priority"))
    headers = {} if header is None else {"X-Vllm-Priority": header}
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "ab"})):
        answer = await api.post(path, body | {"priority": field}, headers=headers)
        assert (answer.status, api.llm.calls[-1].params.priority) == (200, becomes)
    assert (await api.post(path, body, headers={"X-Vllm-Priority": str(2**63)})).error["param"] == "priority"


async def test_the_salt_reaches_the_engine(api):
    await api.chat(cache_salt="salt")
    assert api.llm.calls[-1].cache_salt == "salt"


def test_the_fake_is_what_the_tests_think():
    assert FakeLLM().config.max_model_len == 64


async def test_a_request_may_name_its_replica(make_api):
    api = make_api(llm=FakeLLM(data_parallel_size=2))
    for value, rank in (("1", 1), ("0", 0), ("x", None), (None, None)):
        headers = {} if value is None else {"X-data-parallel-rank": value}
        assert (await api.post("/v1/chat/completions", CHAT, headers=headers)).status == 200
        assert api.llm.calls[-1].data_parallel_rank == rank
    error = (await api.post("/v1/completions", {"prompt": "a"}, headers={"X-data-parallel-rank": "2"})).error
    assert error["message"] == "X-data-parallel-rank must be from 0 to 1: there are 2 replicas, got 2."
