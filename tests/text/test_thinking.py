"""The end of the reasoning is found at the token that completes it, whichever way the marker is cut into tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from jaxserve.text import thinking
from jaxserve.text.detokenizer import detokenizer
from jaxserve.text.thinking import marker_ids, section_at_end, until, until_final
from jaxserve.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import byte_fallback_backend, byte_level_backend, make, words_backend

TOKENIZERS = {
    "byte level": make(byte_level_backend(), "<|im_end|>"),
    "byte fallback": make(byte_fallback_backend(), "</s>"),
}
HARMONY = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]


def num_thought(place: thinking.UntilMarker | thinking.UntilChannel, token_ids: list[int]) -> int | None:
    """How many tokens it takes until the reasoning has ended; None: it has not."""
    for num, token_id in enumerate(token_ids, 1):
        after = place.advance(token_id)
        if after is None:
            return num
        place = after
    return None


def with_specials(*texts: str) -> Tokenizer:
    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])
    return make(backend)


def pieces(tokenizer: Tokenizer, text: str, cuts: list[int]) -> list[int]:
    """The tokens of the text cut in places, so that a marker comes in many forms."""
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    return [id for part in parts for id in tokenizer.encode(part, add_special_tokens=False)]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    before=st.text("th<>/ink \né", max_size=12),
    after=st.text("a>k ", max_size=5),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_a_text_ends_it_however_it_is_cut(name, before, after, cuts):
    tokenizer, marker = TOKENIZERS[name], "</think>"
    token_ids = pieces(tokenizer, before + marker + after, cuts)
    found = num_thought(until(tokenizer, [marker]), token_ids)
    text, shown = detokenizer(tokenizer, (0,), True), ""
    for num, token_id in enumerate(token_ids, 1):
        shown += text.push(token_id)
        assert (marker in shown) == (found is not None and num >= found)


def test_advancing_leaves_a_place_as_it_was():
    tokenizer = TOKENIZERS["byte level"]
    first, *rest = pieces(tokenizer, "</think>", [3])
    place = until(tokenizer, ["</think>"])
    after = place.advance(first)
    assert after is not None
    assert num_thought(after, rest) == num_thought(after, rest) == len(rest)
    assert num_thought(place, rest) is None and place.tail == b""


def test_of_several_markers_the_first_ends_it():
    tokenizer = TOKENIZERS["byte level"]
    place = until(tokenizer, ["</think>", "<tool_call>"])
    assert num_thought(place, [*tokenizer.encode("so"), tokenizer.encode("<tool_call>")[0]]) == 3
    assert num_thought(place, tokenizer.encode("</think><tool_call>")) == len(tokenizer.encode("</think>"))


def test_a_special_token_ends_it_and_a_text_like_it_does_not():
    tokenizer = with_specials("[/THINK]")
    marker = thinking.special_id(tokenizer, "[/THINK]")
    place = until(tokenizer, ["[/THINK]"])
    spelled = [id for char in "[/THINK]" for id in tokenizer.encode(char)]
    assert num_thought(place, [*spelled, marker]) == len(spelled) + 1
    assert place.advance(spelled[0]) is place


def test_what_stays_the_same_is_kept_short():
    tokenizer = TOKENIZERS["byte level"]
    place = until(tokenizer, ["</think>"])
    for token_id in tokenizer.encode("<" * 500 + "</thin" * 100):
        place = place.advance(token_id)
        assert place is not None and len(place.tail) < len("</think>")


def test_tokens_without_bytes_of_their_own_are_read_by_their_text():
    tokenizer = make(words_backend())
    assert num_thought(until(tokenizer, ["fox"]), tokenizer.encode("the quick fox jumps")) == 3


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>", True),
        ("<|channel|>final<|message|>", True),
        ("<|channel|>analysis<|message|>final<|channel|>", False),
        ("<|channel|>analysis<|message|>final<|message|>commentary", False),
        ("<|channel|> commentary to=functions.f json<|message|>", True),
        ("<|message|>", False),
        ("<|channel|>final", False),
    ],
)
def test_in_harmony_the_channel_decides(text, ends):
    tokenizer = with_specials(*HARMONY)
    token_ids = tokenizer.encode(text)
    assert num_thought(until_final(tokenizer), token_ids) == (len(token_ids) if ends else None)


def test_the_tokens_of_a_marker_make_it():
    special = with_specials("[/THINK]")
    assert marker_ids(special, "[/THINK]") == (thinking.special_id(special, "[/THINK]"),)
    for tokenizer in TOKENIZERS.values():
        found = marker_ids(tokenizer, "</think>")
        assert num_thought(until(tokenizer, ["</think>"]), list(found)) == len(found)


MARKS = ("<|im_start|>", "<|im_end|>", "[THINK]")


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|im_start|>assistant\n", None),
        ("<|im_start|>assistant\n<think>\n", "open"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "closed"),
        ("<|im_start|>assistant\n</think>", "closed"),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", None),
        ("<|im_start|>user\nWhat is <think><|im_end|>", None),
        ("<|im_start|>assistant\n<think>\nLet me see, " + "and so on " * 1000, "open"),
        ("<|im_start|>assistant\n<think>\nYes.</think>It is", "closed"),
        ("<|im_start|>assistant\n[THINK]Let", "open"),
        ("", None),
    ],
)
def test_what_a_prompt_has_opened_or_closed(prompt, state):
    assert section_at_end(prompt, ["<think>", "[THINK]"], ["</think>", "[/THINK]"], MARKS) == state


def test_without_marks_only_the_very_end_counts():
    assert section_at_end("Q: <think>? A: ", ["<think>"], ["</think>"]) is None
    assert section_at_end("Q: hm? A: <think> \n", ["<think>"], ["</think>"]) == "open"
    assert section_at_end("Q: hm? A: <think></think>\n", ["<think>"], ["</think>"]) == "closed"
