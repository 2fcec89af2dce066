"""The request fields through HTTP on a real, tiny model: lengths, stopping, logprobs, and streams of all that.

Its vocabulary is single bytes and its weights are random, so answers are full of broken characters, repeat themselves
and end at any place. Batch invariance makes equal requests equal to the last bit.
"""

from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.end_to_end.conftest import LENGTH
from tests.server.api import Api

some = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def complete(api: Api, prompt: Any = "abc", **fields: Any) -> dict[str, Any]:
    answer = await api.complete(**{"prompt": prompt, "temperature": 0, "max_tokens": 40, **fields})
    assert answer.status == 200, answer.text
    return answer.json["choices"][0] | {"usage": answer.json["usage"]}


def ends_in_copies(ids: list[int], smallest: int, largest: int, count: int) -> bool:
    return any(
        size * count <= len(ids) and ids[-size * count :] == ids[-size:] * count
        for size in range(smallest, largest + 1)
    )


class TestStops:
    @some
    @given(start=st.integers(0, 30), size=st.integers(1, 4), included=st.booleans(), least=st.integers(0, 40))
    async def test_a_stop_string_ends_the_text_after_min_tokens(self, api, start, size, included, least):
        fields = {"ignore_eos": True, "skip_special_tokens": False, "logprobs": 0, "return_token_ids": True}
        fields["min_tokens"] = least
        free = await complete(api, **fields)
        stop = free["text"][start : start + size]
        assume(stop)
        cut = await complete(api, stop=[stop], include_stop_str_in_output=included, **fields)
        num = len(cut["token_ids"])
        assert cut["token_ids"] == free["token_ids"][:num]
        assert cut["logprobs"]["tokens"] == free["logprobs"]["tokens"][:num]
        assert cut["usage"]["completion_tokens"] == num
        if cut["finish_reason"] == "length":
            assert cut["text"] == free["text"] and stop not in "".join(free["logprobs"]["tokens"][least:])
            return
        assert (cut["stop_reason"], num > least) == (stop, True)
        seen = "".join(cut["logprobs"]["tokens"])
        assert stop in seen and seen.startswith(cut["text"])
        assert cut["text"].endswith(stop) == included or not included

    async def test_a_stop_id_is_told_and_hidden_unless_it_is_to_be_shown(self, api):
        free = await complete(api, ignore_eos=True, return_token_ids=True)
        stop = free["token_ids"][7]
        first = free["token_ids"].index(stop)
        cut = await complete(api, ignore_eos=True, return_token_ids=True, stop_token_ids=[stop])
        assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)
        assert cut["token_ids"] == free["token_ids"][: first + 1]
        assert cut["text"] == (await complete(api, ignore_eos=True, max_tokens=first))["text"]

    @some
    @given(
        sizes=st.tuples(st.integers(0, 4), st.integers(1, 40)).map(sorted),
        count=st.integers(2, 4),
        least=st.integers(0, 60),
        seed=st.integers(0, 5),
    )
    async def test_a_repetition_ends_the_answer_where_the_definition_says(self, api, sizes, count, least, seed):
        fields = {"ignore_eos": True, "return_token_ids": True, "max_tokens": 80, "top_k": 2, "seed": seed}
        fields |= {"temperature": 0.5 if seed else 0, "min_tokens": least}
        free = await complete(api, **fields)
        wanted = {"min_pattern_size": sizes[0], "max_pattern_size": sizes[1], "min_count": count}
        cut = await complete(api, repetition_detection=wanted, **fields)
        ids, lo = free["token_ids"], max(sizes[0], 1)
        places = range(max(least, 1), 80)
        expected = next((n for n in places if ends_in_copies(ids[:n], lo, sizes[1], count)), None)
        if expected is None:
            assert (cut["finish_reason"], cut["token_ids"]) == ("length", ids)
        else:
            assert (cut["finish_reason"], cut["stop_reason"]) == ("repetition", "repetition_detected")
            assert cut["token_ids"] == ids[:expected]

    async def test_a_stop_string_is_stronger_than_a_repetition_and_a_length(self, api):
        fields = {"ignore_eos": True, "return_token_ids": True, "logprobs": 0}
        wanted = {"max_pattern_size": 40, "min_count": 2}
        free = await complete(api, max_tokens=200, repetition_detection=wanted, **fields)
        fields["min_tokens"] = len(free["token_ids"]) - 1
        cut = await complete(api, max_tokens=200, repetition_detection=wanted, **fields)
        assert cut["finish_reason"] == "repetition"
        num, stop = len(cut["token_ids"]), cut["text"][-1]
        for more in ({"max_tokens": 200, "repetition_detection": wanted}, {"max_tokens": num}):
            both = await complete(api, stop=stop, **fields, **more)
            assert (both["finish_reason"], both["stop_reason"], both["text"]) == ("stop", stop, cut["text"][:-1])
            assert len(both["token_ids"]) == num

    async def test_ends_are_counted_by_reason(self, api, llm):
        before = llm.stats().finished["repetition"]
        await complete(
            api, max_tokens=200, ignore_eos=True, repetition_detection={"max_pattern_size": 40, "min_count": 2}
        )
        metrics = (await api.get("/metrics")).text
        assert llm.stats().finished["repetition"] == before + 1
        line = next(one for one in metrics.splitlines() if 'finished_reason="repetition"' in one)
        assert float(line.split()[-1]) == before + 1


