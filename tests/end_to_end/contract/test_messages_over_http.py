"""Messages, and every field that shapes the prompt they come to."""

import pytest

from tests.end_to_end.contract.api_client import HELLO, check_error

pytestmark = pytest.mark.assets
MEDIA = (
    *("image_url", "input_image", "image_pil", "image_embeds", "input_audio", "audio_url", "audio_embeds"),
    *("video_url", "video_embeds", "prompt_embeds"),
)
BEGUN = [*HELLO, {"role": "assistant", "content": "Hello, my"}]
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def user(content):
    return [{"role": "user", "content": content}]


def text(*texts):
    return [{"type": "text", "text": one} for one in texts]


@pytest.mark.parametrize(
    ("content", "same"),
    [
        (text("Hello you"), "Hello you"),
        (["Hello you"], "Hello you"),
        ([*text("a"), {"type": "input_text", "text": "b"}, {"type": "output_text", "text": "c"}, "d"], "a\nb\nc\nd"),
        ([{"type": "refusal", "refusal": "a"}, {"type": "thinking", "thinking": "b"}], "a\nb"),
        ([{"type": "text", "text": None}, *text("b")], "b"),
        ([], ""),
        (None, ""),
    ],
    ids=str,
)
def test_parts_are_the_text_they_hold(ask, content, same):
    assert ask.prompt_ids(user(content)) == ask.prompt_ids(user(same))


@pytest.mark.parametrize("kind", MEDIA)
def test_a_model_of_text_takes_no_media(ask, kind):
    for part in ({"type": kind, kind: {"url": "data:,"}}, {kind: {"url": "data:,"}}):
        error = check_error(ask.ask(user([part])))
        assert error["type"] == "BadRequestError" and " 0 " in error["message"]


@pytest.mark.parametrize("part", [{"type": "hologram"}, {"text": "x"}, {"type": 5, "text": "x"}])
def test_a_part_of_no_known_type(ask, part):
    error = check_error(ask.ask(user([part])))
    assert error["param"] == "type" and "input_text" in error["message"]


def test_any_role_may_speak_and_a_tool_in_parts(ask):
    ask.chat([{"role": "wizard", "content": "x"}, {"role": "function", "name": "f", "content": "y"}])
    whole, parts = ({"role": "tool", "tool_call_id": "a", "content": one} for one in ("a\nb", text("a", "b")))
    assert ask.prompt_ids([whole]) == ask.prompt_ids([parts])


def test_developers_and_systems_are_one_system_where_there_is_a_developer(ask):
    system = [{"role": "system", "content": "S"}]
    merged = [{"role": "system", "content": "D\n\nS"}, *user("x")]
    assert ask.prompt_ids([{"role": "developer", "content": "D"}, *user("x"), *system]) == ask.prompt_ids(merged)
    assert ask.prompt_ids([{"role": "system", "content": "D"}, *user("x"), *system]) != ask.prompt_ids(merged)


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", None, {"a": 1}, '{"a": 1}'], ids=repr)
def test_calls_in_the_history_are_taken_however_broken(ask, arguments):
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    ask.chat([*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO])
    ask.chat([*HELLO, {"role": "assistant", "tool_calls": []}, *HELLO])


@pytest.mark.parametrize("call", ["x", {"id": "1"}, {"type": "x", "function": {"name": "f"}}, {"function": "f"}])
def test_a_call_in_the_history_is_a_function_s(ask, call):
    assert check_error(ask.ask([{"role": "assistant", "tool_calls": [call]}, *HELLO]))["param"] == "tool_calls"


def test_special_tokens_in_a_text_are_special(ask):
    assert 2 in ask.prompt_ids(user("a<|im_end|>b"), add_generation_prompt=False)[-8:-3]


def test_add_generation_prompt_opens_the_turn_and_names_the_speaker(ask):
    open_ids, closed = ask.prompt_ids(), ask.prompt_ids(add_generation_prompt=False)
    assert open_ids[: len(closed)] == closed and ask.decode(open_ids[len(closed) :]) == "<|im_start|>assistant\n"
    roles = [ask.choice(add_generation_prompt=flag)["message"]["role"] for flag in (True, False)]
    assert roles == ["assistant", "user"]
    assert ask.prompt_ids(add_generation_prompt=True, chat_template_kwargs={"add_generation_prompt": False}) == open_ids


@pytest.mark.parametrize("end", ["Hello, my", "Hello, my "])
def test_continue_final_message_ends_where_the_message_does(ask, end):
    ids = ask.prompt_ids([*HELLO, {"role": "assistant", "content": end}], **CONTINUED)
    assert ask.decode(ids).endswith("<|im_start|>assistant\n" + end)
    for both in ({"add_generation_prompt": True}, {}):
        assert "continue_final_message" in check_error(ask.ask(BEGUN, continue_final_message=True, **both))["message"]


