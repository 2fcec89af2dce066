"""A prompt shows whether the output begins in a reasoning section, whatever users write in it."""

import pytest

from jaxserve.text.prompt_reasoning import find_reasoning_section

MARKERS = ("<|im_start|>", "<|im_end|>", "[THINK]")


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
    assert find_reasoning_section(prompt, ["<think>", "[THINK]"], ["</think>", "[/THINK]"], MARKERS) == state


def test_without_turn_markers_only_the_very_end_counts():
    assert find_reasoning_section("Q: <think>? A: ", ["<think>"], ["</think>"]) is None
    assert find_reasoning_section("Q: hm? A: <think> \n", ["<think>"], ["</think>"]) == "open"
    assert find_reasoning_section("Q: hm? A: <think></think>\n", ["<think>"], ["</think>"]) == "closed"