class TestLengths:
    @pytest.mark.parametrize(
        ("length", "asked", "given"), [(5, 300, None), (5, 256, 251), (250, 40, 6), (250, None, 6)]
    )
    async def test_a_length_is_refused_above_the_context_and_clamped_below(self, api, length, asked, given):
        body = {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True, "temperature": 0}
        answer = await api.post("/v1/chat/completions", body | {"max_tokens": asked, "truncate_prompt_tokens": length})
        if given is None:
            assert (answer.status, answer.error["param"]) == (400, "max_tokens")
            assert "cannot be greater than max_model_len" in answer.error["message"]
            return
        usage = answer.json["usage"]
        room = LENGTH - usage["prompt_tokens"]
        assert usage["completion_tokens"] == min(room, asked or room)
        assert answer.json["choices"][0]["finish_reason"] == "length"

    async def test_more_min_tokens_than_there_is_room_for(self, api):
        answer = await api.complete(prompt=[1] * 250, max_tokens=40, min_tokens=7)
        assert (answer.status, answer.error["param"]) == (400, "min_tokens")
        assert (await api.complete(prompt=[1] * 250, max_tokens=40, min_tokens=6)).status == 200

    @pytest.mark.parametrize("prompt", [[1] * 256, "x" * 256, [1] * 300])
    async def test_no_room_is_told_in_the_familiar_words(self, api, prompt):
        answer = await api.complete(prompt=prompt)
        assert (answer.status, answer.error["param"]) == (400, "prompt")
        assert f"This model's maximum context length is {LENGTH} tokens" in answer.error["message"]
        assert "256" in answer.error["message"]

    @some
    @given(kept=st.integers(1, 30) | st.just(-1), side=st.sampled_from(["left", "right", None]))
    async def test_a_cut_prompt_is_answered_as_its_part(self, api, kept, side):
        ids = [1 + i % 200 for i in range(25)]
        fields = {"max_tokens": 5, "logprobs": 1, "echo": True, "return_token_ids": True, "prompt_logprobs": 2}
        cut = await complete(api, ids, truncate_prompt_tokens=kept, truncation_side=side, **fields)
        part = ids if kept == -1 else ids[:kept] if side == "right" else ids[-kept:]
        assert cut == await complete(api, part, **fields)


class TestLogprobs:
    async def test_prompt_logprobs_echo_and_chat_agree(self, api):
        chat = await api.chat(prompt_logprobs=3, return_token_ids=True, temperature=0, max_tokens=4)
        ids, table = chat.json["prompt_token_ids"], chat.json["prompt_logprobs"]
        echoed = await complete(api, ids, echo=True, logprobs=3, max_tokens=0, prompt_logprobs=3)
        assert echoed["prompt_logprobs"] == table
        assert (table[0], len(table)) == (None, len(ids))
        arrays = echoed["logprobs"]
        assert {len(one) for one in arrays.values()} == {len(ids)}
        assert (arrays["token_logprobs"][0], arrays["top_logprobs"][0]) == (None, None)
        assert arrays["text_offset"] == [len("".join(arrays["tokens"][:n])) for n in range(len(ids))]
        for token_id, entry, logprob, token in zip(
            ids[1:], table[1:], arrays["token_logprobs"][1:], arrays["tokens"][1:], strict=True
        ):
            own, *others = entry.items()
            assert own == (str(token_id), {"logprob": logprob, "rank": own[1]["rank"], "decoded_token": token})
            ranks = [one["rank"] for _, one in others]
            assert ranks == [rank for rank in range(1, 5) if rank != own[1]["rank"]][: len(ranks)]
            assert len(entry) == (3 if own[1]["rank"] <= 3 else 4)
            assert sorted((one["logprob"] for _, one in others), reverse=True) == [one["logprob"] for _, one in others]
        assert (echoed["usage"]["completion_tokens"], echoed["finish_reason"]) == (0, "length")

    async def test_bytes_make_the_text_and_parts_of_characters_have_none(self, api):
        fields = {"logprobs": True, "top_logprobs": 2, "temperature": 1.5, "seed": 3, "max_tokens": 120}
        choice = (await api.chat(**fields, skip_special_tokens=False, return_token_ids=True)).json["choices"][0]
        content = choice["logprobs"]["content"]
        assert len(content) == len(choice["token_ids"])
        shown = content[:-1] if choice["finish_reason"] == "stop" else content
        text = bytes(byte for entry in shown for byte in entry["bytes"]).decode()
        assert text == choice["message"]["content"] == "".join(entry["token"] for entry in shown)
        assert any(entry["token"] == "" and entry["bytes"] == [] for entry in content)
        for entry in content:
            first, second = entry["top_logprobs"]
            assert {key: first[key] for key in ("token", "logprob", "bytes")} == {
                key: entry[key] for key in ("token", "logprob", "bytes")
            }
            assert second["token"] != first["token"] or second["bytes"] == first["bytes"]

    async def test_tokens_as_ids_keep_the_bytes(self, api):
        fields = {"logprobs": True, "top_logprobs": 2, "temperature": 0, "max_tokens": 20, "return_token_ids": True}
        plain = (await api.chat(**fields)).json["choices"][0]
        named = (await api.chat(**fields, return_tokens_as_token_ids=True)).json["choices"][0]
        for one, other, token_id in zip(
            plain["logprobs"]["content"], named["logprobs"]["content"], named["token_ids"], strict=True
        ):
            assert other["token"] == f"token_id:{token_id}" == other["top_logprobs"][0]["token"]
            assert (one["bytes"], one["logprob"]) == (other["bytes"], other["logprob"])
            assert [alt["bytes"] for alt in one["top_logprobs"]] == [alt["bytes"] for alt in other["top_logprobs"]]