def test_echo_puts_the_last_message_in_front_if_its_role_speaks(ask):
    plain = ask.chat(BEGUN, **CONTINUED)
    echoed = ask.chat(BEGUN, **CONTINUED, echo=True)
    assert echoed["choices"][0]["message"]["content"] == "Hello, my" + plain["choices"][0]["message"]["content"]
    assert echoed["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert ask.text(echo=True) == ask.text()
    parts = [*HELLO, {"role": "assistant", "content": text("A", "B")}]
    assert ask.text(parts, echo=True) == "A\nB" + ask.text(parts)
    nothing = [*HELLO, {"role": "assistant", "content": None}]
    assert ask.text(nothing, echo=True) == ask.text(nothing)


def test_add_special_tokens_adds_those_of_the_tokenizer(ask):
    """This tokenizer has none to add, so the prompt stays; what one with a BOS does is shown in tests/text."""
    assert ask.prompt_ids(add_special_tokens=True) == ask.prompt_ids() == ask.prompt_ids(add_special_tokens=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": [{"title": "t", "text": "b"}]},
        {"chat_template_kwargs": {"foo": [1, {"a": 2}], "enable_thinking": False}},
        {"mm_processor_kwargs": {}},
        {"media_io_kwargs": {}},
        {"return_token_offsets": True},
        {"mm_payload": "none", "return_mm_kwargs": False},
        *({"reasoning_effort": one} for one in ("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        {"tool_choice": "none"},
        {"include_reasoning": False},
        {"parallel_tool_calls": False},
    ],
    ids=str,
)
def test_what_the_template_does_not_use_changes_nothing(ask, fields):
    assert ask.prompt_ids(**fields) == ask.prompt_ids()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template", "--trust-request-chat-template"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "--trust-request-chat-template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize"),
        ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs", "--trust-request-mm-kwargs"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "minimal"),
        ({"documents": [{"a": 1}]}, "body.documents.0.a", "string"),
        ({"tools": []}, "tools", "empty"),
        ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "body.tools.0.type", "function"),
        ({"tools": [{"type": "function", "function": {}}]}, "body.tools.0.function.name", "required"),
        ({"tool_choice": "auto"}, "tool_choice", "tools"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"tool_choice": "sometimes", "tools": [FUNCTION]}, "tool_choice", "sometimes"),
        ({"tool_choice": {}, "tools": [FUNCTION]}, "tool_choice", "function"),
        ({"tool_choice": {"type": "function"}, "tools": [FUNCTION]}, "tool_choice.function", "function"),
        (
            {"tool_choice": {"type": "function", "function": {"name": ""}}, "tools": [FUNCTION]},
            "tool_choice.function.name",
            "non-empty",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"thinking_token_budget": 5}, "thinking_token_budget", ""),
    ],
    ids=str,
)
def test_what_a_prompt_or_its_answer_cannot_be(ask, fields, param, words):
    error = check_error(ask.ask(**fields))
    assert error["param"] == param and words in error["message"]


def test_tools_that_may_not_be_called_and_a_format_of_text_are_fine(ask):
    ask.chat(tools=[FUNCTION], tool_choice="none", parallel_tool_calls=False)
    schema = {"name": "x", "schema": {}}
    assert ask.text(response_format={"type": "text", "json_schema": schema}) == ask.text()


def test_return_prompt_text_shows_what_the_template_wrote(ask):
    reply = ask.chat(return_prompt_text=True, return_token_ids=True)
    assert reply["prompt_text"] == ask.decode(reply["prompt_token_ids"])
    assert "prompt_text" not in ask.chat()


def test_tokenize_counts_what_would_be_read(ask):
    for fields in ({}, {"add_generation_prompt": False}):
        counted = ask.post("/tokenize", {"messages": HELLO} | fields).json()
        assert list(counted) == ["count", "max_model_len", "tokens", "token_strs"]
        assert counted["tokens"] == ask.prompt_ids(**fields) and counted["count"] == len(counted["tokens"])
    pieces = ask.post("/tokenize", {"prompt": "Hello world", "return_token_strs": True}).json()
    assert pieces["token_strs"] == ["Hello", "\u0120world"]
    assert ask.decode(pieces["tokens"]) == "Hello world"
    assert ask.post("/tokenize", {"prompt": ""}).json()["count"] == 0
    for wrong in ([-1], ["a"], [10**6], None, 5):
        check_error(ask.post("/detokenize", {"tokens": wrong}))
