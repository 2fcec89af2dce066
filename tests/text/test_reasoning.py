"""The reasoning ends at the token that completes its closing marker, however the marker is tokenized."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from jaxserve.text.detokenizer import create_detokenizer
from jaxserve.text.dialect import ReasoningDialect
from jaxserve.text.dialects.harmony import HARMONY
from jaxserve.text.dialects.reasoning import GEMMA4, MISTRAL, QWEN3
from jaxserve.text.marked_dialect import MarkedReasoning
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.reasoning import InsideReasoning, ReasoningState
from jaxserve.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import byte_fallback_backend, byte_level_backend, make, words_backend

TOKENIZERS = {
    "byte level": make(byte_level_backend(), "<|im_end|>"),
    "byte fallback": make(byte_fallback_backend(), "</s>"),
}
BYTES = TOKENIZERS["byte level"]
THINK = MarkedReasoning()


def inside(dialect: ReasoningDialect, tokenizer: Tokenizer, *, is_constrained: bool = False) -> ReasoningState:
    return bound(dialect, tokenizer).start_reasoning(tokenizer, inside=True, is_constrained=is_constrained)


def before(dialect: ReasoningDialect, tokenizer: Tokenizer) -> ReasoningState:
    return bound(dialect, tokenizer).start_reasoning(tokenizer, inside=False, is_constrained=False)


def bound(dialect: ReasoningDialect, tokenizer: Tokenizer) -> OutputDialect:
    return OutputDialect.from_dialects(None, dialect, {tokenizer.piece(id): id for id in tokenizer.special_ids})


def num_thought(place: ReasoningState, token_ids: list[int]) -> int | None:
    """How many tokens it takes until the reasoning has ended; None: it has not."""
    for num, token_id in enumerate(token_ids, 1):
        after = place.advance(token_id)
        if after is None:
            return num
        place = after
    return None


def ends(place: ReasoningState, tokenizer: Tokenizer, text: str) -> bool:
    """Whether it ends with the text's last token, and no sooner; else it must not end at all."""
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    found = num_thought(place, token_ids)
    assert found in (None, len(token_ids)), f"{found} of {len(token_ids)} tokens"
    return found is not None


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
    thought=st.text("th<>/ink \né", max_size=12),
    after=st.text("a>k ", max_size=5),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_a_text_ends_it_however_it_is_cut(name, thought, after, cuts):
    tokenizer, marker = TOKENIZERS[name], "</think>"
    token_ids = pieces(tokenizer, thought + marker + after, cuts)
    found = num_thought(inside(THINK, tokenizer), token_ids)
    text, shown = create_detokenizer(tokenizer, (0,), True), ""
    for num, token_id in enumerate(token_ids, 1):
        shown += text.push(token_id)
        assert (marker in shown) == (found is not None and num >= found)


def test_advancing_leaves_a_place_as_it_was():
    first, *rest = pieces(BYTES, "</think>", [3])
    place = inside(THINK, BYTES)
    after = place.advance(first)
    assert isinstance(place, InsideReasoning) and after is not None
    assert num_thought(after, rest) == num_thought(after, rest) == len(rest)
    assert num_thought(place, rest) is None and place.tail == b""


def test_a_call_ends_it_only_where_no_grammar_waits():
    for text, is_end in [("so<tool_call>", True), ("so</think>", True)]:
        assert ends(inside(QWEN3, BYTES), BYTES, text) is is_end
    constrained = inside(QWEN3, BYTES, is_constrained=True)
    assert not ends(constrained, BYTES, "so<tool_call>")
    assert ends(constrained, BYTES, "so<tool_call></think>")


def test_a_special_token_ends_it_and_a_text_like_it_does_not():
    tokenizer = with_specials("[THINK]", "[/THINK]")
    place = inside(MISTRAL, tokenizer)
    spelled = [id for char in "[/THINK]" for id in tokenizer.encode(char)]
    assert num_thought(place, [*spelled, *tokenizer.encode("[/THINK]")]) == len(spelled) + 1


def test_a_state_holds_few_bytes():
    place = inside(THINK, BYTES)
    for token_id in BYTES.encode("<" * 500 + "</thin" * 100):
        place = place.advance(token_id)
        assert isinstance(place, InsideReasoning) and len(place.tail) < len("</think>")


