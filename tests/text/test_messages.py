"""Messages as clients send them become messages as templates expect them."""

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.text.messages import MEDIA_PARTS, prepare_messages


def one(message: dict, content_format="string", **options) -> dict:
    return prepare_messages([message], content_format, **options)[0]


def call(arguments, **fields) -> dict:
    return {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}, **fields}],
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, ""),
        ([], ""),
        (["hi", {"type": "text", "text": "there"}], "hi\nthere"),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb"),
        ([{"type": "refusal", "refusal": "no"}, {"type": "thinking", "thinking": "hm"}], "no\nhm"),
        ([{"type": "text", "text": None}, {"type": "text", "text": "x"}], "x"),
    ],
)
def test_content_becomes_one_text_or_a_list_of_texts(content, text):
    assert one({"role": "user", "content": content})["content"] == text
    parts = [{"type": "text", "text": line} for line in text.split("\n")] if text else []
    assert one({"role": "user", "content": content}, "openai")["content"] == parts


def test_a_string_and_a_single_part_are_the_same():
    for content_format in ("string", "openai"):
        for lone in (False, True):
            as_text, as_part = (
                one({"role": "user", "content": content}, content_format, lone_text_is_string=lone)
                for content in ("hi", [{"type": "text", "text": "hi"}])
            )
            assert as_text == as_part


def test_a_tool_s_parts_are_joined_whatever_the_format():
    message = {"role": "tool", "tool_call_id": "7", "content": ["a", "b"], "name": "f"}
    assert one(message, "openai") == {"role": "tool", "tool_call_id": "7", "content": "a\nb", "name": "f"}


@pytest.mark.parametrize("kind", MEDIA_PARTS)
def test_media_are_refused_by_a_model_of_text(kind):
    with pytest.raises(InvalidParameter, match="at most 0"):
        one({"role": "user", "content": [{"type": kind, kind: "x"}]})
    with pytest.raises(InvalidParameter, match="at most 0"):
        one({"role": "user", "content": [{kind: "x"}]})


@pytest.mark.parametrize("part", [{"text": "no type"}, {"type": 3}, {"type": "nonsense"}])
def test_an_unknown_type_of_part_names_the_known_ones(part):
    with pytest.raises(InvalidParameter, match="input_text") as caught:
        one({"role": "user", "content": [part]})
    assert caught.value.param == "type"


@pytest.mark.parametrize(
    "messages",
    [[], ["x"], [{}], [{"role": 1}], [{"role": "user", "content": 3}], [{"role": "user", "content": [3]}],
     [{"role": "user", "content": [{"type": "text", "text": 3}]}], [{"role": "assistant", "reasoning": 3}]],
)  # fmt: skip
def test_what_is_no_message_is_refused(messages):
    with pytest.raises(InvalidParameter):
        prepare_messages(messages, "string")


@pytest.mark.parametrize(
    ("arguments", "value", "text"),
    [
        ('{"a":1}', {"a": 1}, '{"a":1}'),
        ({"a": "é"}, {"a": "é"}, '{"a": "é"}'),
        *((broken, {}, "{}") for broken in ("", None, "{", "[1]", "3", "[" * 100_000)),
    ],
)
def test_arguments_are_an_object_or_its_text(arguments, value, text):
    assert one(call(arguments))["tool_calls"][0]["function"] == {"name": "f", "arguments": value}
    assert one(call(arguments), arguments_as_text=True)["tool_calls"][0]["function"]["arguments"] == text


def test_calls_keep_their_id_and_get_their_type():
    assert one(call("{}"))["tool_calls"][0] == {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": {}},
    }


@pytest.mark.parametrize("calls", ["x", [3], [{}], [{"function": "f"}], [{"type": "other", "function": {}}]])
def test_malformed_calls_are_refused(calls):
    with pytest.raises(InvalidParameter) as caught:
        one({"role": "assistant", "tool_calls": calls})
    assert caught.value.param == "tool_calls"


def test_an_empty_list_of_calls_is_no_list():
    assert "tool_calls" not in one({"role": "assistant", "content": "x", "tool_calls": []})


@pytest.mark.parametrize(
    "given", [{"reasoning": "r"}, {"reasoning_content": "r"}, {"reasoning": "r", "reasoning_content": "s"}]
)
def test_reasoning_is_seen_under_every_name(given):
    message = one({"role": "assistant", "content": "x", **given})
    assert message["reasoning"] == message["reasoning_content"] == message["thinking"] == "r"


def test_thinking_can_be_left_out_beside_a_content_and_calls():
    for content, is_there in [("x", False), ("", True), (None, True)]:
        message = {"content": content, "reasoning": "r", **call("{}")}
        assert ("thinking" in one(message, keep_thinking_with_calls=False)) == is_there
        assert "thinking" in one(message)


def test_references_to_tools_keep_their_name():
    content = [{"type": "tool_reference", "name": "f"}, "x"]
    parts = [{"type": "tool_reference", "name": "f"}, {"type": "text", "text": "x"}]
    for role in ("tool", "user"):
        assert one({"role": role, "content": content})["content"] == "f\nx"
        assert one({"role": role, "content": content}, "openai")["content"] == parts


def test_unknown_keys_are_not_seen_and_custom_roles_are():
    assert one({"role": "critic", "content": "x", "name": "n", "extra": 1}) == {
        "role": "critic",
        "content": "x",
        "name": "n",
    }


def test_a_developer_is_the_system_where_the_template_knows_none():
    texts = [("system", "a"), ("user", "q"), ("developer", ["b", "c"]), ("system", "d")]
    messages = [{"role": role, "content": content} for role, content in texts]
    merged = prepare_messages(messages, "string", has_developer_role=False)
    assert [(m["role"], m["content"]) for m in merged] == [("system", "a\n\nb\nc\n\nd"), ("user", "q")]
    assert [m["role"] for m in prepare_messages(messages, "string")] == ["system", "user", "developer", "system"]
    assert len(prepare_messages(messages[:2] + messages[3:], "string", has_developer_role=False)) == 3


def test_the_caller_s_messages_are_not_changed():
    message = {"role": "assistant", "content": ["a"], "reasoning": "r", **call('{"a": 1}')}
    before = repr(message)
    one(message, "openai")
    assert repr(message) == before