mixes = st.fixed_dictionaries(
    {"seed": st.sampled_from([-5, -2, 0, 1, 2, 3]), "temperature": st.sampled_from([0.3, 1.0, 2.0])},
    optional={
        "n": st.integers(1, 3),
        "max_tokens": st.integers(1, 40),
        "top_p": st.sampled_from([0.5, 0.95]),
        "top_k": st.sampled_from([1, 5, -1]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "stop": st.lists(st.sampled_from(["a", " ", "\ufffd", "e\ufffd", "\n"]), max_size=3),
        "stop_token_ids": st.lists(st.integers(0, 271), max_size=4),
        "include_stop_str_in_output": st.booleans(),
        "ignore_eos": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "spaces_between_special_tokens": st.booleans(),
        "return_token_ids": st.booleans(),
        "return_tokens_as_token_ids": st.booleans(),
        "stream_interval": st.integers(1, 5),
        "truncate_prompt_tokens": st.sampled_from([-1, 3, 20]),
        "truncation_side": st.sampled_from(["left", "right"]),
        "repetition_detection": st.sampled_from([{}, {"max_pattern_size": 3, "min_count": 2}]),
        "priority": st.integers(-2, 2),
        "user": st.just("somebody"),
        "session_id": st.just("session"),
    },
)


def pieces_of(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    choices = sorted((event["choices"][0] for event in events), key=lambda choice: choice["index"])
    return [list(group) for _, group in groupby(choices, key=lambda choice: choice["index"])]


class TestStreamedIsWhole:
    @some
    @given(fields=mixes, logprobs=st.none() | st.integers(0, 4))
    async def test_a_chat(self, api, fields, logprobs):
        if logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": logprobs}
        whole, stream = await api.chat(**fields), await api.chat(**fields, stream=True)
        assert (whole.status, stream.status) == (200, 200), whole.text
        for own, expected in zip(pieces_of(stream.events), whole.json["choices"], strict=True):
            assert "".join(one["delta"].get("content", "") for one in own) == expected["message"]["content"]
            entries = [one for choice in own for one in (choice["logprobs"] or {"content": []})["content"]]
            assert entries == (expected["logprobs"] or {"content": []})["content"]
            self.check_ends(own, expected)

    @some
    @given(fields=mixes, logprobs=st.none() | st.integers(0, 4), echo=st.booleans())
    async def test_a_completion(self, api, fields, logprobs, echo):
        fields |= {"logprobs": logprobs, "echo": echo, "prompt": ["once upon a time", "\u00e9t\u00e9"]}
        whole, stream = await api.complete(**fields), await api.complete(**fields, stream=True)
        assert (whole.status, stream.status) == (200, 200), whole.text
        for own, expected in zip(pieces_of(stream.events), whole.json["choices"], strict=True):
            assert "".join(one["text"] for one in own) == expected["text"]
            for key, values in (expected["logprobs"] or {}).items():
                assert [one for choice in own for one in choice["logprobs"][key]] == values
            self.check_ends(own, expected)

    def check_ends(self, own, expected):
        assert own[-1]["finish_reason"] == expected["finish_reason"]
        assert own[-1]["stop_reason"] == expected["stop_reason"]
        assert [one["finish_reason"] for one in own[:-1]] == [None] * (len(own) - 1)
        ids = [one for choice in own for one in choice.get("token_ids", [])]
        assert ids == (expected["token_ids"] or [])