def test_tokens_without_bytes_of_their_own_are_read_by_their_text():
    tokenizer = make(words_backend())
    assert num_thought(inside(replace(THINK, close=("fox",)), tokenizer), tokenizer.encode("the quick fox jumps")) == 3


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("[THINK]Hm.[/THINK]", True),
        (" \n[THINK]Hm.", False),
        ("[THINK", False),
        ("Y", True),
        ("  \n", False),
        ("[/", True),
    ],
)
def test_a_model_may_open_a_section_or_not(text, ended):
    for tokenizer in (BYTES, TOKENIZERS["byte fallback"]):
        assert ends(before(MISTRAL, tokenizer), tokenizer, text) is ended


def test_an_opener_that_is_a_special_token_cannot_be_written_in_other_tokens():
    tokenizer = with_specials("[THINK]", "[/THINK]")
    assert not ends(before(MISTRAL, tokenizer), tokenizer, "[THINK]Hm.")
    assert num_thought(before(MISTRAL, tokenizer), [id for char in "[THINK]" for id in tokenizer.encode(char)]) == 1


def test_whitespace_around_markers_is_free():
    tokenizer = with_specials("<|channel>", "<channel|>")
    assert ends(before(GEMMA4, tokenizer), tokenizer, "<|channel>thought\nHm.<channel|>")


ANALYSIS = "<|channel|>analysis<|message|>So final it is."


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        (ANALYSIS, False),
        (ANALYSIS + "<|end|>", False),
        (ANALYSIS + "<|end|><|start|>assistant" + ANALYSIS, False),
        (ANALYSIS + "<|end|><|start|>assistant<|channel|>final<|message|>", True),
        ("<|channel|>final<|message|>", True),
        ("<|channel|>commentary to=functions.f json<|message|>", True),
        ("<|channel|>final", False),
        ("<|message|>", True),
    ],
)
def test_in_harmony_the_message_decides(text, ended):
    tokenizer = with_specials("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
    assert ends(before(HARMONY, tokenizer), tokenizer, text) is ended
    place = before(HARMONY, tokenizer)
    forced = [*tokenizer.encode(ANALYSIS), *bound(HARMONY, tokenizer).encode_reasoning_end(tokenizer)]
    assert num_thought(place, forced) == len(forced)


def test_the_tokens_of_a_marker_make_it():
    special = with_specials("[THINK]", "[/THINK]")
    assert (
        bound(MISTRAL, special).encode_reasoning_end(special) == tuple(special.encode("[/THINK]"))
        and len(bound(MISTRAL, special).encode_reasoning_end(special)) == 1
    )
    for tokenizer in TOKENIZERS.values():
        found = bound(THINK, tokenizer).encode_reasoning_end(tokenizer)
        assert num_thought(inside(THINK, tokenizer), list(found)) == len(found)


def counted(place: ReasoningState, tokenizer: Tokenizer, text: str) -> list[int]:
    """Places of the tokens that a budget counts."""
    found = []
    for at, token_id in enumerate(tokenizer.encode(text, add_special_tokens=False)):
        if place.is_inside:
            found.append(at)
        after = place.advance(token_id)
        assert after is not None, "the reasoning has ended"
        place = after
    return found


def test_a_budget_counts_from_where_the_section_has_begun():
    tokenizer = with_specials("<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>")
    text = "\n<think>I see."
    num = len(tokenizer.encode(text, add_special_tokens=False))
    assert counted(before(THINK, tokenizer), tokenizer, text) == list(range(2, num))
    assert counted(inside(THINK, tokenizer), tokenizer, "I see.") == list(range(num - 2))
    again = ANALYSIS + "<|end|><|start|>assistant" + ANALYSIS
    header, whole = (
        tokenizer.encode(one, add_special_tokens=False) for one in ("<|channel|>analysis<|message|>", again)
    )
    messages = [*range(len(header), whole.index(tokenizer.encode("<|end|>")[0]) + 1)]
    assert counted(before(HARMONY, tokenizer), tokenizer, again)[: len(messages)] == messages
    assert messages[-1] + 1 not in counted(before(HARMONY, tokenizer), tokenizer, again)
